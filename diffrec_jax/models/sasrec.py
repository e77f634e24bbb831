"""The causal transformer of SASRec.

Reference: arXiv:1808.09781.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.typing import Array


class SASRecEncoder(nn.Module):
    """Item sequences [L] to hidden states [L, D]: position l sees the items up to l.

    One row at a time, so that dropout may have a key for each row: map it over a batch.
    """

    num_items: int
    max_length: int = 100
    embedding_size: int = 64
    num_layers: int = 2
    num_heads: int = 1
    dropout: float = 0.2

    def setup(self) -> None:
        """Creates the parameters; the place that fills sequences, ``num_items``, has no vector."""
        init, size = nn.initializers.normal(0.02), self.embedding_size
        self.item_vectors = self.param("item_vectors", init, (self.num_items, size))
        self.position_vectors = self.param("position_vectors", init, (self.max_length, size))
        self.attentions = [
            nn.MultiHeadDotProductAttention(num_heads=self.num_heads, dropout_rate=self.dropout)
            for _ in range(self.num_layers)
        ]
        self.attention_norms = [nn.LayerNorm() for _ in range(self.num_layers)]
        self.inner_layers = [nn.Dense(size) for _ in range(self.num_layers)]
        self.outer_layers = [nn.Dense(size) for _ in range(self.num_layers)]
        self.layer_norms = [nn.LayerNorm() for _ in range(self.num_layers)]
        self.final_norm = nn.LayerNorm()

    def drop(self, values: Array, deterministic: bool) -> Array:
        """Dropout by ``row_dropout``, which draws half as many bits as Flax's."""
        if deterministic:
            return values
        key = self.make_rng("dropout")
        return row_dropout(key[None], values.reshape(1, -1), self.dropout).reshape(values.shape)

    def __call__(self, sequence: Array, deterministic: bool = True) -> Array:
        """Hidden states [L, D] of item ids [L], filled at the left with ``num_items``."""
        present = sequence < self.num_items
        hidden = self.item_vectors.at[sequence].get(mode="fill", fill_value=0.0) * np.sqrt(self.embedding_size)
        hidden = self.drop(hidden + self.position_vectors, deterministic)
        causal = jnp.tril(jnp.ones((len(sequence),) * 2, bool))
        mask = (causal & present[None])[None]  # of all heads
        for attention, attention_norm, inner, outer, norm in zip(
            self.attentions, self.attention_norms, self.inner_layers, self.outer_layers, self.layer_norms
        ):
            query = attention_norm(hidden)
            hidden = hidden + attention(query, hidden, mask=mask, deterministic=deterministic)
            within = self.drop(nn.relu(inner(norm(hidden))), deterministic)
            hidden = hidden + self.drop(outer(within), deterministic)
        return self.final_norm(hidden)
