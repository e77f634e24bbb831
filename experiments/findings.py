"""What the finished runs of a study say: its comparison on each dataset, and what becomes of the paper's claims."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.comparison import Group, compare_groups, load_run
from diffrec_jax.config import ConfigError
from diffrec_jax.evaluation import compare_users, goodness, holm
from diffrec_jax.files import UNREADABLE, atomic_file, write_atomically

from .measured import COSTS, Measured, join, measure
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

    @property
    def key(self) -> tuple[str, ...]:
        """What is claimed, whatever was found."""
        return self.text, self.data, self.metric, self.better, self.worse

    def verdict(self, adjusted: float | None) -> str:
        """What becomes of the claim, with the p-value adjusted for all claims that are tested together."""
        if self.values is None:
            return OPEN
        better, worse = self.values
        if adjusted is None:
            return CONFIRMED if better < worse else REFUTED
        ahead = goodness(self.metric, better) - goodness(self.metric, worse)
        # The test is about most users, the interval about their mean: each alone can speak for what the other denies.
        counts = adjusted < LEVEL and self.difference is not None and self.difference[1] * self.difference[2] > 0
        if self.at_least:
            return REFUTED if ahead < 0 and counts else CONFIRMED
        return CONFIRMED if ahead > 0 and counts else REFUTED


@dataclass(frozen=True)
class Findings:
    """Of one study."""

    study: str
    by_data: dict[str, Measured]
    claims: list[ClaimFound]

    def to_json(self) -> str:
        """As text that ``from_json`` reads."""
        values = {
            "study": self.study,
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
    paths: dict[str, dict[str, list[Path | None]]] = {}
    for one in planned:
        if one.study is study:
            paths.setdefault(one.data, {}).setdefault(one.variant, []).append(store.finished(one.identity))
    groups = {
        data: [
            Group(variant, [load_run(path) for path in found if path]) for variant, found in own.items() if all(found)
        ]
        for data, own in paths.items()
    }
    claimed = {claim.metric for claim in study.claims} - set(COSTS)
    by_data = {
        data: measure(compare_groups(own, METRIC, reference(study, (group.label for group in own))), sorted(claimed))
        for data, own in groups.items()
        if own
    }
    return Findings(study.name, by_data, [look_at(claim, by_data.get(claim.data)) for claim in study.claims])


def reference(study: Study, labels: Iterable[str]) -> str | None:
    """The variant that others are compared with, if it is there."""
    return study.against if study.against in labels else None


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
    users = [measured.users.get(row.label, {}).get(claim.metric) for row in (better, worse)]
    if users[0] is None or users[1] is None:
        return told
    found = compare_users(users[0], users[1])
    return replace(
        told,
        values=[better.mean(claim.metric), worse.mean(claim.metric)],
        difference=[found.mean_difference, found.low, found.high],
        p_value=found.p_value,
    )


def update(kept: Findings, new: Findings, study: Study) -> tuple[Findings, dict[str, list[str]]]:
    """What is kept, with what newer runs say: their variants in the place of those of the same name, the others beside.

    Returns:
      The findings; and of each dataset that stays as it was, since variants that newer runs lack have no users' metrics
      to compare with, which ones.
    """
    missing: dict[str, list[str]] = {}
    by_data = dict(kept.by_data)
    for data, measured in new.by_data.items():
        old = by_data.get(data)
        labels = {row.label for row in measured.rows}
        others = [row for row in old.rows if row.label in study.variants and row.label not in labels] if old else []
        joined = join(replace(old, rows=others), measured, study.against) if old and others else measured
        if joined:
            by_data[data] = joined
        else:
            missing[data] = [row.label for row in others]
    order = [data for data in dict.fromkeys([*study.data, *by_data]) if data in by_data]
    before = {claim.key: claim for claim in kept.claims}
    claims = [look_at(claim, by_data.get(claim.data)) for claim in study.claims]
    claims = [claim if claim.values else before.get(claim.key, claim) for claim in claims]
    return Findings(study.name, {data: by_data[data] for data in order}, claims), missing


def adjusted_p(claims: list[ClaimFound]) -> list[float | None]:
    """P-values of claims that are tested together, adjusted by Holm's method; None of those without one."""
    adjusted = iter(holm([claim.p_value for claim in claims if claim.p_value is not None]))
    return [None if claim.p_value is None else next(adjusted) for claim in claims]


def write(findings: Findings, folder: Path) -> None:
    """Keeps them in two files of the study's name: the numbers as JSON, and the users' metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    users = {
        "/".join((data, label, metric)): values
        for data, measured in findings.by_data.items()
        for label, own in measured.users.items()
        for metric, values in own.items()
    }
    if users:
        with atomic_file(folder / f"{findings.study}.npz") as file:
            np.savez_compressed(file, allow_pickle=False, **users)
    write_atomically(folder / f"{findings.study}.json", findings.to_json())


def read(folder: Path) -> dict[str, Findings]:
    """The findings that a folder keeps, by study.

    Raises:
      ConfigError: a file of them cannot be read.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            own = found[path.stem] = Findings.from_json(path.read_text())
            path = path.with_suffix(".npz")
            if path.exists():
                with np.load(path, allow_pickle=False) as archive:
                    for key, values in archive.items():
                        data, _, rest = key.partition("/")
                        label, _, metric = rest.rpartition("/")
                        own.by_data[data].users.setdefault(label, {})[metric] = values
        except UNREADABLE as error:
            raise ConfigError(f"{path} cannot be read ({error}): a report of the runs makes it anew") from error
    return found
