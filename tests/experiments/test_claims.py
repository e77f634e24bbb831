"""Tables of claims, and how many of them hold."""

import dataclasses

import pytest

from experiments.claims import claims_table, summary, verdicts_table
from experiments.findings import CONFIRMED, OPEN, OPPOSITE, UNCONFIRMED
from tests.experiments.found import found_of, told

pytestmark = pytest.mark.once

CLAIMS = {
    CONFIRMED: told([0.3, 0.2], [0.1, 0.05, 0.15], 1e-6, second=[0.5, 0.25]),
    UNCONFIRMED: told([0.3, 0.2], [0.1, -0.05, 0.15], 1e-6),
    OPPOSITE: told([0.2, 0.3], [-0.1, -0.15, -0.05], 1e-6),
    OPEN: told(None),
}


def table_of(**claims_of):
    found = {
        study: dataclasses.replace(found_of(study, ["2", "10"]), claims=list(claims))
        for study, claims in claims_of.items()
    }
    return claims_table(found, is_open=False)


def column(table, heading):
    return [row[table.headings.index(heading)] for row in table.rows]


def test_a_claim_whose_p_value_is_0_in_float64_says_that_it_is_small():
    table = table_of(steps=[dataclasses.replace(CLAIMS[CONFIRMED], p_value=p) for p in (0.0, None)])
    assert [(cell.text, cell.value) for cell in column(table, "p (Holm)")] == [("<1e-300", 0.0), ("-", 2.0)]


def test_verdicts_are_counted_by_study():
    table = table_of(models=CLAIMS.values(), steps=[CLAIMS[CONFIRMED], CLAIMS[OPPOSITE], CLAIMS[OPPOSITE]])
    assert [cell.text for cell in column(table, "verdict")][:4] == list(CLAIMS)
    assert summary(table) == f"Of 7 claims 2 are confirmed, 4 are not (of 3 the opposite holds), 1 are {OPEN}."
    counts = verdicts_table(table)
    assert counts.headings == ["study", "claims", "confirmed", "not confirmed", "the opposite holds", OPEN]
    assert [[cell.text for cell in row] for row in counts.rows] == [
        ["All models", "4", "1", "1", "1", "1"],
        ["Diffusion steps T", "3", "1", "0", "2", "0"],
    ]
    assert [row[0].section for row in counts.rows] == ["All models", "Diffusion steps T"]
    finished = table_of(steps=[CLAIMS[CONFIRMED]])
    assert summary(finished) == "Of 1 claims 1 are confirmed, 0 are not."
    assert verdicts_table(finished).headings[-1] == "the opposite holds"


def test_what_is_not_measured_is_sorted_below_all():
    table = table_of(steps=[CLAIMS[CONFIRMED], CLAIMS[OPEN]])
    assert [cell.text for cell in column(table, "ndcg@20")] == ["0.5000 / 0.2500", "-"]
    assert [cell.value for cell in column(table, "ndcg@20")] == [0.5, float("-inf")]
    assert [cell.value for cell in column(table, "difference [95%]")] == [0.1, float("-inf")]
