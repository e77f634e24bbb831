"""A denoiser of latent vectors that is told what is known besides: the state of a sequence."""

import flax.linen as nn
import jax.numpy as jnp

from diffrec_jax.models.mlp import timestep_embedding
from diffrec_jax.typing import Array


class ConditionalDenoiser(nn.Module):
    """State h [B, D], noised latent z_t [B, D] and timestep t [B] to h + MLP([h, z_t, embedding of t]); first to h."""

    dims: tuple[int, ...] = (256, 256)
    time_embedding_size: int = 10

    @nn.compact
    def __call__(self, hidden: Array, z_t: Array, t: Array) -> Array:
        """[B, D]."""
        values = jnp.concatenate([hidden, z_t, timestep_embedding(t, self.time_embedding_size)], axis=1)
        for size in self.dims:
            values = nn.gelu(nn.Dense(size)(values))
        return hidden + nn.Dense(hidden.shape[1], kernel_init=nn.initializers.zeros)(values)
