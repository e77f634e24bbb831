"""Findings made up, as if runs had been made."""

import dataclasses

import numpy as np

from experiments.findings import ClaimFound, Findings
from experiments.measured import Measured, Row
from experiments.studies import STUDIES

ON_CLEAN, ON_NOISY = "ml-1m clean", "ml-1m noisy"


MODELS_STUDY = next(study for study in STUDIES if study.name == "models")


def told(values, difference=None, p=None, **others):
    """A claim with these numbers; ranks differ as the means do."""
    rank_difference = None if difference is None else float(np.sign(difference[0])) * 0.1
    fields = {"values": values, "difference": difference, "p_value": p, "rank_difference": rank_difference} | others
    return ClaimFound("", "", "recall@20", False, "a", "b", **fields)


def found_of(study, labels):
    """Findings of a study as if it had been done on clean data."""
    rng = np.random.default_rng(1)

    def row(label, number):
        test = {
            f"{name}@{k}": list(rng.uniform(0.1, 0.3, 3))
            for name in ("recall", "capped_recall", "ndcg")
            for k in (10, 20)
        }
        difference, p = (None, None) if number == 0 else ([-0.01, -0.02, 0.0], 0.04)
        protocols = dict(zip(("official", "relevant users", "capped", "valid-in-input", "sampled"), rng.random(5)))
        costs = {"training s": [1.0 + number], "parameters": [10.0], "s / 1,000 users": [0.1]}
        return Row(
            label, [1, 2, 3], ["r"] * 3, "sha", test, test, {"coverage@20": [0.5]}, costs, difference, p, protocols,
            devices=["2 x cpu <tm>"],
        )  # fmt: skip

    rows = [row(label, number) for number, label in enumerate(labels)]
    measured = Measured("recall@20", labels[0], ["1.0"], ["2 x cpu <tm>"], rows)
    claims = [
        dataclasses.replace(
            told([0.3, 0.2], [0.1, 0.0, 0.2], 0.01), text="a < b", data=ON_CLEAN, better=labels[0], worse=labels[1]
        )
    ]
    return Findings(study, {"ml-1m clean": measured}, claims)


def found_on(data, labels, *, known=True, sha="sha", identity="a"):
    """Findings as if the models of these names had been run on a dataset."""
    measured = found_of("models", labels).by_data[ON_CLEAN]
    rng = np.random.default_rng(len(labels))
    users = {label: {"recall@20": rng.random(40, np.float32)} for label in labels} if known else {}
    rows = [dataclasses.replace(row, data_sha256=sha, identities=[identity]) for row in measured.rows]
    return Findings("models", {data: dataclasses.replace(measured, rows=rows, users=users)}, [])
