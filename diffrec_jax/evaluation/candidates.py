"""Sampled candidates: each user's relevant items and some unseen ones are ranked, not all items."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from diffrec_jax.data.interactions import Dataset
from diffrec_jax.seeds import check_seed


@dataclass(frozen=True)
class SampledCandidates:
    """How candidates are drawn: so many different items a user, uniformly among those it has in no split.

    Raises:
      ValueError: a value is out of range.
    """

    num_negatives: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        check_seed(self.seed)
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1, got {self.num_negatives}")

    def __str__(self) -> str:
        """The name of the protocol."""
        return f"sampled candidates, {self.num_negatives} negatives a user, seed {self.seed}"

    def draw(self, dataset: Dataset, split: str) -> sparse.csr_array:
        """The candidates of each user, [U, I]: the split's relevant items and the drawn ones, which both splits share.

        A user with fewer unseen items has all of them.
        """
        relevant = dataset.relevant(split)
        rng, rows = np.random.default_rng(self.seed), []
        for user in range(dataset.num_users):
            own = [
                matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]
                for matrix in (dataset.train, dataset.valid, dataset.test)
            ]
            known = np.sort(np.concatenate(own))
            num_unseen = dataset.num_items - len(known)
            ranks = rng.choice(num_unseen, min(self.num_negatives, num_unseen), replace=False)
            # The r-th unseen item is r + j, with j the number of known items s_i (ascending) with s_i - i <= r.
            negatives = ranks + np.searchsorted(known - np.arange(len(known)), ranks, side="right")
            positives = relevant.indices[relevant.indptr[user] : relevant.indptr[user + 1]]
            rows.append(np.concatenate([positives, negatives]))
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        indices = np.concatenate(rows).astype(np.int32)
        return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=relevant.shape)
