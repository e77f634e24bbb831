"""CDAE, MultiDAE, MultiDAE++ and MultiVAE: one autoencoder of rows; corruption, bottleneck and likelihood differ.

References: CDAE, Wu et al., WSDM 2016; MultiDAE and MultiVAE, arXiv:1802.05814; MultiDAE++, arXiv:2304.04971,
section 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch, make_row_batch
from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.matrices import csr_from_pairs
from diffrec_jax.models.autoencoder import Autoencoder
from diffrec_jax.models.likelihood import bernoulli_nll, gaussian_kl, multinomial_nll, squared_error
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import row_normals
from diffrec_jax.rows import dropout_entries, fold_each, normalise_rows, targets, to_dense
from diffrec_jax.settings import check_settings, setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

Likelihood = Literal["multinomial", "bernoulli", "gaussian"]
NLL = {"multinomial": multinomial_nll, "bernoulli": bernoulli_nll, "gaussian": squared_error}


@dataclass(frozen=True)
class MultiDAEConfig:
    """MultiDAE; the defaults are its publication's."""

    variational: ClassVar[bool] = False
    has_user_vectors: ClassVar[bool] = False
    dims: tuple[int, ...] = setting(
        (200, 600), "Hidden layer sizes of the way out: 200,600 is items-600-200-600-items."
    )
    activation: str = setting("tanh", "Activation of the hidden layers.", choices=tuple(ACTIVATIONS))
    likelihood: Likelihood = setting("multinomial", "Likelihood of the row, given the output.")
    normalize: bool = setting(True, "Divide the input row by its Euclidean length.", aliases=("norm",))
    dropout: float = setting(0.5, "Rate of the dropout of the input.", at_least=0, below=1)

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)

    @property
    def max_target(self) -> float:
        """What a row to be predicted may hold at most: above 1 the Bernoulli likelihood has no bound."""
        return 1.0 if self.likelihood == "bernoulli" else np.inf


@dataclass(frozen=True)
class MultiDAEPlusConfig(MultiDAEConfig):
    """MultiDAE++: DiffRec's forward noise on the input, taken away in one step."""

    input_noise: float = setting(
        0.01, "Variance v of the noise: the input is sqrt(1 - v) x + sqrt(v) noise.", at_least=0, below=1
    )


@dataclass(frozen=True)
class CDAEConfig(MultiDAEConfig):
    """CDAE: a vector of each user beside the row."""

    has_user_vectors: ClassVar[bool] = True
    dims: tuple[int, ...] = setting((200,), "Hidden layer sizes.")
    activation: str = setting("sigmoid", "Activation of the hidden layers.", choices=tuple(ACTIVATIONS))
    likelihood: Likelihood = setting("bernoulli", "Likelihood of the row, given the output.")
    normalize: bool = setting(False, "Divide the input row by its Euclidean length.", aliases=("norm",))


@dataclass(frozen=True)
class MultiVAEConfig(MultiDAEConfig):
    """MultiVAE."""

    variational: ClassVar[bool] = True
    kl_weight: float = setting(0.2, "beta, weight of the KL divergence.", at_least=0, aliases=("anneal_cap",))
    kl_weight_steps: int = setting(
        2000, "The KL weight rises from 0 in so many steps; 0: constant.", at_least=0, aliases=("anneal_steps",)
    )


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

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state
        dropout_keys, noise_keys, latent_keys = (fold_each(row_keys, place) for place in range(3))
        row = dropout_entries(normalised(batch), dropout_keys, config.dropout)
        if input_noise:
            noise = row_normals(noise_keys, num_items)
            row = np.sqrt(1.0 - input_noise) * to_dense(row, num_items) + np.sqrt(input_noise) * noise
        latent, log_variance = encode(params, row, batch)
        divergence = 0.0
        if isinstance(config, MultiVAEConfig):
            share = context.step / config.kl_weight_steps if config.kl_weight_steps else 1.0
            divergence = config.kl_weight * jnp.minimum(share, 1.0) * gaussian_kl(latent, log_variance)
            latent = latent + jnp.exp(0.5 * log_variance) * row_normals(latent_keys, latent.shape[1])
        logits: Array = model.apply(params, latent, method="decode")  # type: ignore[assignment]
        return NLL[config.likelihood](logits, targets(batch)) + divergence, ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return model.apply(params, normalised(batch), batch.user_ids)  # type: ignore[return-value]

    def score_new_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        del row_keys
        return model.apply(params, normalised(batch), None)  # type: ignore[return-value]

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        score_new_fn=score_new_fn if config.has_user_vectors else None,
    )
