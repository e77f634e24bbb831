import dataclasses

import numpy as np
import pytest

from diffrec_jax.data import NAMED_SPECS, DataError, SyntheticSpec, make_synthetic

SPEC = SyntheticSpec(num_users=400, num_items=300, num_interactions=12_000, num_clusters=10)


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic(SPEC, seed=1)


def test_the_counts_are_exact_and_the_shares_kept(dataset):
    sizes = np.array([dataset.train.nnz, dataset.valid.nnz, dataset.test.nnz])
    assert dataset.train.shape == (400, 300)
    assert sizes.sum() == 12_000
    np.testing.assert_allclose(sizes / 12_000, [0.7, 0.2, 0.1], atol=0.03)


def test_no_pair_repeats_within_or_between_splits(dataset):
    total = (dataset.train + dataset.valid + dataset.test).toarray()
    assert total.max() == 1


def test_every_user_has_a_training_row_and_the_same_seed_the_same_data(dataset):
    assert np.diff(dataset.train.indptr).min() >= 1
    again, other = make_synthetic(SPEC, seed=1), make_synthetic(SPEC, seed=2)
    np.testing.assert_array_equal(again.train.indices, dataset.train.indices)
    assert not np.array_equal(other.train.indices, dataset.train.indices)


def test_popularity_is_skewed(dataset):
    counts = np.sort(np.bincount(dataset.train.indices, minlength=300))[::-1]
    assert counts[:30].sum() > 0.2 * counts.sum()  # a tenth of the items, more than twice their share


def test_taste_drifts():
    """Training rows resemble the validation rows of their user less when tastes change."""

    def overlap(drift):
        spec = dataclasses.replace(SPEC, drift=drift, global_share=0.0)
        data = make_synthetic(spec, seed=3)
        taste = (data.train @ data.train.T @ data.train).toarray()  # what the user's neighbours have
        taste /= taste.sum(axis=1, keepdims=True)
        return float((taste * data.test.toarray()).sum() / data.test.nnz)

    assert overlap(0.0) > 1.1 * overlap(1.0)


def test_named_sizes_are_those_of_the_paper():
    sizes = {name: (spec.num_users, spec.num_items, spec.num_interactions) for name, spec in NAMED_SPECS.items()}
    assert sizes["synthetic-amazon-book"] == (108_822, 94_949, 3_146_256)
    assert sizes["synthetic-yelp"] == (54_574, 34_395, 1_402_736)
    assert sizes["synthetic-ml-1m"] == (5_949, 2_810, 571_531)


def test_impossible_sizes_are_refused():
    with pytest.raises(DataError, match="choose between 2,000 and 60,000"):
        make_synthetic(dataclasses.replace(SPEC, num_interactions=100))
