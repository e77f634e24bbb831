"""What becomes of claims."""

import dataclasses

import numpy as np
import pytest

from diffrec_jax.evaluation import compare_users
from experiments.findings import (
    CONFIRMED,
    LEVEL,
    MARGIN,
    OPEN,
    OPPOSITE,
    UNCONFIRMED,
    adjusted_p,
    look_at,
    look_at_claims,
)
from experiments.measured import Measured
from experiments.study import QUICK, Claim
from tests.experiments.found import MODELS_STUDY, ON_CLEAN, ON_NOISY, found_on, told

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("claim", "p", "verdict"),
    [
        (told([0.3, 0.2], [0.1, 0.05, 0.15], 0.01), 0.01, CONFIRMED),
        (told([0.3, 0.2], [0.1, 0.05, 0.15], 0.01), 0.2, UNCONFIRMED),
        (told([0.3, 0.2], [0.1, -0.01, 0.2], 0.01), 0.01, UNCONFIRMED),  # most users gain, but not their mean
        (told([0.2, 0.3], [-0.1, -0.15, -0.05], 0.01), 0.01, OPPOSITE),
        (told([0.2, 0.3], [-0.1, -0.15, -0.05], 0.01), 0.2, UNCONFIRMED),
        (told([0.2, 0.3], [-0.1, -0.15, 0.05], 0.01), 0.01, UNCONFIRMED),
        (told([0.2, 0.2], [0.0, 0.0, 0.0], 0.01), 0.01, UNCONFIRMED),
        (told([10.0, 20.0], is_cheaper=True), None, CONFIRMED),
        (told([20.0, 10.0], is_cheaper=False, is_dearer=True), None, OPPOSITE),
        (told([10.0, 20.0], is_cheaper=False), None, UNCONFIRMED),  # cheaper in the mean, but not with every seed
        (told(None), None, OPEN),
    ],
)
def test_what_becomes_of_a_claim(claim, p, verdict):
    assert LEVEL == 0.05
    assert claim.verdict(p) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.0039, 0.01), CONFIRMED),
        ((-0.0039, -0.001), CONFIRMED),  # worse, by less than the margin
        ((-0.0041, -0.001), OPPOSITE),
        ((-0.0041, 0.01), UNCONFIRMED),  # nothing speaks against it, but too little for it
        ((0.05, 0.15), CONFIRMED),
    ],
)
def test_as_good_is_what_may_miss_by_a_margin_at_most(interval, verdict):
    assert MARGIN == 0.02
    claim = dataclasses.replace(told([0.2, 0.2], [sum(interval) / 2, *interval], 1e-9), at_least=True)
    assert claim.verdict(None) == verdict
    assert adjusted_p([claim, told([0.3, 0.2], [0.1, 0.05, 0.15], 0.04)]) == [None, 0.04]  # tested without it
    error = dataclasses.replace(claim, metric="rmse", difference=[-end for end in claim.difference or ()])
    assert error.verdict(None) == verdict


def test_a_claim_needs_everything_on_its_side():
    """Few users may gain much while most lose, and an error over all ratings fall while that of users grows."""
    gained = told([0.3, 0.2], [0.1, 0.05, 0.15], 1e-9)
    assert gained.verdict(1e-9) == CONFIRMED
    assert dataclasses.replace(gained, rank_difference=-0.4).verdict(1e-9) == UNCONFIRMED
    error = dataclasses.replace(
        gained, metric="rmse", values=[0.98, 0.99], difference=[-0.01, -0.02, -0.005], rank_difference=-0.4
    )
    assert error.verdict(1e-9) == CONFIRMED
    assert dataclasses.replace(error, difference=[0.01, 0.005, 0.02]).verdict(1e-9) == UNCONFIRMED
    worse = dataclasses.replace(error, values=[1.0, 0.99], difference=[0.01, 0.005, 0.02], rank_difference=0.4)
    assert worse.verdict(1e-9) == OPPOSITE


def test_a_claim_about_a_loss_compares_what_is_lost():
    before, after = (found_on(data, ["DiffRec", "MF"]).by_data[data] for data in (ON_CLEAN, ON_NOISY))
    after.users["DiffRec"]["recall@20"] -= np.float32(0.1)
    by_data = {ON_CLEAN: before, ON_NOISY: after}
    found = look_at(Claim("", "DiffRec", "MF", data=ON_NOISY, since=ON_CLEAN), by_data)
    ours, others = (after.users[label]["recall@20"] - before.users[label]["recall@20"] for label in ("DiffRec", "MF"))
    seeds = [measured.row(label).test["recall@20"] for label in ("DiffRec", "MF") for measured in (after, before)]
    expected = compare_users(ours, others, *seeds)
    assert found.difference == [expected.mean_difference, expected.low, expected.high]
    assert found.difference[0] == pytest.approx(-0.1) and found.p_value == expected.p_value < 1e-6
    assert found.values == [0.0, 0.0]  # the rows' means, which this test leaves equal
    assert found.second == [0.0, 0.0]
    plain = look_at(Claim("", "DiffRec", "MF", data=ON_CLEAN), by_data)
    assert plain.second == [before.row(label).mean("ndcg@20") for label in ("DiffRec", "MF")]
    assert look_at(Claim("", "DiffRec", "MF", data=ON_NOISY, since=ON_CLEAN), {ON_NOISY: after}).values is None


def test_a_cost_is_smaller_where_every_seed_says_so():
    rows = [
        dataclasses.replace(row, costs={"parameters": values})
        for row, values in zip(found_on(ON_CLEAN, ["DiffRec", "MF"]).by_data[ON_CLEAN].rows, ([1.0, 3.0], [2.0, 4.0]))
    ]
    measured = Measured("recall@20", "DiffRec", [], [], rows)
    found = look_at(Claim("", rows[0].label, rows[1].label, metric="parameters"), {ON_CLEAN: measured})
    assert found.values == [2.0, 3.0] and found.verdict(None) == UNCONFIRMED
    rows[1].costs["parameters"][:] = [3.5, 4.0]
    again = look_at(Claim("", rows[0].label, rows[1].label, metric="parameters"), {ON_CLEAN: measured})
    assert again.verdict(None) == CONFIRMED
    reverse = look_at(Claim("", rows[1].label, rows[0].label, metric="parameters"), {ON_CLEAN: measured})
    assert reverse.verdict(None) == OPPOSITE


def test_claims_are_looked_at_on_toy_data():
    of_toys = found_on(ON_CLEAN, ["DiffRec", "MF"]).by_data[ON_CLEAN]
    claims = look_at_claims(MODELS_STUDY, {QUICK: of_toys})
    assert {claim.data for claim in claims} == {QUICK}
    assert [claim.text for claim in claims if claim.values] == ["Our DiffRec is more accurate than MF"]
