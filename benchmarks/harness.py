"""What the benchmarks share: shapes, interleaved timings, the floor, memory, the table and the record."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from rich.table import Table

from benchmarks.records import clear_peak, keep, make_folder_of, measured_apart, status_bytes
from diffrec_jax.config import ConfigError, DataConfig, RunConfig, make_run_config
from diffrec_jax.data import NAMED_SPECS, Dataset, SyntheticSpec, make_synthetic
from diffrec_jax.memory import keep_freed_memory
from diffrec_jax.recommenders import DiffRecConfig, make_diffrec
from diffrec_jax.training.train_config import TrainConfig
from diffrec_jax.typing import Params
from experiments.cli import start
from experiments.console import make_console
from experiments.flags import FLAGS, GROUPS

SHAPES = ("ml-1m", "yelp", "amazon-book", "small")
SIDES = ("ours", "peer")
Work = Callable[[], Any]
"""One unit of what is measured; returns when its result is there."""


class DisagreementError(AssertionError):
    """Ours and the peer do not compute the same."""


@dataclass(frozen=True)
class Shape:
    """The size of a dataset and the settings of the released run on it."""

    name: str
    spec: SyntheticSpec
    recommender: DiffRecConfig
    training: TrainConfig

    @property
    def layer_products(self) -> list[int]:
        """Inputs times outputs of every layer, first to last; the time embedding, 10 inputs of 10,000s, left out."""
        dims = self.recommender.dims
        sizes = [self.spec.num_items, *reversed(dims), *dims[1:], self.spec.num_items]
        return [before * after for before, after in zip(sizes[:-1], sizes[1:])]

    @property
    def forward_flops(self) -> int:
        """Matmul operations of one row's way through the network."""
        return 2 * sum(self.layer_products)

    @property
    def folded_flops(self) -> int:
        """Matmul operations of one row's folded chain: hidden layers T times, W_out W_in T - 1 times, one decoding."""
        hidden, decoding = self.layer_products[1:-1], self.layer_products[-1]
        num_timesteps = self.recommender.num_timesteps
        return 2 * (num_timesteps * sum(hidden) + (num_timesteps - 1) * self.recommender.dims[-1] ** 2 + decoding)

    @property
    def folding_flops(self) -> int:
        """Matmul operations of W_out W_in, once per parameter set."""
        return 2 * self.recommender.dims[-1] * self.layer_products[0]


def make_shape(name: str) -> Shape:
    """A named dataset's size, and its preset ``released``; small: ml-1m's settings on a small dataset."""
    of_dataset, of_spec = ("ml-1m", "synthetic") if name == "small" else (name, f"synthetic-{name}")
    config = released_config("diffrec", of_dataset)
    assert config.training is not None
    return Shape(name, NAMED_SPECS[of_spec], config.recommender, config.training)


def released_config(model: str, dataset: str) -> RunConfig:
    """A model with the released settings for the clean dataset."""
    return make_run_config(model, DataConfig(dataset, "clean", None, None), preset="released")


def init_rankable_params(shape: Shape, dataset: Dataset) -> Params:
    """Untrained parameters with the items' popularity as output bias: their rankings find something."""
    params = jax.jit(make_diffrec(shape.recommender, dataset.num_items).init_params)(shape.training.make_key())
    popularity = np.bincount(dataset.train.indices, minlength=dataset.num_items) / dataset.num_users
    output_layer = params["params"]["output_layer"] | {"bias": jnp.asarray(popularity, jnp.float32)}
    return {"params": params["params"] | {"output_layer": output_layer}}


SETTLE_S = 0.3
"""Before each timed work on a CPU: OpenMP's waiting threads spin, and would take the next one's cores."""


def time_interleaved(works: Mapping[str, Work], repeats: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each work, run in turn (a, b, a, b, ...); ``warm_up`` runs a first turn unmeasured, which compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-1 if warm_up else 0, repeats):
        for name, work in works.items():
            time.sleep(SETTLE_S if jax.default_backend() == "cpu" else 0)  # a GPU left idle lowers its clock
            started = time.perf_counter()
            work()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def matmul_rate(shape: Shape, repeats: int = 4) -> float:
    """Operations per second of the fastest float32 matrix product seen here: JAX and PyTorch, square and as in the net.

    Of several calls the largest result is the device's rate; the others met other load.
    """
    batch_size, width = shape.training.batch_size, shape.recommender.dims[-1]
    num_items = min(shape.spec.num_items, 32_768)
    jax_matmul = jax.jit(jnp.matmul)
    best = 0.0
    for rows, inner, columns in ((2048, 2048, 2048), (batch_size, num_items, width), (batch_size, width, num_items)):
        a, b = torch.ones(rows, inner), torch.ones(inner, columns)
        jax_a, jax_b = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())
        works = {
            "jax": lambda a=jax_a, b=jax_b: jax_matmul(a, b).block_until_ready(),
            "torch": lambda a=a, b=b: a @ b,
        }
        seconds = time_interleaved(works, repeats)
        best = max(best, 2 * rows * inner * columns / min(min(values) for values in seconds.values()))
    return best


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    ours_s: list[float]
    peer_s: list[float] = field(default_factory=list)
    """Empty for what the peer does not do."""
    flops: float = 0.0
    """Matmul operations that ours needs at least, 0 where they are not the measure."""
    has_memory: bool = False
    """Whether this is the work of which the sides' memory is measured."""


