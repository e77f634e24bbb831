"""A small dataset of ratings, shared by the tests that need one: as a Dataset, and dense with NaN where nothing is."""

import numpy as np
from scipy import sparse

from diffrec_jax.data import Dataset
from diffrec_jax.data.interactions import SPLITS

NUM_USERS, NUM_ITEMS = 30, 25


def make_rated(seed=0, share=0.6):
    """Ratings of 1 to 5 with tastes of two kinds; the dataset, and by split the ratings [U, I]."""
    rng = np.random.default_rng(seed)
    taste = np.outer(rng.choice([-1, 1], NUM_USERS), rng.choice([-1, 1], NUM_ITEMS))
    offsets = rng.normal(0, 0.5, (NUM_USERS, 1)) + rng.normal(0, 0.5, NUM_ITEMS)[None]
    ratings = np.clip(np.rint(3.3 + offsets + taste + rng.normal(0, 0.5, taste.shape)), 1, 5)
    part = rng.choice(4, ratings.shape, p=[0.7 * share, 0.1 * share, 0.2 * share, 1 - share])
    dense = {split: np.where(part == number, ratings, np.nan) for number, split in enumerate(SPLITS)}
    matrices = {split: sparse.csr_array(~np.isnan(own), dtype=np.float32) for split, own in dense.items()}
    values = {split: own[~np.isnan(own)] for split, own in dense.items()}
    return Dataset("rated", **matrices, ratings=values), dense


DATASET, DENSE = make_rated()
