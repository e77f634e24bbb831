import dataclasses

import numpy as np
import pytest
from scipy import stats

from diffrec_jax.config import DataConfig
from diffrec_jax.data import DataError, Dataset, add_random_noise, csr_from_pairs, from_interactions, split_by_time
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.data.matrices import pair_codes
from diffrec_jax.data.noise import draw_random_items
from diffrec_jax.data.splits import VALID, Rows, hashed, rows_of

SPEC = {"num_users": 60, "num_items": 40, "num_interactions": 900, "seed": 0}
DATA = DataConfig("synthetic", "clean", None, SPEC)


@pytest.fixture(scope="module")
def clean():
    return DATA.load()


def row(dataset, split, user):
    return getattr(dataset, split)[[user]].indices.tolist()


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.5])
def test_each_row_gets_as_many_new_items_as_asked_for_and_keeps_its_order(clean, rate):
    noisy, places = add_random_noise(clean, rate), []
    for user in range(clean.num_users):
        has = {item for split in SPLITS for item in row(clean, split, user)}
        for split in ("train", "valid"):
            old, new = row(clean, split, user), row(noisy, split, user)
            added = [item for item in new if item not in old]
            assert [item for item in new if item in old] == old
            assert len(set(new)) == len(new) and not set(added) & has
            assert len(added) == min(round(rate * len(old)), 40 - len(has))
            has |= set(added)
            places += [place / (len(new) - 1) for place, item in enumerate(new) if item in added]
    for array in ("indptr", "indices"):
        np.testing.assert_array_equal(getattr(noisy.test, array), getattr(clean.test, array))
    assert 0.3 < np.mean(np.array(places) < 0.5) < 0.5  # anywhere in the row but before its first item


def test_the_noise_is_that_of_its_seed(clean):
    first, again, other = (add_random_noise(clean, 0.3, seed=seed) for seed in (5, 5, 6))
    assert first.fingerprint == again.fingerprint
    assert len({clean.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.name == "synthetic, 30% random noise"
    assert add_random_noise(clean, 0) is clean


def test_items_are_the_first_new_ones_of_a_users_own_draws(clean):
    """By plain Python, one draw after the other; and other users, or a block of users, change nothing."""
    rows = rows_of(clean, "valid")
    known = np.concatenate([pair_codes(getattr(clean, split)) for split in SPLITS])

    def drawn(chosen):
        own = Rows(rows.users[chosen], rows.times[chosen])
        places, items = draw_random_items(own, known, 1.5, 40, seed=3, part=VALID)
        return sorted(zip(np.flatnonzero(chosen)[places].tolist(), items.tolist()))

    expected = []
    for user, start, length in zip(range(60), rows.starts.tolist(), rows.lengths.tolist()):
        has = set(known[known // 40 == user] % 40)
        missing, number = min(round(1.5 * length), 40 - len(has)), VALID << 40
        while missing:
            item = int(hashed(3, np.int64([user]), np.int64([number]))[0])
            place = int(hashed(3, np.int64([user]), np.int64([number]), np.int64(1))[0])
            if item % 40 not in has:
                has.add(item % 40)
                expected.append((start + place % length, item % 40))
                missing -= 1
            number += 1
    assert drawn(rows.users >= 0) == sorted(expected)
    assert drawn(rows.users >= 30) == sorted(pair for pair in expected if rows.users[pair[0]] >= 30)


def test_items_and_places_are_uniform():
    """4,000 users with the same 5 items of 20: 5 of the others each, behind any of the 5."""
    users = np.repeat(np.arange(4000), 5)
    rows = Rows(users, np.zeros(len(users)))
    places, items = draw_random_items(rows, users * 20 + np.tile(np.arange(5), 4000), 1.0, 20, seed=0, part=0)
    assert len(items) == 20_000 and items.min() == 5
    assert stats.chisquare(np.bincount(items - 5, minlength=15)).pvalue > 0.01
    assert stats.chisquare(np.bincount(places % 5, minlength=5)).pvalue > 0.01
    own = users[places]
    pairs = np.zeros((15, 15), int)  # without repeats, any two of a user's are equally likely
    for user in range(1000):
        found = items[own == user] - 5
        pairs[np.ix_(found, found)] += 1
    assert stats.chisquare(pairs[np.triu_indices(15, 1)]).pvalue > 0.01


def test_who_has_nearly_all_items_gets_those_that_are_left():
    train, test = (csr_from_pairs(np.array(pairs), 1, 8) for pairs in ([[0, item] for item in range(5)], [[0, 5]]))
    dataset = Dataset("d", train, csr_from_pairs(np.zeros((0, 2), int), 1, 8), test)
    for rate in (3.0, 1e300):
        noisy = add_random_noise(dataset, rate)
        assert sorted(noisy.train.indices) == [0, 1, 2, 3, 4, 6, 7] and not noisy.valid.nnz


def test_a_random_item_has_the_time_and_the_weight_of_the_one_before():
    users, items = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    whole = from_interactions(user=users, item=items + users % 7, time=10.0 * items, weight=1 + items)
    dataset = split_by_time(whole, (6, 2, 2))
    noisy = add_random_noise(dataset, 0.5)
    for split in ("train", "valid"):
        matrix, times = getattr(noisy, split), noisy.times_of(split)
        added = ~np.isin(pair_codes(matrix), pair_codes(getattr(dataset, split)))
        assert added.sum() == getattr(dataset, split).nnz / 2 and not added[matrix.indptr[:-1]].any()
        before = np.flatnonzero(added) - 1
        np.testing.assert_array_equal(matrix.data[added], matrix.data[before])
        np.testing.assert_array_equal(times[added], times[before])
        np.testing.assert_array_equal(matrix.data, times / 10 + 1)
    np.testing.assert_array_equal(noisy.times_of("test"), dataset.times_of("test"))


@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf])
def test_a_rate_that_is_none_is_refused(clean, rate):
    with pytest.raises(DataError, match="rate of random noise has to be at least 0 and finite"):
        add_random_noise(clean, rate)


def test_a_tuning_holdout_is_taken_before_the_noise(clean):
    """What is the test has no noise, and the noise knows nothing of the test split."""
    both = dataclasses.replace(DATA, tuning_holdout=0.25, random_noise=0.4, random_noise_seed=2)
    found, expected = both.load(), add_random_noise(clean.tuning_holdout(0.25), 0.4, seed=2)
    assert found.fingerprint == expected.fingerprint
    assert found.name == "synthetic, tuning holdout 0.25, 40% random noise"
    np.testing.assert_array_equal(found.test.indices, clean.valid.indices)


@pytest.mark.parametrize(
    ("name", "value"), [("random_noise", "0.1"), ("random_noise_seed", 0.5), ("tuning_holdout", None)]
)
def test_a_damaged_data_configuration_is_told(name, value):
    with pytest.raises(ValueError, match=f"{name} cannot be {value!r}"):
        dataclasses.replace(DATA, **{name: value})