class Measurement(NamedTuple):
    """What a benchmark found."""

    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class Benchmark:
    """One question.

    Attributes:
      name: of the module.
      make_side: makes the work of one side, "ours" or "peer", for the memory column.
      measure: checks that the sides agree and times them.
      repeats: timed turns unless --repeats says otherwise.
      select_users: the part of the dataset that is used.
      sides: headings of the two sides.
      peer_is_ours: whether both sides are the library's.
      more_sides: others that ``make_side`` knows, which are timed in a process of their own.
    """

    name: str
    make_side: Callable[[str, Shape, Dataset], Work]
    measure: Callable[[Shape, Dataset, int], Measurement]
    repeats: int
    select_users: Callable[[Shape, Dataset], Dataset] = lambda shape, dataset: dataset
    sides: tuple[str, str] = SIDES
    peer_is_ours: bool = False
    more_sides: tuple[str, ...] = ()


def _print_peak_bytes(benchmark: Benchmark, side: str, shape: Shape, dataset: Dataset) -> None:
    """Prints how much more than libraries and dataset this process holds at most while one side works twice."""
    clear_peak()
    before = status_bytes("VmRSS")
    work = benchmark.make_side(side, shape, dataset)
    work()
    work()
    print(json.dumps({"peak_bytes": status_bytes("VmHWM") - before}))


def _peak_bytes(benchmark: Benchmark, side: str) -> int:
    """The same, measured in a process of its own with the flags of this one."""
    return measured_apart(benchmark.name, [*sys.argv[1:], f"--side={side}"])["peak_bytes"]


