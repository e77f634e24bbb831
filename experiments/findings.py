"""What the finished runs of a study say: its comparison on each dataset, and what becomes of the paper's claims."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from diffrec_jax.comparison import Group, compare_groups, load_run
from diffrec_jax.evaluation import compare_users, goodness, holm

from .measured import COSTS, Measured, measure
from .plan import Planned
from .store import Store
from .studies import Claim, Study

METRIC = "recall@20"
LEVEL = 0.05
CONFIRMED, REFUTED, OPEN = "confirmed", "not confirmed", "not measured yet"


@dataclass(frozen=True)
class ClaimFound:
    """A claim and the numbers that speak for or against it."""

    text: str
    data: str
    metric: str
    at_least: bool
    better: str
    worse: str
    values: list[float] | None = None
    """Means of the two variants; None where their runs are missing."""
    difference: list[float] | None = None
    """Of a test metric over users: mean, and ends of its interval."""
    p_value: float | None = None
    """Of that, before any correction."""
    rank_difference: float | None = None
    """Of that, what the p-value is about."""

    @property
    def key(self) -> tuple[str, ...]:
        """What is claimed, whatever was found."""
        return self.text, self.data, self.metric, self.better, self.worse

    def verdict(self, adjusted: float | None) -> str:
        """What becomes of the claim, with the p-value adjusted for all claims that are tested together."""
        if self.values is None:
            return OPEN
        better, worse = self.values
        if adjusted is None or self.difference is None or self.rank_difference is None:
            return CONFIRMED if better < worse else REFUTED
        # The test is about most users, the interval about their mean, the values of errors about all ratings: each
        # alone can speak for what another denies.
        told = [better - worse, *self.difference, self.rank_difference]
        signs = {np.sign(goodness(self.metric, value)) for value in told}
        if self.at_least:
            return REFUTED if signs == {-1.0} and adjusted < LEVEL else CONFIRMED
        return CONFIRMED if signs == {1.0} and adjusted < LEVEL else REFUTED


@dataclass(frozen=True)
class Findings:
    """Of one study."""

    study: str
    by_data: dict[str, Measured]
    claims: list[ClaimFound]

    def to_json(self, **beside: str) -> str:
        """As text that ``from_json`` reads, with other values beside them."""
        values = {
            "study": self.study,
            **beside,
            "by_data": {data: measured.to_dict() for data, measured in self.by_data.items()},
            "claims": [asdict(claim) for claim in self.claims],
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Findings":
        """The inverse of ``to_json``."""
        values: dict[str, Any] = json.loads(text)
        by_data = {data: Measured.from_dict(measured) for data, measured in values["by_data"].items()}
        return cls(values["study"], by_data, [ClaimFound(**claim) for claim in values["claims"]])


def find(study: Study, planned: Iterable[Planned], store: Store) -> Findings:
    """What the finished runs of a study say; a variant whose runs are not all there is left out."""
    by_data = {}
    claimed = {claim.metric for claim in study.claims} - set(COSTS)
    for data, variants in identities(study, planned).items():
        paths = {variant: [store.finished(of) for of in own] for variant, own in variants.items()}
        groups = [
            Group(variant, [load_run(path) for path in found if path]) for variant, found in paths.items() if all(found)
        ]
        if groups:
            against = study.against if study.against in {group.label for group in groups} else None
            measured = measure(compare_groups(groups, METRIC, against), sorted(claimed))
            rows = [replace(row, identities=variants[row.label]) for row in measured.rows]
            by_data[data] = replace(measured, rows=rows)
    return Findings(study.name, by_data, [look_at(claim, by_data.get(claim.data)) for claim in study.claims])


def identities(study: Study, planned: Iterable[Planned]) -> dict[str, dict[str, list[str]]]:
    """Of the runs that a study needs, by dataset and variant."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in planned:
        if one.study is study:
            found.setdefault(one.data, {}).setdefault(one.variant, []).append(one.identity)
    return found


def look_at(claim: Claim, measured: Measured | None) -> ClaimFound:
    """Compares the two variants of a claim, where both are there."""
    told = ClaimFound(claim.text, claim.data, claim.metric, claim.at_least, claim.better, claim.worse)
    rows = {row.label: row for row in measured.rows} if measured else {}
    if measured is None or not {claim.better, claim.worse} <= set(rows):
        return told
    better, worse = rows[claim.better], rows[claim.worse]
    if claim.metric in COSTS:
        taken = [row.costs[claim.metric] for row in (better, worse)]
        return replace(told, values=[statistics.mean(own) for own in taken] if all(taken) else None)
    ours, others = (measured.users.get(row.label, {}).get(claim.metric) for row in (better, worse))
    if ours is None or others is None:
        return told
    found = compare_users(ours, others)
    return replace(
        told,
        values=[better.mean(claim.metric), worse.mean(claim.metric)],
        difference=[found.mean_difference, found.low, found.high],
        p_value=found.p_value,
        rank_difference=found.rank_difference,
    )


def adjusted_p(claims: list[ClaimFound]) -> list[float | None]:
    """P-values of claims that are tested together, adjusted by Holm's method; None of those without one."""
    adjusted = iter(holm([claim.p_value for claim in claims if claim.p_value is not None]))
    return [None if claim.p_value is None else next(adjusted) for claim in claims]
