"""CDAE, MultiDAE, MultiDAE++ and MultiVAE: one autoencoder of rows; corruption, bottleneck and likelihood differ.

References: CDAE, Wu et al., WSDM 2016; MultiDAE and MultiVAE, arXiv:1802.05814; MultiDAE++, arXiv:2304.04971,
section 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.interactions import Dataset, csr_from_pairs
from diffrec_jax.models.autoencoder import Autoencoder
from diffrec_jax.models.likelihood import bernoulli_nll, gaussian_kl, multinomial_nll, squared_error
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders.base import Clock, Recommender
from diffrec_jax.recommenders.checks import check_at_least, check_choice, check_rate, check_sizes
from diffrec_jax.recommenders.diffusing import row_normals
from diffrec_jax.rows import dropout_entries, fold_each, normalise_rows, targets, to_dense
from diffrec_jax.typing import Array, Key, Params, RowKeys

Likelihood = Literal["multinomial", "bernoulli", "gaussian"]
NLL = {"multinomial": multinomial_nll, "bernoulli": bernoulli_nll, "gaussian": squared_error}


@dataclass(frozen=True)
class MultiDAEConfig:
    """MultiDAE; the defaults are its publication's."""

    variational: ClassVar[bool] = False
    has_user_vectors: ClassVar[bool] = False
    dims: tuple[int, ...] = (200, 600)
    activation: str = "tanh"
    likelihood: Likelihood = "multinomial"
    normalize: bool = True
    """Divide the input row by its length."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Checks every value."""
        check_sizes("dims", self.dims)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("likelihood", self.likelihood, get_args(Likelihood))
        check_rate("dropout", self.dropout)


@dataclass(frozen=True)
class MultiDAEPlusConfig(MultiDAEConfig):
    """MultiDAE++: DiffRec's forward noise on the input, taken away in one step."""

    input_noise: float = 0.01
    """Variance: the input is sqrt(1 - v) x + sqrt(v) noise."""

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_rate("input_noise", self.input_noise)


@dataclass(frozen=True)
class CDAEConfig(MultiDAEConfig):
    """CDAE: a vector of each user beside the row."""

    has_user_vectors: ClassVar[bool] = True
    dims: tuple[int, ...] = (200,)
    activation: str = "sigmoid"
    likelihood: Likelihood = "bernoulli"
    normalize: bool = False


@dataclass(frozen=True)
class MultiVAEConfig(MultiDAEConfig):
    """MultiVAE."""

    variational: ClassVar[bool] = True
    kl_weight: float = 0.2
    """beta."""
    kl_weight_steps: int = 2000
    """beta rises from 0 to its weight in so many steps; 0 for a constant."""

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        check_at_least(0, kl_weight=self.kl_weight, kl_weight_steps=self.kl_weight_steps)


def make_autoencoder(config: MultiDAEConfig, dataset: Dataset) -> Recommender:
    """The functions of an autoencoder over the users and items of a dataset."""
    num_items = dataset.num_items
    model = Autoencoder(
        num_items=num_items,
        dims=config.dims,
        activation=config.activation,
        variational=config.variational,
        num_users=dataset.num_users if config.has_user_vectors else 0,
    )
    input_noise = config.input_noise if isinstance(config, MultiDAEPlusConfig) else 0.0

    def init_params(key: Key) -> Params:
        one_row = make_row_batch(csr_from_pairs(np.zeros((1, 2), np.int64), 1, num_items), np.zeros(1))
        return model.init(key, one_row, one_row.user_ids)

    def normalised(batch: RowBatch) -> RowBatch:
        return normalise_rows(batch) if config.normalize else batch

    def encode(params: Params, row: RowBatch | Array, batch: RowBatch) -> tuple[Array, Array]:
        return model.apply(params, row, batch.user_ids, method="encode")  # type: ignore[return-value]

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, clock: Clock):
        del model_state
        dropout_keys, noise_keys, latent_keys = (fold_each(row_keys, place) for place in range(3))
        row = dropout_entries(normalised(batch), dropout_keys, config.dropout)
        if input_noise:
            noise = row_normals(noise_keys, num_items)
            row = np.sqrt(1.0 - input_noise) * to_dense(row, num_items) + np.sqrt(input_noise) * noise
        latent, log_variance = encode(params, row, batch)
        divergence = 0.0
        if isinstance(config, MultiVAEConfig):
            share = clock.step / config.kl_weight_steps if config.kl_weight_steps else 1.0
            divergence = config.kl_weight * jnp.minimum(share, 1.0) * gaussian_kl(latent, log_variance)
            latent = latent + jnp.exp(0.5 * log_variance) * row_normals(latent_keys, latent.shape[1])
        logits: Array = model.apply(params, latent, method="decode")  # type: ignore[assignment]
        return NLL[config.likelihood](logits, targets(batch)) + divergence, ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return model.apply(params, normalised(batch), batch.user_ids)  # type: ignore[return-value]

    return Recommender(init_params=init_params, loss_fn=loss_fn, score_fn=score_fn)
