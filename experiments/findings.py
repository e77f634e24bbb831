"""What the finished runs of a study say: its comparison on each dataset, and what becomes of the paper's claims."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from diffrec_jax.comparison import Group, compare_groups, load_run
from diffrec_jax.evaluation import compare_users, goodness, holm

from .measured import COSTS, Measured, Row, measure
from .plan import Planned
from .store import Store
from .study import QUICK, Claim, Study

METRIC, SECOND = "recall@20", "ndcg@20"
"""What claims are tested with, and what is shown beside."""
LEVEL, MARGIN = 0.05, 0.02
"""A claim of "better" is tested at this level; one of "at least as good" may miss by this share of the other's mean."""
CONFIRMED, UNCONFIRMED, OPEN = "confirmed", "not confirmed", "not measured yet"
OPPOSITE = f"{UNCONFIRMED}; the opposite holds"


@dataclass(frozen=True)
class ClaimFound:
    """A claim and the numbers that speak for or against it."""

    text: str
    data: str
    metric: str
    at_least: bool
    better: str
    worse: str
    since: str | None = None
    values: list[float] | None = None
    """Means of the two variants, or of their changes; None where their runs are missing."""
    difference: list[float] | None = None
    """Of a test metric over users: mean, and ends of its interval."""
    p_value: float | None = None
    """Of that, before any correction."""
    rank_difference: float | None = None
    """Of that, what the p-value is about."""
    is_cheaper: bool | None = None
    """Of a cost: whether it is smaller with every seed."""
    is_dearer: bool | None = None
    """Of a cost: whether it is larger with every seed."""
    second: list[float] | None = None
    """As ``values``, of the metric that is shown beside."""

    @property
    def key(self) -> tuple[str | None, ...]:
        """What is claimed, whatever was found."""
        return self.text, self.data, self.metric, self.better, self.worse, self.since

    @property
    def tested_p(self) -> float | None:
        """Of a claim that a test decides: what is adjusted for all that are tested together."""
        return None if self.at_least else self.p_value

    def verdict(self, adjusted: float | None) -> str:
        """What becomes of the claim, with its adjusted p-value where it has one."""
        if self.values is None:
            return OPEN
        better, worse = self.values
        if self.difference is None or self.rank_difference is None:
            return CONFIRMED if self.is_cheaper else OPPOSITE if self.is_dearer else UNCONFIRMED
        if self.at_least:
            gains = [goodness(self.metric, value) for value in self.difference]
            return CONFIRMED if min(gains) > -MARGIN * worse else OPPOSITE if max(gains) < 0 else UNCONFIRMED
        # The test is about most users, the interval about their mean, the values of errors about all ratings: each
        # alone can speak for what another denies.
        told = [better - worse, *self.difference, self.rank_difference]
        signs = {np.sign(goodness(self.metric, value)) for value in told}
        if len(signs) > 1 or adjusted is None or adjusted >= LEVEL:
            return UNCONFIRMED
        return {1.0: CONFIRMED, -1.0: OPPOSITE}.get(signs.pop(), UNCONFIRMED)


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
    return Findings(study.name, by_data, look_at_claims(study, by_data))


def identities(study: Study, planned: Iterable[Planned]) -> dict[str, dict[str, list[str]]]:
    """Of the runs that a study needs, by dataset and variant."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in planned:
        if one.study is study:
            found.setdefault(one.data, {}).setdefault(one.variant, []).append(one.identity)
    return found


def look_at_claims(study: Study, by_data: Mapping[str, Measured]) -> list[ClaimFound]:
    """What becomes of a study's claims; at toy size, of those about its first dataset."""
    claims = study.claims
    if set(by_data) == {QUICK}:
        claims = tuple(replace(claim, data=QUICK) for claim in claims if claim.data == study.data[0])
    return [look_at(claim, by_data) for claim in claims]


def look_at(claim: Claim, by_data: Mapping[str, Measured]) -> ClaimFound:
    """Compares the two variants of a claim, where both are there."""
    told = ClaimFound(claim.text, claim.data, claim.metric, claim.at_least, claim.better, claim.worse, claim.since)
    places = [claim.data, *([claim.since] if claim.since else [])]
    known = [{row.label: row for row in by_data[data].rows} if data in by_data else {} for data in places]
    if not all({claim.better, claim.worse} <= set(rows) for rows in known):
        return told
    rows = [[own[label] for own in known] for label in (claim.better, claim.worse)]
    if claim.metric in COSTS:
        better, worse = (own[0].costs[claim.metric] for own in rows)
        if not better or not worse:
            return told
        return replace(
            told,
            values=[*map(statistics.mean, (better, worse))],
            is_cheaper=max(better) < min(worse),
            is_dearer=min(better) > max(worse),
        )
    users = [[by_data[data].users.get(own[0].label, {}).get(claim.metric) for data in places] for own in rows]
    if any(values is None for own in users for values in own):
        return told
    ours, others = (_change(own) for own in users)
    has_second = claim.metric == METRIC and all(SECOND in row.test for own in rows for row in own)
    seeds = (row.test[claim.metric] for own in rows for row in own)
    found = compare_users(ours, others, *seeds)
    return replace(
        told,
        values=_means(rows, claim.metric),
        second=_means(rows, SECOND) if has_second else None,
        difference=[found.mean_difference, found.low, found.high],
        p_value=found.p_value,
        rank_difference=found.rank_difference,
    )


def _means(rows: Sequence[Sequence[Row]], metric: str) -> list[float]:
    """Of each variant: its test metric over seeds, or what that changes by."""
    return [float(_change([row.mean(metric) for row in own])) for own in rows]


def _change(values: Sequence[Any]) -> Any:
    """What the first differs from the second by; the first itself where it is alone."""
    return values[0] - values[1] if len(values) > 1 else values[0]


def adjusted_p(claims: list[ClaimFound]) -> list[float | None]:
    """P-values of claims that are tested together, adjusted by Holm's method; None of those without one."""
    adjusted = iter(holm([claim.tested_p for claim in claims if claim.tested_p is not None]))
    return [None if claim.tested_p is None else next(adjusted) for claim in claims]
