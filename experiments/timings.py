"""The newest timings that a benchmark has left in a file, a line of JSON for each row, as a table."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffrec_jax.config import ConfigError

from .blocks import Cell, TableBlock
from .tables import NOTHING


def newest(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By benchmark, shape and row, what was measured last."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {(own["benchmark"], own["shape"], own["row"]): own for own in records if "benchmark" in own}


def timings_table(path: Path, wanted: Sequence[str]) -> TableBlock:
    """Medians of ours and of the peer, their ratio, and ours as a multiple of the floor.

    Args:
      path: of benchmarks/results.
      wanted: such as "train_step amazon-book".

    Raises:
      ConfigError: the file is not there, or has no such benchmark.
    """
    try:
        found = newest(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; benchmarks write it with --out") from error
    rows = []
    for name in wanted:
        own = [record for (*of, _), record in found.items() if " ".join(of) == name]
        if not own:
            raise ConfigError(f"{path} has no {name!r}: measure it with --out={path}")
        rows += [_row(record) for record in own if record["peer_s"] or not any(other["peer_s"] for other in own)]
    return TableBlock(["", "ours s", "PyTorch s", "PyTorch / ours", "ours / floor", "command"], rows)


def _row(record: dict[str, Any]) -> list[Cell]:
    ours, floor = statistics.median(record["ours_s"]), record.get("ours_per_floor")
    peer = statistics.median(record["peer_s"]) if record["peer_s"] else None
    of_peer = None if peer is None else peer / ours
    numbers = [_number(ours, ".3g"), _number(peer, ".3g"), _number(of_peer, ".1f"), _number(floor, ".2f")]
    of_shape = [] if record["shape"] == "default" else [f"--shape={record['shape']}"]
    given = record.get("flags", [*of_shape, f"--repeats={len(record['ours_s'])}"])
    command = " ".join(["python -m", f"benchmarks.{record['benchmark']}", *given])
    title = record["row"] if record["shape"] == "default" else f"{record['row']}, {record['shape']} shape"
    return [Cell(title, title), *numbers, Cell(f"`{command}`", command)]


def _number(value: float | None, shown: str) -> Cell:
    return Cell(NOTHING, float("-inf")) if value is None else Cell(format(value, shown), value)