def _check_room(num_bytes: int) -> None:
    """Refuses to time both sides side by side where their memory does not fit."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and (available := int(line.split()[1]) * 1024) < num_bytes:
            raise ConfigError(
                f"both sides together hold {num_bytes / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are available: "
                "take a smaller --shape"
            )


class OwnProcess:
    """One side's work, in a process of its own with the flags of this one: a call does it once there and waits for it.

    What this process does with memory and threads does not reach it.
    """

    def __init__(self, benchmark_name: str, side: str):
        command = [sys.executable, "-m", f"benchmarks.{benchmark_name}", *sys.argv[1:], f"--side={side}", "--on_demand"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._wait()

    def __call__(self) -> None:
        """Works once."""
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        self._wait()

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()

    def _wait(self) -> None:
        assert self.process.stdout
        if not self.process.stdout.readline():
            raise ConfigError(f"{' '.join(self.process.args)} ended with status {self.process.wait()}")  # type: ignore[arg-type]


def _work_on_demand(work: Work) -> None:
    """The other end of ``OwnProcess``: says that it is ready, works for every line that it reads, and says so."""
    print(flush=True)
    for _ in sys.stdin:
        work()
        print(flush=True)


def _summary(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.4g} ({min(seconds):.4g})" if seconds else "-"


def _records(measurement: Measurement, rate: float, memory: Mapping[str, int]) -> list[dict[str, Any]]:
    records = []
    for row in measurement.rows:
        median, ratio = statistics.median(row.ours_s), {}
        if row.peer_s:
            ratio = {
                "ratio": statistics.median(row.peer_s) / median,
                "ratio_of_minima": min(row.peer_s) / min(row.ours_s),
            }
        floor = {"floor_s": row.flops / rate, "ours_per_floor": median * rate / row.flops} if row.flops else {}
        bytes_of = {f"{side}_peak_bytes": memory[side] for side in memory} if row.has_memory else {}
        records.append({"row": row.title, "ours_s": row.ours_s, "peer_s": row.peer_s} | ratio | floor | bytes_of)
    return records


def make_table(title: str, records: list[dict[str, Any]], sides: tuple[str, str] = SIDES) -> Table:
    """The table: medians, minima in brackets; ``sides`` are the headings of ours and the peer."""
    table = Table(title=title)
    table.add_column("")
    ours, peer = sides
    columns = (f"{ours} s", f"{peer} s", f"{peer} / {ours}", "floor s", f"{ours} / floor", f"{ours} GiB", f"{peer} GiB")
    for column in columns:
        table.add_column(column, justify="right")

    def show(record: dict[str, Any], key: str, pattern: str, unit: float = 1.0) -> str:
        return format(record[key] / unit, pattern) if key in record else "-"

    for record in records:
        ratio = f"{record['ratio']:.2f} ({record['ratio_of_minima']:.2f})" if "ratio" in record else "-"
        table.add_row(
            record["row"],
            _summary(record["ours_s"]),
            _summary(record["peer_s"]),
            ratio,
            show(record, "floor_s", ".4g"),
            show(record, "ours_per_floor", ".2f"),
            show(record, "ours_peak_bytes", ".2f", 2**30),
            show(record, "peer_peak_bytes", ".2f", 2**30),
        )
    return table


def _define_flags(benchmark: Benchmark) -> None:
    flags.DEFINE_enum("shape", "ml-1m", SHAPES, "Size of a clean dataset, with its released settings, batch 400.")
    flags.DEFINE_integer("repeats", benchmark.repeats, "Timed turns; each side runs once a turn.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "CPU threads of either side.", lower_bound=1)
    flags.DEFINE_boolean("memory", True, "Measure the peak memory of either side, in processes of their own.")
    flags.DEFINE_string("out", None, "Append the rows to this file, a JSON object per line.")
    flags.DEFINE_enum(
        "side",
        None,
        [*SIDES, *benchmark.more_sides],
        "Run this side alone and print its peak memory: what --memory starts.",
    )
    flags.DEFINE_boolean("peer_keeps_memory", False, "Let a peer in a process of its own, too, use freed memory again.")
    flags.DEFINE_boolean("on_demand", False, "With --side: work once for every line of the standard input.")
    names = ["shape", "repeats", "threads", "memory", "peer_keeps_memory", "out", "side", "on_demand"]
    GROUPS["Benchmark"] = names


def _limit_threads(num_threads: int) -> None:
    """Binds the process to so many cores: XLA makes as many threads as there are, and has no other setting."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_threads:
        raise ConfigError(f"--threads={num_threads}, but this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[:num_threads])
    torch.set_num_threads(num_threads)


def _main(benchmark: Benchmark) -> None:
    if FLAGS.side != "peer" or FLAGS.peer_keeps_memory or benchmark.peer_is_ours:
        keep_freed_memory()  # as our scripts do; before there are threads, since each has a heap of its own then
    jax.config.update("jax_platforms", "cpu")
    _limit_threads(FLAGS.threads)
    make_folder_of(FLAGS.out)
    if FLAGS.on_demand and not FLAGS.side:
        raise ConfigError("--on_demand needs --side")
    shape = make_shape(FLAGS.shape)
    memory = {}
    if FLAGS.memory and not FLAGS.side:  # first, while this process holds nothing
        memory = {side: _peak_bytes(benchmark, side) for side in SIDES}
    dataset = benchmark.select_users(shape, make_synthetic(shape.spec, name=f"synthetic-{shape.name}"))
    if FLAGS.on_demand:
        _work_on_demand(benchmark.make_side(FLAGS.side, shape, dataset))
        return
    if FLAGS.side:
        _print_peak_bytes(benchmark, FLAGS.side, shape, dataset)
        return
    rate_before = matmul_rate(shape)
    if memory:
        _check_room(sum(memory.values()))
    measurement = benchmark.measure(shape, dataset, FLAGS.repeats)
    rate = max(rate_before, matmul_rate(shape))
    records = _records(measurement, rate, memory)
    console = make_console()
    console.print(
        f"{dataset.summary()}; dims {list(shape.recommender.dims)}, T {shape.recommender.num_timesteps}, "
        f"batch {shape.training.batch_size}; {FLAGS.threads} threads, best matmul {rate / 1e9:.0f} GFLOP/s",
    )
    console.print(
        make_table(f"{benchmark.name}, {shape.name}: median (minimum) of {FLAGS.repeats}", records, benchmark.sides)
    )
    for note in measurement.notes:
        console.print(note)
    keep(
        FLAGS.out,
        records,
        packages={"torch": torch.__version__},
        benchmark=benchmark.name,
        shape=shape.name,
        num_users=dataset.num_users,
        recommender=dataclasses.asdict(shape.recommender),
        threads=FLAGS.threads,
        matmul_flops_per_s=rate,
        notes=measurement.notes,
    )


def run(benchmark: Benchmark, usage: str | None) -> None:
    """Runs a benchmark from the command line."""
    _define_flags(benchmark)
    start(lambda: _main(benchmark), usage or "", keep_memory=False)
