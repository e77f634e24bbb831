"""Seeded synthetic interactions of any size: skewed popularity, latent taste, and a taste that drifts with time.

Items belong to clusters and have Zipf popularity. A user has a taste over clusters at the beginning and another at the
end; interaction number m of M draws its cluster from their mixture at time m/M and its item from the cluster by
popularity, or, with some probability, from all items by popularity. No item repeats for a user. Everything is drawn by
inverse CDF over flat arrays, so three million interactions take seconds and no [users, items] block is made.
"""

from dataclasses import dataclass

import numpy as np

from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.matrices import DataError, csr_from_pairs
from diffrec_jax.seeds import check_seed


@dataclass(frozen=True)
class SyntheticSpec:
    """Size and character of a synthetic dataset."""

    num_users: int = 3000
    num_items: int = 1500
    num_interactions: int = 150_000
    num_clusters: int = 30
    clusters_per_user: int = 3
    popularity_exponent: float = 0.7
    global_share: float = 0.15
    drift: float = 0.5
    train_share: float = 0.7
    valid_share: float = 0.2


# Users, items and interactions of the clean datasets of arXiv:2304.04971.
NAMED_SPECS = {
    "synthetic": SyntheticSpec(),
    "synthetic-ml-1m": SyntheticSpec(5_949, 2_810, 571_531),
    "synthetic-yelp": SyntheticSpec(54_574, 34_395, 1_402_736, num_clusters=200),
    "synthetic-amazon-book": SyntheticSpec(108_822, 94_949, 3_146_256, num_clusters=400),
}
MIN_PER_USER = 5
MAX_SHARE_OF_ITEMS = 0.5


def _user_lengths(spec: SyntheticSpec, rng: np.random.Generator) -> np.ndarray:
    """Interactions per user: log-normal, at least MIN_PER_USER, at most half the items, with the exact total."""
    most = int(spec.num_items * MAX_SHARE_OF_ITEMS)
    weights = rng.lognormal(0.0, 0.8, spec.num_users)
    spare = spec.num_interactions - MIN_PER_USER * spec.num_users
    lengths = np.minimum(MIN_PER_USER + np.floor(weights / weights.sum() * spare).astype(np.int64), most)
    while (missing := spec.num_interactions - int(lengths.sum())) > 0:
        open_users = np.flatnonzero(lengths < most)
        lengths[rng.permutation(open_users)[:missing]] += 1
    return lengths


def _draw_tastes(spec: SyntheticSpec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each user's clusters, [users, clusters_per_user], early and late: a share ``drift`` of them changes."""
    early = rng.integers(spec.num_clusters, size=(spec.num_users, spec.clusters_per_user))
    moved = rng.random(early.shape) < spec.drift
    return early, np.where(moved, rng.integers(spec.num_clusters, size=early.shape), early)


class _ItemSampler:
    """Draws items by popularity, from one cluster or from all."""

    def __init__(self, spec: SyntheticSpec, rng: np.random.Generator):
        popularity = 1.0 / np.arange(1, spec.num_items + 1) ** spec.popularity_exponent
        clusters = rng.integers(spec.num_clusters, size=spec.num_items)
        self.items = rng.permutation(spec.num_items)[np.argsort(clusters, kind="stable")]
        order = np.argsort(clusters, kind="stable")
        self.cumulative = np.concatenate([[0.0], np.cumsum(popularity[order])])
        self.cluster_ends = np.searchsorted(clusters[order], np.arange(spec.num_clusters + 1))

    def draw(self, clusters: np.ndarray, use_all: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first = np.where(use_all, 0, self.cluster_ends[clusters])
        last = np.where(use_all, len(self.items), self.cluster_ends[clusters + 1])
        empty = first == last
        first, last = np.where(empty, 0, first), np.where(empty, len(self.items), last)
        low, high = self.cumulative[first], self.cumulative[last]
        place = np.searchsorted(self.cumulative, low + rng.random(len(low)) * (high - low), side="right") - 1
        return self.items[np.clip(place, first, last - 1)]


def make_synthetic(spec: SyntheticSpec, *, seed: int = 0, name: str = "synthetic") -> Dataset:
    """A dataset of exactly ``spec``'s counts, split per user by time; the same for the same spec and seed.

    Raises:
      DataError: the counts do not fit together, or the seed is not in [0, 2^63).
    """
    check_seed(seed)
    if min(spec.num_users, spec.num_items, spec.num_clusters, spec.clusters_per_user) < 1:
        raise DataError("a synthetic dataset needs at least one user, item and cluster")
    fewest, most = MIN_PER_USER * spec.num_users, int(spec.num_items * MAX_SHARE_OF_ITEMS) * spec.num_users
    if not fewest <= spec.num_interactions <= most:
        raise DataError(
            f"{spec.num_interactions:,} synthetic interactions do not fit {spec.num_users:,} users and "
            f"{spec.num_items:,} items: choose between {fewest:,} and {most:,} (--synthetic_interactions)"
        )
    rng = np.random.default_rng(seed)
    lengths = _user_lengths(spec, rng)
    early, late = _draw_tastes(spec, rng)
    sampler = _ItemSampler(spec, rng)

    codes = np.empty(0, np.int64)  # user * num_items + item
    times = np.empty(0, np.float64)
    missing = lengths.copy()
    use_all_share = spec.global_share
    while missing.any():
        # A first round with some to spare, then rounds for users who drew repeats, ever less choosy.
        users = np.repeat(np.arange(spec.num_users), missing + missing // 4)
        at = rng.random(len(users))
        tastes = np.where((rng.random(len(users)) < at)[:, None], late[users], early[users])
        clusters = tastes[np.arange(len(users)), rng.integers(spec.clusters_per_user, size=len(users))]
        items = sampler.draw(clusters, rng.random(len(users)) < use_all_share, rng)
        codes = np.concatenate([codes, users * spec.num_items + items])
        times = np.concatenate([times, at])
        codes, first = np.unique(codes, return_index=True)
        times = times[first]
        kept = _first_per_user(codes // spec.num_items, lengths, rng)
        codes, times = codes[kept], times[kept]
        missing = lengths - np.bincount(codes // spec.num_items, minlength=spec.num_users)
        use_all_share = min(1.0, use_all_share + 0.1)

    users, items = np.divmod(codes, spec.num_items)
    order = np.lexsort((times, users))
    pairs = np.stack([users[order], items[order]], axis=1)
    rank = np.arange(len(pairs)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    num_train = np.maximum(1, np.floor(lengths * spec.train_share)).astype(np.int64)
    num_valid = np.maximum(1, np.round(lengths * spec.valid_share)).astype(np.int64)
    in_train = rank < np.repeat(num_train, lengths)
    in_valid = ~in_train & (rank < np.repeat(num_train + num_valid, lengths))
    splits = {
        split: csr_from_pairs(pairs[chosen], spec.num_users, spec.num_items)
        for split, chosen in (("train", in_train), ("valid", in_valid), ("test", ~in_train & ~in_valid))
    }
    return Dataset(name, **splits)  # type: ignore[arg-type]


def _first_per_user(users: np.ndarray, most: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ``most[user]`` randomly chosen entries of each user."""
    order = np.lexsort((rng.random(len(users)), users))
    counts = np.bincount(users, minlength=len(most))
    rank = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank < most[users[order]]]
