"""L-DiffRec: a grouped variational autoencoder around a diffusion over its latent vectors.

LT-DiffRec is the same with rows weighted by recency.

Reference: arXiv:2304.04971, L-DiffRec and LT-DiffRec, and the settings of its released experiments.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.interactions import csr_from_pairs
from diffrec_jax.diffusion import LossHistory, init_loss_history
from diffrec_jax.models.grouped_vae import GroupedVAE, split_size
from diffrec_jax.models.likelihood import gaussian_kl
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders.base import Clock, Recommender
from diffrec_jax.recommenders.checks import check_at_least, check_choice, check_rate, check_sizes
from diffrec_jax.recommenders.diffusing import (
    DiffusionConfig,
    diffusion_terms,
    plain_denoise,
    row_normals,
    update_history,
)
from diffrec_jax.rows import dropout_entries, fold_each, normalise_rows, targets
from diffrec_jax.typing import Array, Key, Params, RowKeys

ENCODER_DROPOUT_PLACE, LATENT_PLACE = 3, 4  # of the keys; the diffusion's own come before


@dataclass(frozen=True)
class LDiffRecConfig(DiffusionConfig):
    """Everything that defines an L-DiffRec but the data and the item groups.

    ``dims`` are the denoiser's (the released ``mlp_dims``); the defaults are the released settings for Amazon-book
    clean.
    """

    dims: tuple[int, ...] = (300,)
    noise_scale: float = 0.5
    noise_min: float = 0.001
    noise_max: float = 0.005
    beta_fixed: bool = False
    in_dims: tuple[int, ...] = (300,)
    """Layers of the encoders, all groups together; the last one is the size of the latent vector."""
    out_dims: tuple[int, ...] = ()
    """Layers of the decoders before the output; () for one linear decoder of all groups."""
    encoder_activation: str = "tanh"
    encoder_normalize: bool = False
    """Divide a row by its Euclidean length before dropout and encoders, as MultiDAE does."""
    encoder_dropout: float = 0.1
    reparameterize: bool = True
    """Diffuse a draw from the encoder's distribution in training, not its mean."""
    reconstruct_dropped: bool = True
    """Reconstruct the row as dropout left it, as released, not the whole row."""
    diffusion_loss_weight: float = 0.05
    """lambda: multiplies the diffusion's loss with ``reweight``, the autoencoder's without."""
    diffusion_loss_weight_min: float = 0.005
    diffusion_loss_weight_epochs: int = 500
    """lambda falls as 1 - epoch / this; 0 for a constant."""
    kl_weight: float = 0.3
    """gamma."""
    kl_weight_steps: int = 200
    """gamma rises as step / this; 0 for a constant."""

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_choice("encoder_activation", self.encoder_activation, tuple(ACTIVATIONS))
        check_sizes("in_dims", self.in_dims)
        if self.out_dims:
            check_sizes("out_dims", self.out_dims)
        check_rate("encoder_dropout", self.encoder_dropout)
        check_at_least(
            0,
            diffusion_loss_weight=self.diffusion_loss_weight,
            diffusion_loss_weight_min=self.diffusion_loss_weight_min,
            diffusion_loss_weight_epochs=self.diffusion_loss_weight_epochs,
            kl_weight=self.kl_weight,
            kl_weight_steps=self.kl_weight_steps,
        )


def annealed_diffusion_weight(config: LDiffRecConfig, epoch: Array) -> Array:
    """lambda in an epoch: max((1 - (epoch + 1) / epochs) lambda, minimum); the released scripts count epochs from 1."""
    epochs = config.diffusion_loss_weight_epochs
    share = 1.0 - (epoch + 1) / epochs if epochs else jnp.ones(())
    return jnp.maximum(share * config.diffusion_loss_weight, config.diffusion_loss_weight_min)


def annealed_kl_weight(config: LDiffRecConfig, step: Array) -> Array:
    """gamma at a step (0-based): min(its maximum, step / steps)."""
    share = step / config.kl_weight_steps if config.kl_weight_steps else jnp.inf
    return jnp.minimum(config.kl_weight, share)


