"""DiffRec: a diffusion over a user's whole interaction row.

Reference: arXiv:2304.04971, section 3.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.diffusion import (
    PredictionType,
    ScheduleKind,
    diffusion_loss,
    init_loss_history,
    make_noise_schedule,
    noise_for_inference,
    p_sample_loop,
    q_sample,
    sample_timesteps,
    timestep_probabilities,
    update_loss_history,
    x0_denoise_fn,
)
from diffrec_jax.models.folding import (
    can_fold,
    decoding_denoise_fn,
    fold_denoiser,
    folded_denoise_fn,
    folded_noise,
)
from diffrec_jax.models.mlp import ACTIVATIONS, MLPDenoiser
from diffrec_jax.recommenders.base import Recommender
from diffrec_jax.rows import embed, to_dense
from diffrec_jax.typing import Array, Key, Params, RowKeys

TimestepSampling = Literal["importance", "uniform"]


@dataclass(frozen=True)
class DiffRecConfig:
    """Everything that defines a DiffRec but the data; the defaults are the released ones for Amazon-book clean.

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    dims: tuple[int, ...] = (1000,)
    num_timesteps: int = 5
    noise_schedule: ScheduleKind = "linear-var"
    noise_scale: float = 1e-4
    noise_min: float = 5e-4
    noise_max: float = 5e-3
    beta_fixed: bool = True
    prediction_type: PredictionType = "x0"
    reweight: bool = True
    timestep_sampling: TimestepSampling = "importance"
    time_embedding_size: int = 10
    activation: str = "tanh"
    normalize: bool = False
    dropout: float = 0.5
    num_inference_noise_steps: int = 0
    sampling_noise: bool = False
    folded: bool = True
    """Score in the hidden space where that is exact: x_0 prediction without input normalisation."""

    def __post_init__(self) -> None:
        """Checks every value."""
        for name, kind in (
            ("noise_schedule", ScheduleKind),
            ("prediction_type", PredictionType),
            ("timestep_sampling", TimestepSampling),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(get_args(kind))}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"dims must be one or more positive layer sizes, got {list(self.dims)}")
        if self.time_embedding_size < 1:
            raise ValueError(f"time_embedding_size must be at least 1, got {self.time_embedding_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.num_inference_noise_steps <= self.num_timesteps:
            raise ValueError(
                f"inference noise steps T' must be between 0 and T = {self.num_timesteps}, "
                f"got {self.num_inference_noise_steps}"
            )
        self.make_schedule()

    def make_schedule(self):
        """The noise schedule."""
        return make_noise_schedule(
            self.noise_schedule,
            num_timesteps=self.num_timesteps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=self.beta_fixed,
        )


def _fold_each(row_keys: RowKeys, data: int | Array) -> RowKeys:
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(row_keys)


def make_diffrec(config: DiffRecConfig, num_items: int) -> Recommender:
    """The functions of a DiffRec over ``num_items`` items."""
    schedule = config.make_schedule()
    model = MLPDenoiser(
        num_items=num_items,
        dims=config.dims,
        time_embedding_size=config.time_embedding_size,
        activation=config.activation,
        normalize=config.normalize,
        dropout=config.dropout,
    )
    fold = config.folded and config.prediction_type == "x0" and can_fold(model)
    draws_noise = config.sampling_noise or config.num_inference_noise_steps > 0

    def row_normals(row_keys: RowKeys) -> Array:
        return jax.vmap(lambda key: jax.random.normal(key, (num_items,)))(row_keys)

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros((1, num_items)), jnp.zeros(1, jnp.int32))

    def loss_fn(params: Params, history: Any, batch: RowBatch, row_keys: RowKeys, step: Array):
        del step
        timestep_keys, noise_keys, dropout_keys = (_fold_each(row_keys, place) for place in range(3))
        probabilities = timestep_probabilities(history)
        if config.timestep_sampling == "uniform":
            probabilities = jnp.full_like(probabilities, 1.0 / config.num_timesteps)
        t, importance_weight = jax.vmap(lambda key: sample_timesteps(key, probabilities))(timestep_keys)
        x_0 = to_dense(batch, num_items)
        noise = row_normals(noise_keys)
        x_t = q_sample(schedule, x_0, t, noise)
        prediction: Array = model.apply(params, x_t, t, dropout_keys)  # type: ignore[assignment]
        losses = diffusion_loss(
            schedule,
            prediction,
            x_0,
            x_t,
            noise,
            t,
            prediction_type=config.prediction_type,
            reweight=config.reweight,
        )
        return losses * importance_weight, (t, losses)

    def update_model_state(history: Any, info: tuple[Array, Array], row_mask: Array):
        t, losses = info
        return update_loss_history(history, t, losses, row_mask)

    def prepare_scoring(params: Params):
        return params, fold_denoiser(params, with_noise=draws_noise) if fold else None

    def score_fn(scoring_state: Any, batch: RowBatch, row_keys: RowKeys) -> Array:
        params, folded = scoring_state
        final_denoise_fn = None
        if folded is not None:
            x_0 = embed(batch, params["params"]["item_kernel"])
            denoise_fn = folded_denoise_fn(model, params, folded)
            final_denoise_fn = decoding_denoise_fn(model, params)

            def noise_fn(t: Array) -> Array:
                return folded_noise(folded, row_keys, t)
        else:
            x_0 = to_dense(batch, num_items)

            def network(x_t: Array, t: Array) -> Array:
                return model.apply(params, x_t, t)  # type: ignore[return-value]

            denoise_fn = network if config.prediction_type == "x0" else x0_denoise_fn(schedule, network)

            def noise_fn(t: Array) -> Array:
                return row_normals(_fold_each(row_keys, t))

        x_T = noise_for_inference(schedule, x_0, config.num_inference_noise_steps, noise_fn)
        return p_sample_loop(
            schedule,
            denoise_fn,
            x_T,
            noise_fn=noise_fn if config.sampling_noise else None,
            final_denoise_fn=final_denoise_fn,
        )

    return Recommender(
        init_params=init_params,
        init_model_state=lambda: init_loss_history(config.num_timesteps),
        loss_fn=loss_fn,
        update_model_state=update_model_state,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
    )
