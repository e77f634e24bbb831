"""The run directory: config.json, metrics.jsonl, results.json beside the checkpoints. Everything downstream reads it.

metrics.jsonl is append-only. A resumed run first appends a ``resume`` record naming the step it goes on from: records
of later steps before that line were done again and are superseded. Where it ``goes_on`` to more steps, so are those
that were made ``off_schedule``, because the run was to end there.

config.json says all that a result depends on. results.json repeats its digest: results of another configuration, which
an interrupted resume may leave, do not count as the run's.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.files import (
    SIGNATURE,
    UNREADABLE,
    atomic_file,
    naming,
    read_signed_json,
    signed_json,
    write_atomically,
)
from diffrec_jax.memory import peak_rss_bytes
from diffrec_jax.training.clock import PROGRESS, are_seconds
from diffrec_jax.training.lock import LOCK, hold

CONFIG_DIGEST, LOCATION = "config_sha256", "location"
CONFIG, METRICS, RESULTS = "config.json", "metrics.jsonl", "results.json"
OFF_SCHEDULE = {"off_schedule": True}
CLOCK, RESUME, PEAK = "clock", "resume", "peak_rss_bytes"
ITEM_GROUPS, ITEM_EMBEDDINGS = "item_groups.npy", "item_embeddings.npy"


class RunDirectoryError(ValueError):
    """A run directory that cannot be used as asked; the message says why and what to do."""


class RunDirectory:
    """The files of one run.

    Args:
      path: the directory.
      writes: false for processes that only read: of several, one writes.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path = Path(path).expanduser()
        self.writes = writes

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def held(self, *, numbered: bool = False) -> Iterator[None]:
        """Holds the directory against other processes that write; it is made where it is missing.

        Args:
          numbered: takes a new one, with a number behind its name where that is taken.

        Raises:
          LockedError: another process holds it; the message says which.
        """
        if not self.writes:
            yield
            return
        with hold(self.path, numbered=numbered) as self.path:
            yield

    def check_unused(self) -> None:
        """Raises RunDirectoryError if a run, or anything else, is there already."""
        if (self.path / CONFIG).exists():
            raise RunDirectoryError(
                f"{self.path} holds a run already: pass --resume to go on with it, or choose another --run_dir"
            )
        if self.path.is_file() or (self.path.is_dir() and any(file.name != LOCK for file in self.path.iterdir())):
            raise RunDirectoryError(f"{self.path} exists and is no run directory: choose another --run_dir")

    def create(self, config: dict[str, Any]) -> None:
        """Makes the directory and writes the configuration.

        Raises:
          RunDirectoryError: a run, or anything else, is there already; nothing is written then.
        """
        if not self.writes:
            return
        self.check_unused()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_json(CONFIG, config)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / CONFIG).exists()

    def config(self) -> dict[str, Any]:
        """The configuration the run was started with.

        Raises:
          RunDirectoryError: there is none, it cannot be read, or it is not what was written.
        """
        config = self._read_json(CONFIG, "give the --run_dir of an experiments.train run")
        if SIGNATURE not in config:
            return config
        try:
            return read_signed_json((self.path / CONFIG).read_text())
        except ValueError:
            raise RunDirectoryError(
                f"{self.path / CONFIG} is not what was written: it is damaged, or was edited; restore it (settings are "
                "given as flags)"
            ) from None

    def results(self) -> dict[str, Any] | None:
        """The results of a finished run; None before, and where they are those of another configuration."""
        if not (self.path / RESULTS).exists():
            return None
        results = self._read_json(RESULTS, "delete it and resume")
        return results if results.get(CONFIG_DIGEST) == config_digest(self.config()) else None

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        if self.writes:
            write_atomically(
                self.path / name, signed_json(values) if name == CONFIG else json.dumps(values, indent=1) + "\n"
            )

    def _read_json(self, name: str, remedy: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_text())
            if not isinstance(values, dict):
                raise ValueError("it holds no object")
            return values
        except FileNotFoundError:
            raise RunDirectoryError(f"{self.path / name} does not exist: {remedy}") from None
        except ValueError as error:
            raise RunDirectoryError(f"{self.path / name} is not valid JSON ({error}): {remedy}") from None

    def check_config(self, stored: dict[str, Any], config: dict[str, Any], *, may_differ: tuple[str, ...] = ()) -> None:
        """Compares the configuration the run was started with and the one asked for, key by key.

        Raises:
          RunDirectoryError: they differ beyond the (dotted) keys ``may_differ``; the message lists where.
        """
        listed = differences(stored, config, may_differ=may_differ)
        if listed:
            raise RunDirectoryError(
                f"{self.path} is a run of another configuration: {listed}; choose another --run_dir or repeat its flags"
            )

    def update_config(self, config: dict[str, Any]) -> None:
        """Replaces the configuration, for values that a resume may change."""
        self._write_json(CONFIG, config)

    def log(self, record: dict[str, Any]) -> None:
        """Appends a record, first ending a line that a killed run left torn."""
        if not self.writes:
            return
        path = self.path / METRICS
        with naming(path), path.open("ab+") as file:
            file.seek(-1 if file.tell() else 0, os.SEEK_END)
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")

    def log_clock(self, step: int, seconds: dict[str, float], *, saved: bool = False) -> None:
        """Appends where this process' time went so far, and the most memory that it had.

        ``saved``: what it did until now is in a checkpoint.
        """
        self.log({"event": CLOCK, "step": step, "saved": saved, "seconds": seconds, PEAK: peak_rss_bytes()})

    def clocks(self) -> list[dict[str, Any]]:
        """What ``log_clock`` wrote, of all processes."""
        return [record for record in self._lines() if record["event"] == CLOCK]

    def peak_bytes(self, of_this_process: int) -> int | None:
        """The most memory that a process of the run had; None where earlier versions, which do not tell, began it."""
        if not any(record["event"] == RESUME for record in self._lines()):
            return of_this_process
        clocks = self.clocks()
        told = [record[PEAK] for record in clocks if isinstance(record.get(PEAK), int)]
        return max(of_this_process, *told) if told and len(told) == len(clocks) else None

    def _lines(self) -> list[dict[str, Any]]:
        """Every record there is, in the order they were written; torn and damaged lines are left out."""
        path, found = self.path / METRICS, []
        for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if not isinstance(record, dict) or "event" not in record or not isinstance(record.get("step"), int):
                continue
            if record["event"] != CLOCK or are_seconds(record.get("seconds")):
                found.append(record)
        return found

    def earlier_clocks(self) -> tuple[list[dict[str, float]], float]:
        """Where the time of the processes before this one went, and the seconds of steps that were made again.

        A process is known until its last record. This one has resumed already.
        """
        ended: list[dict[str, float]] = []
        lost, newest, at_save = 0.0, None, {}
        for record in self._lines():
            if record["event"] == CLOCK:
                newest = record["seconds"]
                if record.get("saved"):
                    at_save[record["step"]] = newest
            elif record["event"] == RESUME and newest is not None:
                kept = at_save.get(record["step"])
                lost += sum(newest[kind] - (kept[kind] if kept else 0.0) for kind in PROGRESS)
                ended.append(newest)
                newest, at_save = None, {}
        return ended, lost

    def records(self) -> list[dict[str, Any]]:
        """All records that still hold: torn lines and those superseded by a resume are left out."""
        kept: list[dict[str, Any]] = []
        for record in self._lines():
            if record.get("event") == CLOCK:
                continue
            if record.get("event") == RESUME:
                kept = [earlier for earlier in kept if earlier["step"] <= record["step"]]
                if record.get("goes_on"):
                    kept = [earlier for earlier in kept if not OFF_SCHEDULE.items() <= earlier.items()]
            else:
                kept.append(record)
        return kept

    def write_batch(self, step: int, arrays: dict[str, np.ndarray]) -> Path:
        """Writes the batch of a step that went wrong, for a look at it: its file."""
        path = self.path / f"batch_of_step_{step}.npz"
        if self.writes:
            with atomic_file(path) as file:
                np.savez(file, allow_pickle=False, **arrays)
        return path

    def _write_array(self, name: str, array: np.ndarray) -> None:
        if not self.writes:
            return
        with atomic_file(self.path / name) as file:
            np.save(file, array, allow_pickle=False)

    def write_item_embeddings(self, embeddings: np.ndarray) -> None:
        """Writes item_embeddings.npy [I, D], for whatever else is in need of them."""
        self._write_array(ITEM_EMBEDDINGS, embeddings)

    def write_item_groups(self, item_groups: np.ndarray) -> None:
        """Writes item_groups.npy: the structure of a latent model is part of the run, never computed again."""
        self._write_array(ITEM_GROUPS, item_groups)

    def item_groups(self, num_items: int) -> np.ndarray | None:
        """The group of each item, None where the run has not written it.

        Raises:
          RunDirectoryError: the file is damaged, or of another number of items.
        """
        path = self.path / ITEM_GROUPS
        if not path.exists():
            return None
        try:
            item_groups = np.load(path, allow_pickle=False)
        except UNREADABLE as error:
            raise RunDirectoryError(f"{path} cannot be read ({error}): restore it, or train anew") from None
        if item_groups.shape != (num_items,) or item_groups.dtype.kind != "i" or item_groups.min() < 0:
            raise RunDirectoryError(f"{path} does not hold the groups of {num_items} items: restore it, or train anew")
        return item_groups

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json, which marks the run as finished."""
        self._write_json(RESULTS, results | {CONFIG_DIGEST: config_digest(self.config())})


def config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of a configuration, as config.json holds it, but for where its data lie."""
    identity = {key: value for key, value in config.items() if key != LOCATION}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], *, may_differ: tuple[str, ...] = ()) -> str:
    """Where two configurations differ, for people; empty where they do not, beyond the dotted keys ``may_differ``."""
    there, here = _flatten(old), _flatten(json.loads(json.dumps(new)))
    keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key) and key not in may_differ]
    listed = ", ".join(f"{key} ({there.get(key)} there, {here.get(key)} asked for)" for key in keys[:5])
    return listed + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
