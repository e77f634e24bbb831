"""The autoencoder of a user's row behind CDAE, MultiDAE and MultiVAE."""

import flax.linen as nn
import jax.numpy as jnp

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.models.affine import Affine
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.products import product
from diffrec_jax.rows import embed
from diffrec_jax.typing import Array


class Autoencoder(nn.Module):
    """Row -> latent vector -> a logit for every item.

    ``dims=(200, 600)`` means I -> 600 -> 200 -> 600 -> I: the latent size first, then the widths of the way out. No
    activation follows a variational latent layer or the output.

    Reference: arXiv:1802.05814, section 2; CDAE (Wu et al., WSDM 2016), eq. 1, for the users' vectors.
    """

    num_items: int
    dims: tuple[int, ...] = (200, 600)
    activation: str = "tanh"
    variational: bool = False
    """Encode to a mean and a log variance."""
    num_users: int = 0
    """Of vectors that are added to the first hidden layer; 0 for none."""

    def setup(self) -> None:
        """Creates the parameters."""
        kernel_init, bias_init = nn.initializers.glorot_normal(), nn.initializers.normal(0.001)
        way_in, way_out = [*reversed(self.dims)], [*self.dims[1:]]
        if self.variational:
            way_in[-1] *= 2

        def dense(size: int, *, as_table: bool = False) -> Affine:
            return Affine(size, kernel_init=kernel_init, bias_init=bias_init, as_table=as_table)

        self.input_kernel = self.param("input_kernel", kernel_init, (self.num_items, way_in[0]))
        self.input_bias = self.param("input_bias", bias_init, (way_in[0],))
        self.encoder_layers = [dense(size) for size in way_in[1:]]
        self.decoder_layers = [dense(size) for size in way_out]
        self.output_layer = dense(self.num_items, as_table=True)
        if self.num_users:
            self.user_vectors = self.param("user_vectors", kernel_init, (self.num_users, way_in[0]))

    def project(self, row: RowBatch | Array) -> Array:
        """The first layer's linear part of rows as stored, or dense [B, I]: [B, H]."""
        return embed(row, self.input_kernel) if isinstance(row, RowBatch) else product(row, self.input_kernel)

    def encode(self, row: RowBatch | Array, user_ids: Array | None) -> tuple[Array, Array]:
        """Mean and log variance of the latent vectors, [B, L] each; the second is empty unless variational.

        Without ``user_ids`` a user's own vector is the mean of those that were trained.
        """
        activation = ACTIVATIONS[self.activation]
        hidden = self.project(row) + self.input_bias[None]
        if self.num_users:
            own = self.user_vectors
            hidden = hidden + (own.mean(axis=0, keepdims=True) if user_ids is None else own[user_ids])
        for layer in self.encoder_layers:
            hidden = layer(activation(hidden))
        if not self.variational:
            return activation(hidden), jnp.zeros((hidden.shape[0], 0))
        mean, log_variance = jnp.split(hidden, 2, axis=1)
        return mean, log_variance

    def decode(self, latent: Array) -> Array:
        """Logits [B, I] of latent vectors [B, L]."""
        hidden = latent
        for layer in self.decoder_layers:
            hidden = ACTIVATIONS[self.activation](layer(hidden))
        return self.output_layer(hidden)

    def __call__(self, row: RowBatch | Array, user_ids: Array | None) -> Array:
        """Logits of the latent means."""
        return self.decode(self.encode(row, user_ids)[0])
