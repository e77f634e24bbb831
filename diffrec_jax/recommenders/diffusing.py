"""What DiffRec does over a row of items and L-DiffRec over a latent vector: the diffusion, its loss, its sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.diffusion import (
    BERNOULLI,
    GAUSSIAN,
    NOISE_LAWS,
    ErrorFn,
    LossHistory,
    NoiseSchedule,
    PredictionType,
    Process,
    ScheduleKind,
    additive_process,
    diffusion_loss,
    make_noise_schedule,
    mean_squared_error,
    noise_for_inference,
    p_sample_loop,
    predict_x0,
    sample_timesteps,
    timestep_probabilities,
    update_loss_history,
    x0_denoise_fn,
)
from diffrec_jax.models.mlp import ACTIVATIONS, MLPDenoiser
from diffrec_jax.recommenders.linear_denoiser import LinearFit, linear_factors_bytes
from diffrec_jax.rows import fold_each, num_entries, threefry2x32_keys
from diffrec_jax.settings import check_choice, check_settings, setting
from diffrec_jax.typing import Array, DenoiseFn, NoiseFn, Params, RowKeys

TimestepSampling = Literal["importance", "uniform"]


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion and its denoiser, whatever space they are in.

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    less_memory: ClassVar[str] = "leave the linear part out (linear_rank 0, autoencoder trained)"
    dims: tuple[int, ...] = setting((1000,), "Hidden layer sizes of the way out: 200,600 is items-600-200-600-items.")
    num_timesteps: int = setting(5, "T, diffusion steps.", at_least=1, aliases=("steps",))
    noise_schedule: ScheduleKind = setting("linear-var", "How the noise grows with t.")
    noise_scale: float = setting(
        1e-4, "s, scale of the noise; 0: none, an autoencoder that is applied T times: take T = 1.", at_least=0
    )
    noise_min: float = setting(5e-4, "Noise variance at the first step, before the scale.")
    noise_max: float = setting(5e-3, "Noise variance at the last step, before the scale.")
    noise_law: str = setting(
        GAUSSIAN,
        f"Distribution of the noise, of variance 1, in training and at inference: {', '.join(NOISE_LAWS)}. Or, not for "
        f"latent vectors, {BERNOULLI}: entries are drawn anew, as 0 or 1; the noise's variance is the share of these.",
    )
    beta_fixed: bool = setting(True, "Replace the first beta by 1e-5.")
    prediction_type: PredictionType = setting("x0", "What the network predicts.", aliases=("mean_type",))
    reweight: bool = setting(
        True,
        f"Weight the loss of step t by SNR(t-1) - SNR(t); with noise_law {BERNOULLI} by the share of the entries drawn "
        "anew that step t drew.",
    )
    timestep_sampling: TimestepSampling = setting("importance", "How t is drawn in training.")
    time_embedding_size: int = setting(10, "Size of the timestep embedding.", at_least=1, aliases=("emb_size",))
    activation: str = setting("tanh", "Activation of the hidden layers.", choices=tuple(ACTIVATIONS))
    normalize: bool = setting(False, "Divide the input row by its Euclidean length.", aliases=("norm",))
    dropout: float = setting(0.5, "Rate of the dropout of the input.", at_least=0, below=1)
    num_inference_noise_steps: int = setting(
        0, "T', steps of forward noise at inference; all T are reversed.", at_least=0, aliases=("sampling_steps",)
    )
    sampling_noise: bool = setting(False, "Draw noise in the reverse steps.")
    observed_error_weight: float = setting(
        1.0,
        "Weight of the squared error at observed items that dropout left in the input; 0: learn only from the items "
        "that dropout took.",
        at_least=0,
    )
    user_weight_power: float = setting(
        0.0, "A user of n items weighs n to this power in the loss and in a linear fit.", at_least=0
    )
    linear_l2: float = setting(1000.0, "L2 regularisation of the fitted linear part.", above=0)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        check_choice("noise_law", self.noise_law, (*NOISE_LAWS, BERNOULLI))
        if self.num_inference_noise_steps > self.num_timesteps:
            raise ValueError(
                f"inference noise steps T' must be between 0 and T = {self.num_timesteps}, "
                f"got {self.num_inference_noise_steps}"
            )
        if self.noise_scale == 0 and self.prediction_type == "epsilon":
            raise ValueError("noise_scale 0 leaves no noise to predict: use x_0 prediction")
        self.make_schedule()

    @property
    def has_linear_part(self) -> bool:
        """Whether training starts from a fitted linear denoiser."""
        return False

    @property
    def holds_params(self) -> bool:
        """Whether the linear part is held within arrays that are trained."""
        return self.has_linear_part

    def linear_bytes(self, train: sparse.csr_array) -> int:
        """What fitting the linear part takes at its peak, 0 without one."""
        return linear_factors_bytes(train) if self.has_linear_part else 0

    @property
    def draws_inference_noise(self) -> bool:
        """Whether scoring draws anything."""
        return self.sampling_noise or self.num_inference_noise_steps > 0

    def make_schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        return make_noise_schedule(
            self.noise_schedule,
            num_timesteps=self.num_timesteps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=self.beta_fixed,
        )

    def make_process(self) -> Process:
        """How vectors are noised, and the reverse step."""
        return additive_process(NOISE_LAWS[self.noise_law])

    def draw_noise(self, process: Process, row_keys: RowKeys, width: int) -> Array:
        """What the process takes as noise [B, width], each row's from its own key."""
        if self.noise_law != GAUSSIAN:
            row_keys = threefry2x32_keys(row_keys)  # a law may split its key
        return jax.vmap(lambda key: process.draw(key, (width,)))(row_keys)

    def linear_fit(self, dropout: float) -> LinearFit:
        """How a linear part is fitted to rows from which dropout takes items at this rate."""
        return LinearFit(self.linear_l2, dropout, self.user_weight_power)

    def make_denoiser(self, width: int, **options: Any) -> MLPDenoiser:
        """The network over vectors of ``width``."""
        return MLPDenoiser(
            width=width,
            dims=self.dims,
            time_embedding_size=self.time_embedding_size,
            activation=self.activation,
            normalize=self.normalize,
            dropout=self.dropout,
            **options,
        )


