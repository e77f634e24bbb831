"""Findings that a folder keeps: written, read, and merged with newer ones."""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffrec_jax.config import ConfigError
from diffrec_jax.files import UNREADABLE, atomic_file, write_atomically

from .findings import ClaimFound, Findings, identities, look_at_claims
from .measured import Measured, NotComparableError, Row, join
from .plan import Planned
from .study import Study

MEASURED = ("values", "second", "difference", "p_value", "rank_difference", "is_cheaper", "is_dearer")
"""Of a claim: what its runs say."""
USERS_DIGEST = "users_sha256"
"""In a study's JSON: of the file of its users' metrics."""


def update(kept: Findings, new: Findings, study: Study, planned: Iterable[Planned]) -> tuple[Findings, list[str]]:
    """Kept findings with newer ones: variants of the same name are replaced, others stay and are compared anew.

    Args:
      kept: of the study, what a folder has.
      new: of ``findings.find``.
      study: what both are of.
      planned: the runs that it needs. Kept variants that were made of other ones are left out.

    Returns:
      The findings, and what else is to be said of them.
    """
    by_data: dict[str, Measured] = {}
    notes: list[str] = []
    needed = identities(study, planned)
    for data in dict.fromkeys([*study.data, *new.by_data, *kept.by_data]):
        old, measured = kept.by_data.get(data), new.by_data.get(data)
        if old is None:
            merged = measured
        else:
            merged, own_notes = _merge(old, measured, study, needed.get(data))
            notes += [f"{study.name} on {data} {note}" for note in own_notes]
        if merged is not None and merged.rows:
            by_data[data] = merged
    before = {claim.key: claim for claim in kept.claims}
    claims = look_at_claims(study, by_data)
    for number, claim in enumerate(claims):
        same = before.get(claim.key)
        if claim.values is None and same is not None and _is_unchanged(claim, kept.by_data, by_data):
            claims[number] = replace(claim, **{name: getattr(same, name) for name in MEASURED})
    return Findings(study.name, by_data, claims), notes


def _is_unchanged(claim: ClaimFound, before: dict[str, Measured], now: dict[str, Measured]) -> bool:
    """Whether the runs that a claim was looked at with have the metrics of those of now."""

    def tests(found: dict[str, Measured], label: str) -> list[dict[str, list[float]]]:
        places = [found[data] for data in (claim.data, claim.since) if data in found]
        return [row.test for measured in places for row in measured.rows if row.label == label]

    return all(tests(before, label) == tests(now, label) != [] for label in (claim.better, claim.worse))


def _merge(
    old: Measured, new: Measured | None, study: Study, needed: dict[str, list[str]] | None
) -> tuple[Measured, list[str]]:
    """Of one dataset; ``needed`` by variant, None where the data are not here to tell."""

    def is_current(row: Row) -> bool:
        return needed is None or not row.identities or row.identities == needed.get(row.label)

    before = {row.label: row for row in old.rows}
    newer = [_with_protocols(row, before.get(row.label)) for row in new.rows] if new else []
    labels = [row.label for row in newer]
    others = [row for row in old.rows if row.label in study.variants and row.label not in labels]
    stay = [row for row in others if is_current(row)]
    if not newer and stay == old.rows:
        return old, []
    nothing = replace(old, rows=[], users={})
    try:
        newer_ones = replace(new, rows=newer) if new else nothing
        merged = join(replace(old, rows=stay), newer_ones, study.against) if stay or newer else nothing
    except NotComparableError as error:
        return old, [f"stays as it was, without new runs of {', '.join(labels)}: {error}"] if newer else []
    gone = [row.label for row in others if not is_current(row)]
    return merged, [f"is without {', '.join(gone)}: what was kept is of other settings"] if gone else []


def _with_protocols(row: Row, before: Row | None) -> Row:
    """A newer row, with what the same runs had by protocols that were not measured again."""
    if before is None or before.identities != row.identities:
        return row
    return replace(row, protocols=before.protocols | row.protocols)


def are_same(one: Findings, other: Findings) -> bool:
    """Whether both hold the same numbers, and users' metrics of the same rows."""
    known = [
        {data: {label: set(users) for label, users in measured.users.items()} for data, measured in own.by_data.items()}
        for own in (one, other)
    ]
    return one == other and known[0] == known[1]


def write(findings: Findings, folder: Path) -> None:
    """Keeps findings in two files of the study's name: the numbers as JSON, and the users' metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    users = {
        "/".join((data, label, metric)): values
        for data, measured in findings.by_data.items()
        for label, own in measured.users.items()
        for metric, values in own.items()
    }
    digest = {}
    if users:
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **users)
        digest = {USERS_DIGEST: hashlib.sha256(packed.getvalue()).hexdigest()}
        with atomic_file(folder / f"{findings.study}.npz") as file:
            file.write(packed.getvalue())
    write_atomically(folder / f"{findings.study}.json", findings.to_json(**digest))


def read(folder: Path, names: Iterable[str]) -> dict[str, Findings]:
    """What a folder keeps of the studies of these names, by name.

    Users' metrics that do not belong to the numbers, as after a crash between the two files, count as unknown.

    Raises:
      ConfigError: a file cannot be read.
    """
    found = {}
    for name in names:
        path, users = folder / f"{name}.json", folder / f"{name}.npz"
        if not path.exists():
            continue
        try:
            text = path.read_text()
            found[name] = Findings.from_json(text)
            content = users.read_bytes() if users.exists() else b""
            if hashlib.sha256(content).hexdigest() == json.loads(text).get(USERS_DIGEST):
                _add_users(found[name], content)
        except UNREADABLE as error:
            raise ConfigError(f"{path} cannot be read ({error}): delete it, and report the runs again") from error
    return found


def _add_users(findings: Findings, content: bytes) -> None:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for key, values in archive.items():
            data, _, rest = key.partition("/")
            label, _, metric = rest.rpartition("/")
            findings.by_data[data].users.setdefault(label, {})[metric] = values
