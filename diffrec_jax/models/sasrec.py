"""A causal transformer over the items of many rows, laid end to end as they lie in a batch: no place is padding.

Reference: arXiv:1808.09781; distances in place of positions: arXiv:1910.10683, section 2.1.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.rows import fold_each
from diffrec_jax.typing import Array, RowKeys


def in_blocks(values: Array, window: int, fill: float) -> Array:
    """Values [N, ...] in blocks [N / window, window, ...], the last one filled up."""
    length = values.shape[0]  # may be a symbol, in an export
    num_blocks = (length + window - 1) // window
    ends = [(0, num_blocks * window - length)] + [(0, 0)] * (values.ndim - 1)
    return jnp.pad(values, ends, constant_values=fill).reshape(num_blocks, window, *values.shape[1:])


def with_previous(blocks: Array, fill: float) -> Array:
    """Each block behind the one before it, [blocks, 2 window, ...]."""
    before = jnp.concatenate([jnp.full_like(blocks[:1], fill), blocks[:-1]])
    return jnp.concatenate([before, blocks], axis=1)


def with_next(blocks: Array, fill: float) -> Array:
    """Each block before the one after it, likewise."""
    after = jnp.concatenate([blocks[1:], jnp.full_like(blocks[:1], fill)])
    return jnp.concatenate([blocks, after], axis=1)


def window_distances(window: int) -> np.ndarray:
    """How far each of a block's places is behind each of ``with_previous``, [window, 2 window]; below 0: before it."""
    return window + np.arange(window)[:, None] - np.arange(2 * window)


def windowed_attention(query: Array, key: Array, value: Array, rows: Array, bias: Array) -> Array:
    """Each place attends to itself and the places of its row at distances below W before it, [N, heads, D].

    Exact, in blocks of W places: N W time and memory, whatever the rows' lengths.

    Args:
      query: [N, heads, D].
      key: likewise.
      value: likewise.
      rows: row of each place, ascending, [N] int32; negative: nobody attends to it.
      bias: [heads, W], added by distance.
    """
    num_heads, window = bias.shape
    distance = window_distances(window)[None]
    own, around = in_blocks(rows, window, -1), with_previous(in_blocks(rows, window, -1), -1)
    allowed = (own[:, :, None] == around[:, None]) & (around >= 0)[:, None] & (distance >= 0) & (distance < window)
    blocks = [in_blocks(part, window, 0.0) for part in (query, key, value)]
    key_blocks, value_blocks = (with_previous(part, 0.0) for part in blocks[1:])
    scores = jnp.einsum("nqhd,nkhd->nhqk", blocks[0] / np.sqrt(query.shape[-1]), key_blocks)
    scores = scores + bias[:, np.clip(distance[0], 0, window - 1)][None]
    weights = jax.nn.softmax(jnp.where(allowed[:, None], scores, -1e9), axis=-1)
    found = jnp.einsum("nhqk,nkhd->nqhd", weights, value_blocks)
    return found.reshape(-1, num_heads, query.shape[-1])[: query.shape[0]]


def future_means(vectors: Array, rows: Array, horizon: float, window: int) -> tuple[Array, Array]:
    """Of each place, the mean of the vectors of later places of its row, the k-th weighing exp(-(k-1)/horizon).

    Args:
      vectors: [N, D].
      rows: as of ``windowed_attention``.
      horizon: 0 for the next place alone.
      window: places ahead that count.

    Returns:
      Means [N, D], 0 where nothing follows, and whether something does [N].
    """
    ahead = (np.arange(2 * window)[None] - np.arange(window)[:, None])[None]
    own, blocks = in_blocks(rows, window, -1), in_blocks(vectors, window, 0.0)
    around = with_next(own, -1)
    decays = np.exp(-(np.maximum(ahead, 1) - 1) / horizon) if horizon else (ahead == 1).astype(np.float64)
    decays = np.where((ahead >= 1) & (ahead <= window), decays, 0.0).astype(np.float32)
    weights = decays * ((own[:, :, None] == around[:, None]) & (around >= 0)[:, None])
    total = jnp.sum(weights, axis=-1)
    means = jnp.einsum("nqk,nkd->nqd", weights, with_next(blocks, 0.0)) / jnp.maximum(total, 1e-20)[..., None]
    size = vectors.shape[1]
    return means.reshape(-1, size)[: vectors.shape[0]], (total > 0).reshape(-1)[: vectors.shape[0]]


class SASRecEncoder(nn.Module):
    """Items [N] of rows that lie end to end to hidden states [N, D]: each place sees its row up to itself.

    In each block a place attends to the ``max_length`` newest items; what it knows of them is how far back they are.
    """

    num_items: int
    max_length: int = 100
    embedding_size: int = 64
    num_layers: int = 2
    num_heads: int = 1
    dropout: float = 0.2

    def setup(self) -> None:
        """Creates the parameters; the item that fills batches, ``num_items``, has no vector."""
        init, size = nn.initializers.normal(0.02), self.embedding_size
        self.item_vectors = self.param("item_vectors", init, (self.num_items, size))
        self.distance_bias = self.param(
            "distance_bias", nn.initializers.zeros, (self.num_layers, self.num_heads, self.max_length)
        )
        self.attention_inputs = [nn.Dense(3 * size) for _ in range(self.num_layers)]
        self.attention_outputs = [nn.Dense(size) for _ in range(self.num_layers)]
        self.attention_norms = [nn.LayerNorm() for _ in range(self.num_layers)]
        self.inner_layers = [nn.Dense(size) for _ in range(self.num_layers)]
        self.outer_layers = [nn.Dense(size) for _ in range(self.num_layers)]
        self.layer_norms = [nn.LayerNorm() for _ in range(self.num_layers)]
        self.final_norm = nn.LayerNorm()

    def __call__(self, item_ids: Array, rows: Array, entry_keys: RowKeys | None = None) -> Array:
        """Hidden states [N, D] of items [N] in rows [N]; ``entry_keys`` [N] for dropout."""
        drop = self._dropout(entry_keys)
        rows = jnp.where(item_ids < self.num_items, rows, -1)
        vectors = self.item_vectors.at[item_ids].get(mode="fill", fill_value=0.0)
        hidden = drop(vectors * np.sqrt(self.embedding_size))
        for layer in range(self.num_layers):
            given = self.attention_inputs[layer](self.attention_norms[layer](hidden))
            query, key, value = jnp.split(given.reshape(given.shape[0], self.num_heads, -1), 3, axis=-1)
            found = windowed_attention(query, key, value, rows, self.distance_bias[layer])
            hidden = hidden + drop(self.attention_outputs[layer](found.reshape(hidden.shape)))
            within = drop(nn.gelu(self.inner_layers[layer](self.layer_norms[layer](hidden))))
            hidden = hidden + drop(self.outer_layers[layer](within))
        return self.final_norm(hidden)

    def _dropout(self, entry_keys: RowKeys | None) -> Callable[[Array], Array]:
        """Dropout of [N, D] whose draws depend on the places' keys alone, others at each call."""
        if entry_keys is None or self.dropout == 0.0:
            return lambda values: values
        calls = iter(range(10**6))
        return lambda values: row_dropout(fold_each(entry_keys, next(calls)), values, self.dropout)
