import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.data import DataError, from_interactions, hold_out_users, split_dataset
from diffrec_jax.data.splits import (
    TEST,
    TRAIN,
    VALID,
    Rows,
    as_given,
    at_random,
    at_times,
    by_time,
    by_users,
    hashed,
    leave_one_out,
    time_points,
)


def rows_of(lengths, times=None):
    users = np.repeat(np.arange(len(lengths)), lengths)
    return Rows(users, np.arange(len(users), dtype=np.float64) if times is None else np.array(times, np.float64))


def parts_of(rows, split):
    """Of each user."""
    parts = split(rows)
    return [parts[rows.users == user].tolist() for user in np.unique(rows.users)]


def test_leave_one_out_takes_the_newest_and_keeps_one():
    assert parts_of(rows_of([1, 2, 3, 5]), leave_one_out) == [
        [TRAIN], [TRAIN, TEST], [TRAIN, VALID, TEST], [TRAIN] * 3 + [VALID, TEST],
    ]  # fmt: skip


def test_ratios_round_to_even_halves():
    assert parts_of(rows_of([1, 5, 10]), by_time((1, 1))) == [
        [TRAIN], [TRAIN] * 2 + [TEST] * 3, [TRAIN] * 5 + [TEST] * 5,
    ]  # fmt: skip


def test_points_in_time_part_all_users_alike():
    times = [1, 5, 9, 2, 6, 7]
    split = at_times(*time_points(np.array(times, np.float64), (3, 1, 2)))
    assert parts_of(rows_of([3, 3], times), split) == [[TRAIN, TRAIN, TEST], [TRAIN, VALID, TEST]]
    with pytest.raises(DataError, match="needs the interactions' times"):
        split(rows_of([1], [np.nan]))
    with pytest.raises(DataError, match="is not split"):
        as_given(rows_of([2]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 2**63 - 1))
def test_a_random_split_has_the_sizes_of_the_one_by_time_in_any_blocks(lengths, seed):
    rows = rows_of(lengths)
    random, timed = (parts_of(rows, split) for split in (at_random(seed=seed), by_time()))
    assert [np.bincount(p, minlength=3).tolist() for p in random] == [
        np.bincount(p, minlength=3).tolist() for p in timed
    ]
    last = rows.users == len(lengths) - 1
    alone = at_random(seed=seed)(Rows(rows.users[last], rows.times[last]))
    assert alone.tolist() == random[-1]


def test_draws_are_uniform_and_differ_by_seed():
    numbers = np.arange(100_000)
    draws = hashed(1, numbers) / 2.0**64
    assert abs(draws.mean() - 0.5) < 0.005 and abs(np.histogram(draws, 10, (0, 1))[0] / 10_000 - 1).max() < 0.05
    assert not np.any(hashed(1, numbers) == hashed(2, numbers))
    assert len(np.unique(hashed(1, numbers[:, None][:300], numbers[None, :300]))) == 90_000


def test_no_seed_is_another_one_with_the_users_exchanged():
    """As when a seed meets the first number unmixed: seed 1 then draws for user u what seed 0 draws for u ^ 1."""
    users = np.arange(1024)
    draws = [set(hashed(seed, users).tolist()) for seed in range(16)]
    assert len(set().union(*draws)) == 16 * 1024
    held_out = [np.sum(hashed(seed, users) / 2.0**64 >= 0.8) for seed in range(16)]
    assert len(set(held_out)) > 4


def test_datasets_are_split_by_any_of_them():
    data = from_interactions(user=["a"] * 4 + ["b"], item=[3, 1, 2, 5, 1])
    split = split_dataset(data, leave_one_out)
    assert [getattr(split, part).nnz for part in ("train", "valid", "test")] == [3, 1, 1]
    assert split.original_item_ids[split.test.indices].tolist() == [5]
    with pytest.raises(DataError, match="is split already"):
        split_dataset(split, leave_one_out)


def test_held_out_users_have_the_oldest_part_as_input_and_the_rest_in_one_split():
    lengths = [1, 2, 5, 10, 20] * 60
    rows = rows_of(lengths)
    found = parts_of(rows, by_users((6, 2, 2), input_share=0.75, seed=3))
    kinds = {TRAIN: 0, VALID: 0, TEST: 0}
    for length, parts in zip(lengths, found):
        evaluated = sorted(set(parts) - {TRAIN})
        assert parts == sorted(parts) and len(evaluated) <= 1
        if evaluated:
            assert parts.count(TRAIN) == max(1, round(0.75 * length))
        kinds[evaluated[0] if evaluated else TRAIN] += length > 2  # of 2, .75 rounds to both
    shares = np.array(list(kinds.values())) / 180
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.08)  # 180 users: .037 is one standard deviation
    of_block = by_users((6, 2, 2), input_share=0.75, seed=3)(
        Rows(rows.users[rows.users > 150], rows.times[rows.users > 150])
    )
    assert of_block.tolist() == [part for parts in found[151:] for part in parts]
    with pytest.raises(DataError, match="input_share must be above 0"):
        by_users(input_share=1.0)


def test_what_is_learnt_leaves_held_out_users_out():
    rng = np.random.default_rng(0)
    users = np.repeat([f"u{user:02}" for user in range(40)], 10)
    items = np.concatenate([rng.permutation(15)[:10] for _ in range(40)])
    whole = from_interactions(user=users, item=items, time=np.tile(np.arange(10.0), 40), name="shop")
    split = hold_out_users(whole, (2, 1, 1))
    held_out, learnt = split.held_out_users, split.learnt
    assert 10 <= len(held_out) <= 30 and "held out" in split.summary()
    assert np.array_equal(split.evaluated_users, held_out)
    others = np.setdiff1d(np.arange(40), held_out)
    assert np.array_equal(learnt.train.toarray(), whole.train.toarray()[others])
    assert np.array_equal(learnt.original_user_ids, whole.original_user_ids[others])
    assert learnt.learnt is learnt and not learnt.valid.nnz and len(learnt.times_of("train")) == 10 * len(others)
    assert split.fingerprint != dataclasses.replace(split, held_out_users=None).fingerprint
    assert np.array_equal(hold_out_users(whole, (2, 1, 1)).held_out_users, held_out)
    for wrong, message in [
        (held_out[::-1], "rising row numbers"),
        (np.array([40]), "rising row numbers"),
        (np.arange(40), "all users are held out"),
        (held_out[1:], "not held out"),
    ]:
        with pytest.raises(DataError, match=message):
            dataclasses.replace(split, held_out_users=wrong)
    with pytest.raises(DataError, match="tune without a holdout"):
        split.tuning_holdout(0.2)
