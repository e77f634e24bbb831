"""A denoiser of rows that are smoothed over a graph: item vectors, and nets of a few units between their products.

Reference: arXiv:2311.08744, section 4.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.models.mlp import timestep_embedding
from diffrec_jax.typing import Array, RowKeys

TIME_SIZE = 20


def linear_start(weights: tuple[float, ...]):
    """Initial kernel [K, 2] of two hidden units that a mixer with output weights 1 and -1 sums linearly.

    u sigmoid(u) + u sigmoid(-u) = u: the mixer begins as the sum of its inputs times the weights. A random start of two
    units is a lottery.
    """
    return lambda key, shape, dtype=jnp.float32: jnp.asarray(np.outer(weights, (1.0, -1.0)), dtype)


class Mixer(nn.Module):
    """Values of the same place of some arrays to one value: two hidden units, the same for all places."""

    weights: tuple[float, ...]
    """Of the sum that it begins as."""

    @nn.compact
    def __call__(self, *values: Array) -> Array:
        """Arrays that broadcast to [B, D] -> [B, D]."""
        kernel = self.param("kernel", linear_start(self.weights), (len(self.weights), 2))
        bias = self.param("bias", nn.initializers.zeros, (2,))
        out = self.param("out", lambda key, shape: jnp.array([1.0, -1.0]), (2,))
        total = self.param("out_bias", nn.initializers.zeros, ())
        for unit in range(2):  # one array of each unit at a time, none of [B, D, units]
            total = total + out[unit] * jax.nn.silu(sum(x * kernel[k, unit] for k, x in enumerate(values)) + bias[unit])
        return total


class GraphDenoiser(nn.Module):
    """x_hat [B, I] of a smoothed row z_t, the row c that is known, and c smoothed."""

    num_items: int
    embedding_size: int = 200
    item_statistics: bool = False
    """Whether the mixer of scores is told two numbers of each item."""
    latent_dropout: float = 0.0

    @nn.compact
    def __call__(
        self, z_t: Array, known: Array, smooth_known: Array, t: Array, row_keys: RowKeys | None = None
    ) -> Array:
        """All [B, I], t [B] int32; ``row_keys`` [B] turn dropout on."""
        vectors = self.param("item_vectors", nn.initializers.glorot_uniform(), (self.num_items, self.embedding_size))
        embedding = timestep_embedding(t, TIME_SIZE)

        def of_time(name: str) -> Array:
            # Starts at 0: what all places share would drown, in Adam's scale of gradients, what the items say.
            last = nn.Dense(1, kernel_init=nn.initializers.zeros, name=f"{name}_out")
            return last(nn.silu(nn.Dense(TIME_SIZE, name=name)(embedding)))

        length = jnp.maximum(jnp.sum(jnp.abs(known), axis=1, keepdims=True), 1.0)
        latents = z_t @ vectors / self.num_items, known @ vectors / length
        latent = Mixer((1.0, 1.0, 1.0), name="latent_mixer")(*latents, of_time("latent_time"))
        if row_keys is not None:
            latent = row_dropout(row_keys, latent, self.latent_dropout)
        scores = [latent @ vectors.T, known, smooth_known, of_time("score_time")]
        weights = [1.0, 0.0, 1.0, 1.0]
        if self.item_statistics:
            scores += list(self.param("item_statistics", nn.initializers.zeros, (2, self.num_items))[:, None])
            weights += [0.0, 0.0]
        return Mixer(tuple(weights), name="score_mixer")(*scores)