def check_something_is_learnt(dropout: float, observed_error_weight: float) -> None:
    """Raises ValueError where no error at an observed item counts."""
    if not (dropout or observed_error_weight):
        raise ValueError("observed_error_weight 0 leaves no item to learn without dropout: set one of them above 0")


def row_normals(row_keys: RowKeys, width: int) -> Array:
    """Standard normal noise [B, width], each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, (width,)))(row_keys)


def weigh_users(power: float, losses: Array, batch: RowBatch, num_items: int) -> Array:
    """Losses [B], each times its user's number of items to a power."""
    return losses * num_entries(batch, num_items).astype(losses.dtype) ** power if power else losses


TIMESTEP_PLACE, NOISE_PLACE, DROPOUT_PLACE = range(3)  # of the keys that a row's key is folded with


def uniform_timesteps(keys: RowKeys, num_timesteps: int) -> Array:
    """A timestep for each key [B], every one as likely, from 0 to T - 1, int32."""
    bits = jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys)
    return (bits % num_timesteps).astype(jnp.int32)


def draw_timesteps(config: DiffusionConfig, history: LossHistory, row_keys: RowKeys) -> tuple[Array, Array]:
    """A timestep for each row [B], and the weight of its loss [B]."""
    probabilities = timestep_probabilities(history)
    if config.timestep_sampling == "uniform":
        probabilities = jnp.full_like(probabilities, 1.0 / config.num_timesteps)
    return jax.vmap(lambda key: sample_timesteps(key, probabilities))(fold_each(row_keys, TIMESTEP_PLACE))


