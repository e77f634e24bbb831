"""L-DiffRec: a grouped variational autoencoder around a diffusion over its latent vectors.

LT-DiffRec is the same with rows weighted by recency.

Reference: arXiv:2304.04971, L-DiffRec and LT-DiffRec, and the settings of its released experiments.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.matrices import csr_from_pairs
from diffrec_jax.diffusion import BERNOULLI, LossHistory, init_loss_history
from diffrec_jax.models.grouped_vae import GroupedVAE, split_size
from diffrec_jax.models.likelihood import gaussian_kl, squared_error
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import (
    DiffusionConfig,
    check_something_is_learnt,
    diffusion_terms,
    plain_denoise,
    row_normals,
    update_history,
    weigh_users,
)
from diffrec_jax.recommenders.linear_denoiser import FitLinear, LinearFactors
from diffrec_jax.rows import dropout_entries, fold_each, normalise_rows, targets
from diffrec_jax.settings import setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

AutoencoderKind = Literal["trained", "linear"]

ENCODER_DROPOUT_PLACE, LATENT_PLACE = 3, 4  # of the keys; the diffusion's own come before


@dataclass(frozen=True)
class LDiffRecConfig(DiffusionConfig):
    """Everything that defines an L-DiffRec but the data and the item groups.

    ``dims`` are the denoiser's (the released ``mlp_dims``); the defaults are the released settings for Amazon-book
    clean.
    """

    dims: tuple[int, ...] = setting(
        (300,), "Hidden layer sizes of the latent denoiser's way out.", aliases=("mlp_dims",)
    )
    noise_scale: float = setting(
        0.5, "s, scale of the noise; 0: none, an autoencoder that is applied T times: take T = 1.", at_least=0
    )
    noise_min: float = setting(0.001, "Noise variance at the first step, before the scale.")
    noise_max: float = setting(0.005, "Noise variance at the last step, before the scale.")
    beta_fixed: bool = setting(False, "Replace the first beta by 1e-5.")
    in_dims: tuple[int, ...] = setting(
        (300,), "Encoder layers of all groups together; the last is the size of the latent vector."
    )
    out_dims: tuple[int, ...] = setting(
        (), "Decoder layers before the output; empty: one linear decoder of all groups.", may_be_empty=True
    )
    encoder_activation: str = setting("tanh", "Activation of the autoencoder's layers.", choices=tuple(ACTIVATIONS))
    encoder_normalize: bool = setting(False, "Divide a row by its Euclidean length before dropout and encoders.")
    encoder_dropout: float = setting(0.1, "Rate of the dropout of the encoders' input.", at_least=0, below=1)
    reparameterize: bool = setting(
        True, "Diffuse a draw from the encoder's distribution in training, not its mean.", aliases=("reparam",)
    )
    reconstruct_dropped: bool = setting(
        True, "Reconstruct the row as dropout left it, as the released code does, not the whole row."
    )
    diffusion_loss_weight: float = setting(
        0.05,
        "lambda: multiplies the diffusion's loss (without reweight: the autoencoder's).",
        at_least=0,
        aliases=("lamda",),
    )
    diffusion_loss_weight_min: float = setting(0.005, "lambda does not fall below this.", at_least=0)
    diffusion_loss_weight_epochs: int = setting(500, "lambda falls as 1 - epoch / this; 0: constant.", at_least=0)
    kl_weight: float = setting(0.3, "gamma, weight of the KL divergence.", at_least=0, aliases=("anneal_cap",))
    kl_weight_steps: int = setting(
        200,
        "The KL weight rises by 1 / this a step to its maximum; 0: constant.",
        at_least=0,
        aliases=("anneal_steps",),
    )
    autoencoder: AutoencoderKind = setting(
        "trained",
        "trained, or linear: a fitted linear denoiser of rank in_dims that is not trained further; the fit takes 44 "
        "bytes for each pair of items.",
    )
    likelihood: Literal["multinomial", "gaussian"] = setting(
        "multinomial", "Likelihood of the row, given the decoded prediction."
    )
    residual: bool = setting(False, "The latent denoiser predicts z_t plus its network's output, which starts at 0.")

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_something_is_learnt(self.encoder_dropout, self.observed_error_weight)
        if self.noise_law == BERNOULLI:
            raise ValueError(f"noise_law {BERNOULLI} is for rows of 0 and 1: take another, or DiffRec")
        if self.observed_error_weight != 1 and (self.likelihood != "gaussian" or self.reconstruct_dropped):
            raise ValueError(
                "observed_error_weight weighs squared errors of whole rows: it needs the gaussian likelihood, without "
                "reconstruct_dropped"
            )
        if self.has_linear_part:
            self._check_linear_autoencoder()

    @property
    def has_linear_part(self) -> bool:
        """Whether training starts from a fitted linear denoiser."""
        return self.autoencoder == "linear"

    def _check_linear_autoencoder(self) -> None:
        if len(self.in_dims) != 1 or self.out_dims or self.encoder_activation != "identity":
            raise ValueError(
                "the linear autoencoder has one layer each way without activation: give one size as in_dims, no "
                f"out_dims and encoder_activation identity, not {list(self.in_dims)}, {list(self.out_dims)} and "
                f"{self.encoder_activation}"
            )
        if self.reparameterize or self.encoder_normalize:
            raise ValueError(
                "the linear autoencoder has no variance and takes rows as they are: leave reparameterize and "
                "encoder_normalize out"
            )


def annealed_diffusion_weight(config: LDiffRecConfig, epoch: Array) -> Array:
    """lambda in an epoch: max((1 - (epoch + 1) / epochs) lambda, minimum), never above lambda.

    The released scripts count epochs from 1.
    """
    epochs = config.diffusion_loss_weight_epochs
    share = 1.0 - (epoch + 1) / epochs if epochs else jnp.ones(())
    least = min(config.diffusion_loss_weight, config.diffusion_loss_weight_min)
    return jnp.maximum(share * config.diffusion_loss_weight, least)


def annealed_kl_weight(config: LDiffRecConfig, step: Array) -> Array:
    """gamma at a step (0-based): min(its maximum, step / steps)."""
    share = step / config.kl_weight_steps if config.kl_weight_steps else jnp.inf
    return jnp.minimum(config.kl_weight, share)


def mix_losses(config: LDiffRecConfig, diffusion: Array, nll: Array, kl: Array, context: StepContext) -> Array:
    """The loss per row [B]: lambda diffusion + (nll + gamma kl) with ``reweight``, diffusion + lambda (...) without."""
    autoencoder = nll + annealed_kl_weight(config, context.step) * kl
    weight = annealed_diffusion_weight(config, context.epoch)
    return weight * diffusion + autoencoder if config.reweight else diffusion + weight * autoencoder


def with_linear_autoencoder(params: Params, factors: LinearFactors, item_groups: np.ndarray) -> Params:
    """Parameters of a GroupedVAE of one layer each way that encodes and decodes as the factors do."""
    own = dict(params["params"])
    for group, encoder in enumerate(factors.encoders):
        own[f"encoder_{group}_0_kernel"] = np.concatenate([encoder, np.zeros_like(encoder)], axis=1)
        own[f"output_{group}_table"] = factors.decoder[item_groups == group]
    return params | {"params": own}


def _check_layers(config: LDiffRecConfig, group_sizes: tuple[int, ...], fit_linear: FitLinear | None) -> None:
    """Raises ValueError for what cannot be made, before anything is."""
    if config.has_linear_part and fit_linear is None:
        raise ValueError("the linear autoencoder needs fit_linear: where it comes from")
    num_items = sum(group_sizes)
    if config.has_linear_part and config.in_dims[0] > num_items:
        raise ValueError(f"a linear autoencoder of {num_items} items has no {config.in_dims[0]} dimensions (in_dims)")
    for size in (*config.in_dims, *config.out_dims):
        split_size(size, group_sizes)


def negative_log_likelihood(
    config: LDiffRecConfig,
    autoencoder: GroupedVAE,
    params: Params,
    z_0: Array,
    reconstructed: RowBatch,
    dropped: RowBatch,
) -> Array:
    """Of the rows to reconstruct, given latent vectors z_0 [B, L], [B]; ``dropped`` is what dropout left of them."""
    if config.likelihood == "multinomial":
        return autoencoder.apply(params, z_0, reconstructed, method="decoded_nll")  # type: ignore[return-value]
    prediction: Array = autoencoder.apply(params, z_0, method="decode")  # type: ignore[assignment]
    return squared_error(prediction, reconstructed, shown=dropped, shown_weight=config.observed_error_weight)


def make_l_diffrec(config: LDiffRecConfig, item_groups: np.ndarray, fit_linear: FitLinear | None = None) -> Recommender:
    """The functions of an L-DiffRec over items of the given groups [I], numbered from 0 without gaps.

    ``fit_linear`` for the linear autoencoder.

    Raises:
      ValueError: a layer is too narrow for the number of groups, or nothing fits the linear autoencoder.
    """
    group_sizes = tuple(np.bincount(item_groups).tolist())
    _check_layers(config, group_sizes, fit_linear)
    schedule, process = config.make_schedule(), config.make_process()
    autoencoder = GroupedVAE(
        item_groups=item_groups,
        in_dims=config.in_dims,
        out_dims=config.out_dims,
        activation=config.encoder_activation,
    )
    latent_size = config.in_dims[-1]
    denoiser = config.make_denoiser(latent_size, bias_stddev=0.0, residual=config.residual)

    def init_params(key: Key) -> Params:
        # Behind a barrier, or XLA compiles the split into every draw.
        autoencoder_key, denoiser_key = jax.lax.optimization_barrier(jax.random.split(key))
        one_row = make_row_batch(csr_from_pairs(np.zeros((1, 2), np.int64), 1, len(item_groups)), np.zeros(1))
        return {
            "autoencoder": autoencoder.init(autoencoder_key, one_row),
            "denoiser": denoiser.init(denoiser_key, jnp.zeros((1, latent_size)), jnp.zeros(1, jnp.int32)),
        }

    def warm_start(params: Params) -> Params:
        assert fit_linear is not None
        ranks = split_size(latent_size, group_sizes)
        fitted = fit_linear(item_groups, ranks, config.linear_fit(config.encoder_dropout))
        return params | {"autoencoder": with_linear_autoencoder(params["autoencoder"], fitted, item_groups)}

    def normalised(batch: RowBatch) -> RowBatch:
        return normalise_rows(batch) if config.encoder_normalize else batch

    def encode(params: Params, batch: RowBatch) -> tuple[Array, Array]:
        return autoencoder.apply(params["autoencoder"], batch, method="encode")  # type: ignore[return-value]

    def loss_fn(params: Params, history: LossHistory, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        if config.has_linear_part:
            params = params | {"autoencoder": jax.lax.stop_gradient(params["autoencoder"])}
        row = normalised(batch._replace(target_weights=targets(batch).weights))
        dropped = dropout_entries(row, fold_each(row_keys, ENCODER_DROPOUT_PLACE), config.encoder_dropout)
        mean, log_variance = encode(params, dropped)
        z_0 = mean
        if config.reparameterize:
            z_0 = mean + jnp.exp(0.5 * log_variance) * row_normals(fold_each(row_keys, LATENT_PLACE), latent_size)
        terms = diffusion_terms(config, schedule, process, denoiser, params["denoiser"], history, z_0, row_keys)
        reconstructed = targets(dropped if config.reconstruct_dropped else batch)
        nll = negative_log_likelihood(config, autoencoder, params["autoencoder"], terms.x_0_hat, reconstructed, dropped)
        losses = mix_losses(config, terms.losses, nll, gaussian_kl(mean, log_variance), context)
        return weigh_users(config.user_weight_power, losses, batch, len(item_groups)), terms.info

    def prepare_scoring(params: Params) -> dict[str, Any]:
        return params | {"output_layer": autoencoder.apply(params["autoencoder"], method="output_layer")}

    def score_fn(scoring_state: dict[str, Any], batch: RowBatch, row_keys: RowKeys) -> Array:
        mean, _ = encode(scoring_state, normalised(batch))
        z_0 = plain_denoise(config, schedule, process, denoiser, scoring_state["denoiser"], mean, row_keys)
        return autoencoder.apply(scoring_state["autoencoder"], z_0, scoring_state["output_layer"], method="decode")  # type: ignore[return-value]

    return Recommender(
        init_params=init_params,
        init_model_state=lambda: init_loss_history(config.num_timesteps),
        loss_fn=loss_fn,
        update_model_state=update_history,
        prepare_scoring=prepare_scoring,
        score_fn=score_fn,
        warm_start=warm_start if config.has_linear_part else None,
        holds_params=config.has_linear_part,
        denoiser_params="denoiser",
    )
