"""Ranking metrics of one user's list, vectorised over leading axes.

``hits`` [..., K'] says which places of the ranked list hold a relevant item, ``num_relevant`` [...] how many relevant
items the user has; a user without any gets 0 from every metric. Lists shorter than k count as having no further hits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.typing import Array


def _ratio(numerator: Array, denominator: Array) -> Array:
    return jnp.where(denominator > 0, numerator / jnp.maximum(denominator, 1), 0.0)


def _num_hits(hits: Array, k: int) -> Array:
    return hits[..., :k].sum(-1, dtype=jnp.float32)


def precision_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """hits / k."""
    del num_relevant
    return _num_hits(hits, k) / k


def recall_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """hits / |relevant|."""
    return _ratio(_num_hits(hits, k), num_relevant)


def capped_recall_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """hits / min(k, |relevant|): 1 is within reach for every user. Called recall in several libraries."""
    return _ratio(_num_hits(hits, k), jnp.minimum(num_relevant, k))


def _weighed(values: Array, weights: np.ndarray) -> Array:
    """The sum of values [..., K] times weights [K], [...], in float32 whatever a GPU rounds products to."""
    return jnp.matmul(values, jnp.asarray(weights, jnp.float32), precision=jax.lax.Precision.HIGHEST)


def ndcg_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """sum of 1/log2(rank + 1) over the hits, divided by its largest value for min(k, |relevant|) hits."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = jnp.asarray(np.concatenate([[0.0], np.cumsum(discounts)]), jnp.float32)
    top = hits[..., :k]
    gain = _weighed(top.astype(jnp.float32), discounts[: top.shape[-1]])
    ideal_gain = ideal[jnp.minimum(num_relevant, k)]
    return jnp.where(num_relevant > 0, gain / jnp.where(ideal_gain > 0, ideal_gain, 1.0), 0.0)


def mrr_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """1 / rank of the first hit, 0 without one."""
    del num_relevant
    top = hits[..., :k]
    return jnp.where(top.any(-1), 1.0 / (1.0 + top.argmax(-1)), 0.0)


def average_precision_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """sum of the precision at every hit, divided by min(k, |relevant|); its mean over users is MAP@k."""
    top = hits[..., :k].astype(jnp.float32)
    found = _weighed(top * jnp.cumsum(top, -1), 1.0 / np.arange(1, top.shape[-1] + 1))
    return _ratio(found, jnp.minimum(num_relevant, k))


def hit_rate_at_k(hits: Array, num_relevant: Array, k: int) -> Array:
    """1 if there is a hit."""
    del num_relevant
    return hits[..., :k].any(-1).astype(jnp.float32)


METRICS: dict[str, Callable[[Array, Array, int], Array]] = {
    "precision": precision_at_k,
    "recall": recall_at_k,
    "capped_recall": capped_recall_at_k,
    "ndcg": ndcg_at_k,
    "mrr": mrr_at_k,
    "map": average_precision_at_k,
    "hit_rate": hit_rate_at_k,
}


def parse_metric(name: str, ks: tuple[int, ...]) -> tuple[str, int]:
    """``"recall@20"`` as ``("recall", 20)``.

    Raises:
      ValueError: no such metric, or a K that is not evaluated.
    """
    metric, _, k = name.partition("@")
    if metric not in METRICS or not k.isdigit() or int(k) not in ks:
        raise ValueError(
            f"metric {name!r} is not evaluated: choose {', '.join(METRICS)} at one of K = {', '.join(map(str, ks))}, "
            f"such as recall@{ks[0]}"
        )
    return metric, int(k)