class DiffusionTerms(NamedTuple):
    """What the diffusion contributes to a training step."""

    losses: Array
    """[B], weighted by importance: their mean is an estimate of the mean over t."""
    x_0_hat: Array
    """[B, D], the prediction, in the form that ``error_fn`` takes."""
    info: tuple[Array, Array]
    """(t [B], losses [B] before the importance weight): what the loss history takes."""


def diffusion_terms(
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    process: Process,
    model: MLPDenoiser,
    params: Params,
    history: LossHistory,
    x_0: Array,
    row_keys: RowKeys,
    *,
    target: Array | None = None,
    item_weights: Array | None = None,
    error_fn: ErrorFn = mean_squared_error,
) -> DiffusionTerms:
    """Noises x_0 [B, D] to a drawn timestep, predicts, and compares with ``target`` (default: x_0).

    ``item_weights`` [B, D] weigh the errors of an x_0 prediction, which ``error_fn`` takes.

    Reference: arXiv:2304.04971, algorithm 1.
    """
    if target is not None and config.prediction_type != "x0":
        raise ValueError("targets that differ from the rows need x_0 prediction: the noise does not tell of them")
    noise_keys, dropout_keys = (fold_each(row_keys, place) for place in (NOISE_PLACE, DROPOUT_PLACE))
    t, importance_weight = draw_timesteps(config, history, row_keys)
    noise = config.draw_noise(process, noise_keys, x_0.shape[1])
    x_t = process.q_sample(schedule, x_0, t, noise)
    prediction: Array = model.apply(params, x_t, t, dropout_keys)  # type: ignore[assignment]
    losses = diffusion_loss(
        schedule,
        prediction,
        x_0 if target is None else target,
        x_t,
        noise,
        t,
        prediction_type=config.prediction_type,
        reweight=config.reweight,
        item_weights=item_weights,
        error_fn=error_fn,
    )
    x_0_hat = prediction if config.prediction_type == "x0" else predict_x0(schedule, x_t, t, prediction)
    return DiffusionTerms(losses * importance_weight, x_0_hat, (t, losses))


def update_history(history: LossHistory, info: tuple[Array, Array], row_mask: Array) -> LossHistory:
    """The history after a batch."""
    t, losses = info
    return update_loss_history(history, t, losses, row_mask)


def denoise(
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    process: Process,
    denoise_fn: DenoiseFn,
    x_0: Array,
    noise_fn: NoiseFn,
    *,
    final_denoise_fn: DenoiseFn | None = None,
) -> Array:
    """Inference: T' steps of noise on x_0, then all reverse steps.

    Reference: arXiv:2304.04971, algorithm 2.
    """
    num_noise_steps = config.num_inference_noise_steps
    x_T = noise_for_inference(schedule, x_0, num_noise_steps, noise_fn, q_sample=process.q_sample)
    return p_sample_loop(
        schedule,
        denoise_fn,
        x_T,
        noise_fn=noise_fn if config.sampling_noise else None,
        p_sample=process.p_sample,
        final_denoise_fn=final_denoise_fn,
    )


def plain_denoise(
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    process: Process,
    model: MLPDenoiser,
    params: Params,
    x_0: Array,
    row_keys: RowKeys,
    *,
    mean_fn: Callable[[Array], Array] = lambda output: output,
) -> Array:
    """``denoise`` with the network itself, in the space of x_0 [B, D]; ``mean_fn`` of its output is the prediction."""

    def network(x_t: Array, t: Array) -> Array:
        return mean_fn(model.apply(params, x_t, t))  # type: ignore[arg-type]

    def noise_fn(t: Array) -> Array:
        return config.draw_noise(process, fold_each(row_keys, t), x_0.shape[1])

    denoise_fn = network if config.prediction_type == "x0" else x0_denoise_fn(schedule, network)
    return denoise(config, schedule, process, denoise_fn, x_0, noise_fn)
