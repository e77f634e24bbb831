"""DiffRec: a diffusion over a user's whole interaction row. T-DiffRec is the same with rows weighted by recency.

Reference: arXiv:2304.04971, section 3.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.diffusion import LossHistory, init_loss_history
from diffrec_jax.models.folding import (
    FoldedDenoiser,
    can_fold,
    decoding_denoise_fn,
    fold_denoiser,
    folded_denoise_fn,
    folded_noise,
)
from diffrec_jax.recommenders.base import Clock, Recommender
from diffrec_jax.recommenders.diffusing import DiffusionConfig, denoise, diffusion_terms, plain_denoise, update_history
from diffrec_jax.rows import embed, targets, to_dense
from diffrec_jax.typing import Array, Key, Params, RowKeys


@dataclass(frozen=True)
class DiffRecConfig(DiffusionConfig):
    """Everything that defines a DiffRec but the data; the defaults are the released ones for Amazon-book clean."""

    folded: bool = True
    """Score in the hidden space where that is exact: x_0 prediction without input normalisation."""


def make_diffrec(config: DiffRecConfig, num_items: int) -> Recommender:
    """The functions of a DiffRec over ``num_items`` items."""
    schedule = config.make_schedule()
    model = config.make_denoiser(num_items)
    fold = config.folded and config.prediction_type == "x0" and can_fold(model)

    def init_params(key: Key) -> Params:
        return model.init(key, jnp.zeros((1, num_items)), jnp.zeros(1, jnp.int32))

    def loss_fn(params: Params, history: LossHistory, batch: RowBatch, row_keys: RowKeys, clock: Clock):
        del clock
        x_0 = to_dense(batch, num_items)
        target = None if batch.target_weights is None else to_dense(targets(batch), num_items)
        terms = diffusion_terms(config, schedule, model, params, history, x_0, row_keys, target=target)
        return terms.losses, terms.info

    def prepare_scoring(params: Params) -> tuple[Params, FoldedDenoiser | None]:
        return params, fold_denoiser(params, with_noise=config.draws_inference_noise) if fold else None

    def score_fn(scoring_state: tuple[Params, FoldedDenoiser | None], batch: RowBatch, row_keys: RowKeys) -> Array:
        params, folded = scoring_state
        if folded is None:
            return plain_denoise(config, schedule, model, params, to_dense(batch, num_items), row_keys)
        return denoise(
            config,
            schedule,
            folded_denoise_fn(model, params, folded),
            embed(batch, params["params"]["input_kernel"]),
            lambda t: folded_noise(folded, row_keys, t),
            final_denoise_fn=decoding_denoise_fn(model, params),
        )

    return Recommender(
        init_params=init_params,
        init_model_state=lambda: init_loss_history(config.num_timesteps),
        loss_fn=loss_fn,
        update_model_state=update_history,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
    )