def mix_losses(config: LDiffRecConfig, diffusion: Array, nll: Array, kl: Array, clock: Clock) -> Array:
    """The loss per row [B]: lambda diffusion + (nll + gamma kl) with ``reweight``, diffusion + lambda (...) without."""
    autoencoder = nll + annealed_kl_weight(config, clock.step) * kl
    weight = annealed_diffusion_weight(config, clock.epoch)
    return weight * diffusion + autoencoder if config.reweight else diffusion + weight * autoencoder


def make_l_diffrec(config: LDiffRecConfig, item_groups: np.ndarray) -> Recommender:
    """The functions of an L-DiffRec over items of the given groups [I], numbered from 0 without gaps.

    Raises:
      ValueError: a layer is too narrow for the number of groups.
    """
    for size in (*config.in_dims, *config.out_dims):
        split_size(size, tuple(np.bincount(item_groups).tolist()))  # complains before anything is made
    schedule = config.make_schedule()
    autoencoder = GroupedVAE(
        item_groups=item_groups,
        in_dims=config.in_dims,
        out_dims=config.out_dims,
        activation=config.encoder_activation,
    )
    latent_size = config.in_dims[-1]
    denoiser = config.make_denoiser(latent_size, bias_stddev=0.0)

    def init_params(key: Key) -> Params:
        autoencoder_key, denoiser_key = jax.random.split(key)
        one_row = make_row_batch(csr_from_pairs(np.zeros((1, 2), np.int64), 1, len(item_groups)), np.zeros(1))
        return {
            "autoencoder": autoencoder.init(autoencoder_key, one_row),
            "denoiser": denoiser.init(denoiser_key, jnp.zeros((1, latent_size)), jnp.zeros(1, jnp.int32)),
        }

    def normalised(batch: RowBatch) -> RowBatch:
        return normalise_rows(batch) if config.encoder_normalize else batch

    def encode(params: Params, batch: RowBatch) -> tuple[Array, Array]:
        return autoencoder.apply(params["autoencoder"], batch, method="encode")  # type: ignore[return-value]

    def loss_fn(params: Params, history: LossHistory, batch: RowBatch, row_keys: RowKeys, clock: Clock):
        row = normalised(batch._replace(target_weights=targets(batch).weights))
        dropped = dropout_entries(row, fold_each(row_keys, ENCODER_DROPOUT_PLACE), config.encoder_dropout)
        mean, log_variance = encode(params, dropped)
        z_0 = mean
        if config.reparameterize:
            z_0 = mean + jnp.exp(0.5 * log_variance) * row_normals(fold_each(row_keys, LATENT_PLACE), latent_size)
        terms = diffusion_terms(config, schedule, denoiser, params["denoiser"], history, z_0, row_keys)
        reconstructed = targets(dropped if config.reconstruct_dropped else batch)
        nll: Array = autoencoder.apply(params["autoencoder"], terms.x_0_hat, reconstructed, method="decoded_nll")  # type: ignore[assignment]
        return mix_losses(config, terms.losses, nll, gaussian_kl(mean, log_variance), clock), terms.info

    def prepare_scoring(params: Params) -> dict[str, Any]:
        return params | {"table": autoencoder.apply(params["autoencoder"], method="output_table")}

    def score_fn(scoring_state: dict[str, Any], batch: RowBatch, row_keys: RowKeys) -> Array:
        mean, _ = encode(scoring_state, normalised(batch))
        z_0 = plain_denoise(config, schedule, denoiser, scoring_state["denoiser"], mean, row_keys)
        return autoencoder.apply(scoring_state["autoencoder"], z_0, scoring_state["table"], method="decode")  # type: ignore[return-value]

    return Recommender(
        init_params=init_params,
        init_model_state=lambda: init_loss_history(config.num_timesteps),
        loss_fn=loss_fn,
        update_model_state=update_history,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
        denoiser_params="denoiser",
    )
