import numpy as np
import pytest

from diffrec_jax.data import SyntheticSpec, csr_from_pairs, group_items, make_synthetic, svd_item_embeddings
from diffrec_jax.seeds import sklearn_seed

TRAIN = csr_from_pairs(np.array([[0, 0], [0, 1], [1, 2], [2, 3]]), 3, 4)
SPEC = SyntheticSpec(num_users=20, num_items=20, num_interactions=150, num_clusters=2)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_what_scikit_learn_takes_it_gets(seed):
    assert sklearn_seed(seed) == seed


def test_larger_seeds_have_draws_of_their_own():
    """Not those of their lower 32 bits, which are 0 and 1 for the first four."""

    def drawn(state):
        return tuple(state.randint(2**31, size=4).tolist())

    seeds = [2**32, 2**32 + 1, 2**62, 2**62 + 1, 2**63 - 1]
    found = [drawn(sklearn_seed(seed)) for seed in seeds]
    assert len({*found, *(drawn(np.random.RandomState(seed)) for seed in (0, 1, 2**32 - 1))}) == 8
    assert drawn(sklearn_seed(seeds[-1])) == found[-1]


def test_synthetic_data_have_a_seed_of_63_bits():
    indices = [make_synthetic(SPEC, seed=seed).train.indices.tolist() for seed in (1, 2**32 + 1, 2**63 - 1, 2**63 - 1)]
    assert indices[2] == indices[3]
    assert len({tuple(row) for row in indices}) == 3


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: make_synthetic(SPEC, seed=seed),
        lambda seed: svd_item_embeddings(TRAIN, 2, seed=seed),
        lambda seed: group_items("kmeans", 2, train=TRAIN, embeddings=np.eye(4), seed=seed),
        lambda seed: group_items("spectral", 2, train=TRAIN, seed=seed),
        lambda seed: group_items("random", 2, train=TRAIN, seed=seed),
    ],
    ids=["synthetic", "svd", "kmeans", "spectral", "random"],
)
def test_other_seeds_are_refused(draw, seed):
    with pytest.raises(ValueError, match=f"seed must be between 0 and 2.63 - 1, got {seed}"):
        draw(seed)
