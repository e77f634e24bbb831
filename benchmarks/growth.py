"""How do seconds and bytes grow with the items, the interactions and the devices, beside what docs/scaling.md says?

A training step of DiffRec for several numbers of items (``--steps``), on one device or on four forced CPU devices; and
the reading of a dataset for several numbers of interactions (``--interactions``). Each is a process of its own. Items
come with a hidden width and a batch size, so that the largest fit one machine.

python -m benchmarks.growth --out=growth.jsonl
"""

import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from rich.table import Table

from benchmarks.cost_model import Job, job_of, machine_of, rate_works
from benchmarks.harness import make_shape, time_interleaved
from benchmarks.records import clear_peak, keep, make_folder_of, measured_apart, status_bytes
from benchmarks.throughput import make_devices
from benchmarks.train_step import OurTraining
from diffrec_jax import Dataset, read_official
from diffrec_jax.config import ConfigError
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.data.matrices import csr_from_pairs
from diffrec_jax.devices import DeviceStrategy, MeshStrategy
from diffrec_jax.memory import GIB, keep_freed_memory
from diffrec_jax.recommenders import make_diffrec
from experiments.cli import start
from experiments.console import make_console
from experiments.flag_parsers import IntListParser, IntListSerializer

FLAGS = flags.FLAGS
FORCED_DEVICES = 4
PER_USER, ITEMS = 50, 2000
"""Interactions of each user, and the items of a dataset that is read."""
READ_BYTES = 48
"""Memory of an interaction while a dataset is read: two ids as they are in the file (16), its place in the matrix with
a weight (8), its code and the codes in order (16), and half of the file's ids once more (8)."""
RATE_FROM = 10_000_000
"""Interactions whose reading gives the rate for all."""
SMALL = 2000
"""Items of the training that is not measured."""


class Step(NamedTuple):
    """A training step whose growth is asked for."""

    items: int
    hidden: int
    batch: int
    way: str

    @property
    def title(self) -> str:
        """In the table and the records."""
        return f"step, {self.items:,} items, hidden {self.hidden}, batch {self.batch}, {self.way}"


def parse_step(text: str) -> Step:
    """``ITEMS:HIDDEN:BATCH``, on one device, or with ``:pmap`` or ``:mesh:ITEM_SHARDS`` on the forced ones.

    Raises:
      ConfigError: it is something else.
    """
    numbers, way = text.split(":")[:3], ":".join(text.split(":")[3:]) or "one"
    if len(numbers) < 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise ConfigError(f"--steps={text!r} is not understood: write ITEMS:HIDDEN:BATCH or ITEMS:HIDDEN:BATCH:WAY")
    items, hidden, batch = map(int, numbers)
    return Step(items, hidden, batch, way)


