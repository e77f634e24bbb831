"""Findings that a folder keeps, and newer ones."""

import dataclasses

import pytest

from diffrec_jax.evaluation import compare_users, holm
from experiments import kept
from experiments.config import new_run_config
from experiments.findings import Findings
from experiments.plan import Planned
from experiments.runs import parse_train_flags
from experiments.study import QUICK
from tests.experiments.found import MODELS_STUDY, ON_CLEAN, ON_NOISY, found_on, told

pytestmark = pytest.mark.once


def needed(identity, data=ON_CLEAN):
    """The study's runs as a plan has them, one of each variant."""
    config = new_run_config(parse_train_flags(["--model=popularity"]))
    return [Planned(MODELS_STUDY, data, label, (), config, identity) for label in MODELS_STUDY.variants]


def merged(old, new, planned=()):
    return kept.update(old, new, MODELS_STUDY, planned)


def labels_of(found, data=ON_CLEAN):
    return {row.label for row in found.by_data[data].rows}


def test_newer_runs_stand_beside_kept_ones_and_are_compared_with_them():
    both, notes = merged(
        found_on(ON_CLEAN, ["DiffRec", "MF", "no longer a variant"]), found_on(ON_NOISY, ["DiffRec", "MF"])
    )
    assert list(both.by_data) == [ON_CLEAN, ON_NOISY] and not notes
    for data, text in ((ON_CLEAN, "than MF"), (ON_NOISY, "than MF, with natural noise")):
        users = both.by_data[data].users
        expected = compare_users(users["DiffRec"]["recall@20"], users["MF"]["recall@20"])
        claim = next(claim for claim in both.claims if claim.text == f"Our DiffRec is more accurate {text}")
        assert claim.p_value == expected.p_value and claim.difference[0] == expected.mean_difference

    new = found_on(ON_CLEAN, ["EASE", "SASRec", "MF", "GiffCF"])
    more, notes = merged(both, new)
    joined = more.by_data[ON_CLEAN]
    assert not notes and labels_of(more) == {"DiffRec", "EASE", "SASRec", "MF", "GiffCF"} == set(joined.users)
    assert joined.users["MF"] is new.by_data[ON_CLEAN].users["MF"]
    assert joined.against == "SASRec" and joined.row("SASRec").difference is None
    means = [row.mean("recall@20") for row in joined.rows]
    assert means == sorted(means, reverse=True)
    others = [row for row in joined.rows if row.label != "SASRec"]
    values = [
        compare_users(joined.users[row.label]["recall@20"], joined.users["SASRec"]["recall@20"]) for row in others
    ]
    assert [row.difference[0] for row in others] == [found.mean_difference for found in values]
    assert [row.p_value for row in others] == holm([found.p_value for found in values])
    assert more.by_data[ON_NOISY] is both.by_data[ON_NOISY]


def test_kept_runs_of_other_settings_are_left_out():
    """Where the data are here to tell; with what the same run had by other protocols."""
    old = found_on(ON_CLEAN, ["DiffRec", "MF", "EASE"])
    nothing = Findings("models", {}, [])
    assert merged(old, nothing, needed("a"))[0].by_data == old.by_data
    assert merged(old, nothing)[0].by_data == old.by_data
    elsewhere = Findings("models", {QUICK: old.by_data[ON_CLEAN]}, [])
    assert merged(elsewhere, nothing)[0].by_data == elsewhere.by_data  # of no dataset of the study
    left, notes = merged(old, nothing, needed("b"))
    assert left.by_data == {} and notes == [
        "models on ml-1m clean is without DiffRec, MF, EASE: what was kept is of other settings"
    ]
    left, notes = merged(old, found_on(ON_CLEAN, ["MF", "SLIM"], identity="b"), needed("b"))
    assert labels_of(left) == {"MF", "SLIM"} and "without DiffRec, EASE: " in notes[0]
    again = found_on(ON_CLEAN, ["MF", "SLIM"])
    again.by_data[ON_CLEAN].rows[0].protocols.clear()
    found = merged(old, again, needed("a"))[0].by_data[ON_CLEAN]
    assert found.row("MF").protocols == old.by_data[ON_CLEAN].row("MF").protocols


def test_what_cannot_be_compared_stays_as_it_was():
    """Older findings without users' metrics, and other data; unless newer runs have all of it."""
    claim = next(claim for claim in MODELS_STUDY.claims if claim.worse == "MF" and claim.data == ON_CLEAN)
    known = dataclasses.replace(
        told([0.3, 0.2], [0.1, 0.0, 0.2], 0.01),
        text=claim.text,
        data=ON_CLEAN,
        at_least=True,
        better="DiffRec",
        worse="MF",
    )
    unknown = dataclasses.replace(found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM"], known=False), claims=[known])
    half = found_on(ON_CLEAN, ["DiffRec", "MF"])
    same, notes = merged(unknown, half)
    assert same.by_data == unknown.by_data
    assert notes == [
        "models on ml-1m clean stays as it was, without new runs of DiffRec, MF: users' metrics were not kept of SLIM"
    ]
    assert dataclasses.replace(known, at_least=False) in same.claims  # the claim is the study's, its numbers are kept
    without = needed("a")[1:]  # DiffRec is planned with other settings now
    gone = merged(dataclasses.replace(found_on(ON_CLEAN, ["DiffRec", "MF"]), claims=[known]), half, without)[0]
    assert known.p_value not in {own.p_value for own in gone.claims}
    whole = found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM", "EASE"])
    assert labels_of(merged(unknown, whole)[0]) == {"DiffRec", "MF", "SLIM", "EASE"}
    known_rows = found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM"])
    same, notes = merged(known_rows, found_on(ON_CLEAN, ["MF", "EASE"], sha="other"))
    assert same.by_data == known_rows.by_data and "new runs of MF, EASE: the data are not those" in notes[0]