def splits_of(num_users: int, num_items: int) -> dict[str, np.ndarray]:
    """Pairs [n, 2] by split: the items of a user lie a stride of its own apart, so that none occurs twice."""
    rng = np.random.default_rng(0)
    first = rng.integers(num_items, size=(num_users, 1))
    stride = rng.integers(1, max(2, num_items // PER_USER), size=(num_users, 1))
    found, users = {}, np.arange(num_users)
    for split, (start_at, end) in {"train": (0, 40), "valid": (40, 45), "test": (45, PER_USER)}.items():
        pairs = np.empty((num_users * (end - start_at), 2), np.int64)
        pairs[:, 0] = np.repeat(users, end - start_at)
        pairs[:, 1] = ((first + stride * np.arange(start_at, end)) % num_items).ravel()
        found[split] = pairs
    return found


def training_of(case: Step, num_items: int, devices: DeviceStrategy) -> OurTraining:
    """A training of DiffRec with this many items, which has compiled its step."""
    shape, num_users = make_shape("amazon-book"), max(1000, case.batch)
    splits = splits_of(num_users, num_items)
    train, valid, test = (csr_from_pairs(splits[split], num_users, num_items) for split in SPLITS)
    dataset = Dataset("growth", train, valid, test)
    recommender = make_diffrec(dataclasses.replace(shape.recommender, dims=(case.hidden,)), num_items)
    training = OurTraining(recommender, dataclasses.replace(shape.training, batch_size=case.batch), dataset, devices)
    training.step()
    return training


def job_of_step(case: Step, devices: DeviceStrategy) -> Job:
    """What the cost model knows of it."""
    rows = devices.num_row_shards
    return job_of(case.batch, case.items, (case.hidden,), data_shards=rows, item_shards=devices.num_devices // rows)


def measure_step_bytes(case: Step) -> dict[str, Any]:
    """Most memory of two training steps, and what the cost model says."""
    devices = make_devices(case.way, case.items)
    training_of(case, SMALL, devices)  # what libraries take at their first use is not the step's
    clear_peak()
    before = status_bytes("VmRSS")
    training_of(case, case.items, devices).step()
    return {
        "ours_peak_bytes": status_bytes("VmHWM") - before,
        "predicted_bytes": devices.num_devices * job_of_step(case, devices).held_bytes,
    }


def measure_step_seconds(case: Step, repeats: int) -> dict[str, Any]:
    """Seconds of training steps, in turn with what the rates are taken of, and what the cost model says."""
    devices = make_devices(case.way, case.items)
    job, training = job_of_step(case, devices), training_of(case, case.items, devices)
    works = rate_works(training.training.make_key, job, whole=isinstance(devices, MeshStrategy))
    seconds = time_interleaved({"step": training.step} | works, repeats)
    steps = seconds.pop("step")
    machine = machine_of(seconds, job, devices.num_devices)
    return {"ours_s": steps, "predicted_s": machine.seconds(job), "rates_s": seconds}


def measure_reading(num_interactions: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds and bytes of reading a dataset."""
    num_users = num_interactions // PER_USER
    for split, pairs in splits_of(num_users, ITEMS).items():
        np.save(folder / f"{split}_list.npy", pairs)
    del pairs
    dataset, found, peak_bytes = None, [], 0
    for _ in range(repeats + 1):
        del dataset
        clear_peak()
        before, started = status_bytes("VmRSS"), time.perf_counter()
        dataset = read_official(folder)
        found.append(time.perf_counter() - started)
        peak_bytes = max(peak_bytes, status_bytes("VmHWM") - before)
    assert sum(getattr(dataset, split).nnz for split in SPLITS) == PER_USER * num_users
    return {
        "row": f"reading {num_interactions:,} interactions",
        "interactions": num_interactions,
        "ours_s": found[1:],  # the first meets files that are still being written
        "ours_peak_bytes": peak_bytes,
        "predicted_bytes": READ_BYTES * num_interactions,
    }


def with_predicted_seconds(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorting is what takes long: n log n, by the rate of the case that is nearest to ten million interactions."""
    known = min(read, key=lambda row: abs(math.log(row["interactions"] / RATE_FROM)))
    rate = statistics.median(known["ours_s"]) / (known["interactions"] * math.log(known["interactions"]))
    return [row | {"predicted_s": rate * row["interactions"] * math.log(row["interactions"])} for row in read]


def apart(*given: str, devices: int = 1) -> dict[str, Any]:
    """What a process of its own, with so many CPU devices, measures."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return measured_apart("growth", [*given, f"--repeats={FLAGS.repeats}"], environment=environment)


def step_apart(text: str) -> dict[str, Any]:
    """A row: seconds as ``experiments.train`` runs, which keeps what a step frees; bytes without, as that has gaps."""
    case = parse_step(text)
    devices, row = 1 if case.way == "one" else FORCED_DEVICES, {"row": case.title}
    return row | apart(f"--step={text}", devices=devices) | apart(f"--step={text}", "--bytes", devices=devices)


def main() -> None:
    """Measures, shows and keeps."""
    if FLAGS.step and FLAGS.bytes:
        print(json.dumps(measure_step_bytes(parse_step(FLAGS.step))))
        return
    if FLAGS.step:
        keep_freed_memory()
        print(json.dumps(measure_step_seconds(parse_step(FLAGS.step), FLAGS.repeats)))
        return
    if FLAGS.reading:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_reading(FLAGS.reading, Path(folder), FLAGS.repeats)))
        return
    for text in FLAGS.steps:  # complains of a wrong one before anything is measured
        parse_step(text)
    make_folder_of(FLAGS.out)
    found = [step_apart(text) for text in FLAGS.steps]
    if FLAGS.interactions:
        found += with_predicted_seconds([apart(f"--reading={number}") for number in FLAGS.interactions])
    table = Table(title="growth")
    for heading in ("", "s", "predicted", "", "GiB", "predicted", ""):
        table.add_column(heading, justify="right" if heading or table.columns else "left")
    for row in found:
        cells = [row["row"]]
        for took, said, unit in (
            (statistics.median(row["ours_s"]), row["predicted_s"], 1.0),
            (row["ours_peak_bytes"], row["predicted_bytes"], GIB),
        ):
            cells += [f"{took / unit:.3g}", f"{said / unit:.3g}", f"{said / took - 1:+.0%}"]
        table.add_row(*cells)
    make_console().print(table)
    given = [f"--steps={','.join(FLAGS.steps)}", f"--interactions={','.join(map(str, FLAGS.interactions))}"]
    rows = [row | {"peer_s": []} for row in found]
    keep(FLAGS.out, rows, benchmark="growth", shape="default", flags=given)


def define_flags() -> None:
    """What is measured."""
    ways = "".join(f",100000:400:200:{way}" for way in ("pmap", "mesh:1", "mesh:2", "mesh:4"))
    flags.DEFINE_list(
        "steps",
        ("10000:400:400,100000:400:200,1000000:100:100,10000000:20:20" + ways).split(","),
        f"Training steps, ITEMS:HIDDEN:BATCH, with :pmap or :mesh:ITEM_SHARDS on {FORCED_DEVICES} CPU devices.",
    )
    flags.DEFINE(IntListParser(may_be_empty=True), "interactions", tuple(10**power for power in range(5, 9)),
                 "Sizes of the datasets that are read.", serializer=IntListSerializer())  # fmt: skip
    flags.DEFINE_integer("repeats", 5, "Timed steps.", lower_bound=1)
    flags.DEFINE_string("step", None, "Measure this step alone, and print it: what --steps starts.")
    flags.DEFINE_boolean("bytes", False, "With --step: its memory, not its seconds.")
    flags.DEFINE_integer("reading", None, "Read so many interactions alone, and print it: what --interactions starts.")
    flags.DEFINE_string("out", None, "A line of JSON for each row is added to this file.")


if __name__ == "__main__":
    define_flags()
    start(main, __doc__ or "", keep_memory=False)
