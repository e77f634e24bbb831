"""How many users a second are trained on and recommended to, on whatever is here, and where does the time go?

Sweeps models, shapes, batch sizes, ways of using the devices, types of products and forms of the loss. Beside every
step's time: matmul operations against the best measured rate, bytes against the measured bandwidth, and what the cost
model of docs/scaling.md predicts; one PyTorch peer a shape and batch size, on the same device.

python -m benchmarks.throughput --shapes=yelp --ways=one,pmap,mesh:1,mesh:2 --out=new.jsonl --compare=old.jsonl
"""

import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from absl import flags

from benchmarks.cost_model import Job, job_of, machine_of, rate_works
from benchmarks.harness import SHAPES, Shape, make_shape, matmul_rate, time_interleaved
from benchmarks.latent_step import make_training
from benchmarks.records import keep, make_folder_of
from benchmarks.sampling import PeerSampling
from benchmarks.train_step import OurTraining, PeerTraining
from diffrec_jax.config import ConfigError
from diffrec_jax.data import Dataset, make_synthetic
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy, MeshStrategy, make_strategy
from diffrec_jax.evaluation import top_k_items
from diffrec_jax.memory import peak_rss_bytes
from diffrec_jax.recommenders import make_diffrec
from diffrec_jax.recommenders.diffrec import LossImpl
from diffrec_jax.rows import row_keys
from experiments.cli import start
from experiments.console import make_console
from experiments.flag_parsers import IntListParser, IntListSerializer
from experiments.flags import FLAGS

K = 100
MODELS = ("diffrec", "l_diffrec")
DTYPES = ("float32", "bfloat16")
REGRESSION = 0.9
KEY = ("device", "model", "shape", "batch", "way", "devices", "dtype", "loss", "steps")
"""What two records have in common when they measure the same."""


class Case(NamedTuple):
    """One line of the table."""

    model: str
    shape: str
    batch: int
    way: str
    dtype: str
    loss: str
    steps: int
    """Given to the device at once."""

    @property
    def loss_fields(self) -> dict[str, Any]:
        """What the form of the loss sets in the recommender's configuration.

        Raises:
          ConfigError: there is no such form.
        """
        fields: dict[str, Any] = {}
        for part in self.loss.split("+"):
            name, _, size = part.partition(":")
            if name == "sketch" and size.isdigit() and int(size):
                fields["noise_sketch"] = int(size)
            elif part == "gram":
                fields["loss_impl"] = "gram"
            elif part != "plain":
                forms = "plain, sketch:K, gram or sketch:K+gram"
                raise ConfigError(f"--losses={self.loss!r} is not understood: write {forms}")
        if fields and self.model != "diffrec":
            raise ConfigError(f"--losses={self.loss} is DiffRec's: {self.model} has plain alone")
        return fields


def make_devices(way: str, num_items: int) -> DeviceStrategy:
    """``one``, ``pmap`` or ``mesh:ITEM_SHARDS``.

    Raises:
      ConfigError: there is no such way, or it does not fit the devices.
    """
    kind, _, shards = way.partition(":")
    if way == "one":
        return SINGLE_DEVICE
    if kind not in ("pmap", "mesh") or (shards and not shards.isdigit()):
        raise ConfigError(f"--ways={way!r} is not understood: write one, pmap or mesh:ITEM_SHARDS")
    try:
        return make_strategy(kind, num_items=num_items, item_shards=int(shards or 1))  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"--ways={way}: {error}") from error


def shape_of(case: Case) -> Shape:
    """The released settings with the case's batch size, type of products and steps at once."""
    shape = make_shape(case.shape)
    changes = {"batch_size": case.batch, "compute_dtype": case.dtype, "steps_at_once": case.steps}
    if case.steps > 1:
        changes["prng_impl"] = "threefry2x32"  # the default of JAX 0.10 is not compiled (TrainConfig.check_compiles)
    training = dataclasses.replace(shape.training, **changes)
    recommender = dataclasses.replace(shape.recommender, **case.loss_fields)
    return dataclasses.replace(shape, training=training, recommender=recommender)


def make_ours(case: Case, shape: Shape, dataset: Dataset, devices: DeviceStrategy) -> OurTraining:
    """The training run of a case."""
    if case.model == "l_diffrec":
        return make_training("ours", shape, dataset, devices)
    return OurTraining(make_diffrec(shape.recommender, dataset.num_items), shape.training, dataset, devices)


def seconds_each(work: Any, repeats: int) -> list[float]:
    """Of ``repeats`` calls after one that is not counted."""
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def recommending(ours: OurTraining, dataset: Dataset, shape: Shape) -> Any:
    """The top 100 unseen items of a batch of users, by the trained parameters."""
    devices, recommender, size = ours.devices, ours.recommender, shape.training.batch_size
    users = np.arange(min(size, dataset.num_users))
    prepared = devices.compile(recommender.prepare_scoring)(ours.state.params)

    def best(state: Any, inputs: Any, seen: Any):
        keys = row_keys(shape.training.make_key(), inputs)
        return top_k_items(recommender.score_fn(state, inputs, keys), seen, K, devices.top_k)

    compiled = devices.compile(best, gives_rows=True)

    def work() -> None:
        inputs, seen = (
            devices.make_batch(rows, users, batch_size=size) for rows in (dataset.train, dataset.train_and_valid)
        )
        devices.fetch_rows(compiled(prepared, inputs, seen))

    return work


def measure(case: Case, dataset: Dataset, flops_per_s: float) -> dict[str, Any]:
    """One record."""
    shape, devices = shape_of(case), make_devices(case.way, dataset.num_items)
    if case.batch % devices.num_row_shards:
        raise ConfigError(f"--batch_sizes: {case.batch} does not divide over {devices.num_row_shards} devices")
    started = time.perf_counter()
    ours = make_ours(case, shape, dataset, devices)
    ours.step()
    first_s = time.perf_counter() - started
    inference_s = statistics.median(seconds_each(recommending(ours, dataset, shape), FLAGS.repeats))
    used_bytes = device_bytes()  # before the works that take rates have theirs
    rows, items = devices.num_row_shards, devices.num_devices // devices.num_row_shards
    job = job_of(case.batch, dataset.num_items, shape.recommender.dims, data_shards=rows, item_shards=items)
    # The machine's rates change from minute to minute, so they are taken in turn with the steps.
    works = {"step": ours.step}
    if case.model == "diffrec":
        works |= rate_works(shape.training.make_key, job, whole=isinstance(devices, MeshStrategy))
    seconds = time_interleaved(works, FLAGS.repeats)
    steps = [together / case.steps for together in seconds.pop("step")]
    step_s = statistics.median(steps)
    shared = devices.num_devices if jax.default_backend() == "cpu" else 1
    record: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        **case._asdict(),
        "matmul_precision": FLAGS.matmul_precision,
        "devices": devices.num_devices,
        "step_s": steps,
        "compile_s": max(first_s - case.steps * step_s, 0.0),
        "train_users_per_s": case.batch / step_s,
        "inference_users_per_s": case.batch / inference_s,
        "device_bytes": used_bytes,
    }
    if case.model == "diffrec":
        machine = machine_of(seconds, job, shared)
        job = lean(job, **case.loss_fields)
        speed = flops_per_s * devices.num_devices / shared
        record |= {
            "utilisation": job.flops / speed / step_s,
            "bandwidth_share": shared * job.device_bytes / machine.bytes_per_s / step_s,
            "predicted_step_s": machine.seconds(job),
            "floor_ratio": min(steps) * speed / job.flops,
        }
    return record


def lean(job: Job, noise_sketch: int = 0, loss_impl: LossImpl = "dense") -> Job:
    """The job with fewer draws and products: two of five are the noise's, three the error's.

    Sketched noise meets ``noise_sketch`` rows of the first layer instead of all items; by the Gram matrix the error
    takes two products of the layer's width instead of three of a device's rows.
    """
    of_noise = 2 * noise_sketch / job.items if noise_sketch else 2
    of_error = 2 * job.hidden * job.data_shards / job.batch if loss_impl == "gram" else 3
    return dataclasses.replace(job, draws=not noise_sketch, product_share=(of_noise + of_error) / 5)


def device_bytes() -> int:
    """Most memory of the first device, or of the process on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else peak_rss_bytes()


def measure_peer(shape: Shape, dataset: Dataset) -> dict[str, float]:
    """Users a second of the PyTorch peer, with its data loader, on CUDA where ours is on a GPU."""
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    plain = dataclasses.replace(shape, recommender=make_shape(shape.name).recommender)
    training = PeerTraining(plain, dataset, device)
    step_s = statistics.median(seconds_each(training.step, FLAGS.repeats))
    found = {"peer_train_users_per_s": shape.training.batch_size / step_s}
    work = PeerSampling(plain, dataset, device=device).recommend
    found["peer_inference_users_per_s"] = shape.training.batch_size / statistics.median(
        seconds_each(work, max(1, FLAGS.repeats // 2))
    )
    return found


COLUMNS = (
    ("model", lambda r: r["model"]),
    ("shape", lambda r: r["shape"]),
    ("batch", lambda r: str(r["batch"])),
    ("devices", lambda r: f"{r['devices']} {r['way']}"),
    ("dtype", lambda r: r["dtype"]),
    ("loss", lambda r: r["loss"]),
    ("steps at once", lambda r: str(r["steps"])),
    ("train users/s", lambda r: f"{r['train_users_per_s']:,.0f}"),
    ("x peer", lambda r: _ratio(r, "train_users_per_s")),
    ("top-100 users/s", lambda r: f"{r['inference_users_per_s']:,.0f}"),
    ("x peer", lambda r: _ratio(r, "inference_users_per_s")),
    ("utilisation", lambda r: f"{r['utilisation']:.0%}" if "utilisation" in r else "-"),
    ("bandwidth", lambda r: f"{r['bandwidth_share']:.0%}" if "bandwidth_share" in r else "-"),
    ("step s", lambda r: f"{statistics.median(r['step_s']):.4g}"),
    ("predicted", lambda r: f"{r['predicted_step_s']:.4g}" if "predicted_step_s" in r else "-"),
    ("compile s", lambda r: f"{r['compile_s']:.1f}"),
    ("GiB", lambda r: f"{r['device_bytes'] / 2**30:.2f}"),
)


def _ratio(record: dict[str, Any], name: str) -> str:
    return f"{record[name] / record[f'peer_{name}']:.1f}" if f"peer_{name}" in record else "-"


def markdown(records: list[dict[str, Any]]) -> str:
    """The table."""
    lines = ["| " + " | ".join(name for name, _ in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(show(record) for _, show in COLUMNS) + " |" for record in records]
    return "\n".join(lines)


def read_records(path: str) -> list[dict[str, Any]]:
    """What --out wrote.

    Raises:
      ConfigError: the file is missing or holds something else.
    """
    try:
        records = [json.loads(line) for line in Path(path).read_text().splitlines()]
        records = [{"steps": 1} | record for record in records]  # those of before 0.2.0 say nothing of it
        return [record for record in records if all(name in record for name in (*KEY, "train_users_per_s"))]
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise ConfigError(f"--compare={path} cannot be read ({error}): give a file that --out wrote") from error


def regressions(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """A line for each figure below nine tenths of what the newest old record of the same case has."""
    before = {tuple(record[name] for name in KEY): record for record in old}
    lines = []
    for record in new:
        known = before.get(tuple(record[name] for name in KEY))
        for name in ("train_users_per_s", "inference_users_per_s") if known else ():
            if record[name] < REGRESSION * known[name]:
                what = " ".join(str(record[part]) for part in KEY[1:])
                lines.append(f"{what}: {name} {record[name]:,.0f}, was {known[name]:,.0f}")
    return lines


def main() -> None:
    """Flags to a table."""
    old = read_records(FLAGS.compare) if FLAGS.compare else None
    cases = [
        Case(*values)
        for values in itertools.product(
            FLAGS.models, FLAGS.shapes, FLAGS.batch_sizes, FLAGS.ways, FLAGS.dtypes, FLAGS.losses, FLAGS.steps_at_once
        )
    ]
    for name, given, known in (
        ("models", FLAGS.models, MODELS),
        ("shapes", FLAGS.shapes, SHAPES),
        ("dtypes", FLAGS.dtypes, DTYPES),
    ):
        unknown = [value for value in given if value not in known]
        if unknown:
            raise ConfigError(f"--{name}={unknown[0]} is unknown: choose from {', '.join(known)}")
    for case in cases:  # complains of a wrong one before anything is measured
        _ = case.loss_fields
        make_devices(case.way, make_shape(case.shape).spec.num_items)
    make_folder_of(FLAGS.out)
    # Both sides multiply alike: PyTorch's own default is float32, JAX's the fastest that the device has.
    jax.config.update("jax_default_matmul_precision", FLAGS.matmul_precision)
    torch.set_float32_matmul_precision("highest" if FLAGS.matmul_precision == "float32" else "high")
    console, records, datasets, peers, rates = make_console(), [], {}, {}, {}
    for case in cases:
        shape = shape_of(case)
        if case.shape not in datasets:
            datasets[case.shape] = make_synthetic(shape.spec, name=f"synthetic-{case.shape}")
        dataset = datasets[case.shape]
        if (case.shape, case.batch) not in rates:
            rates[case.shape, case.batch] = matmul_rate(shape)
        if FLAGS.peer and (case.shape, case.batch) not in peers:
            peers[case.shape, case.batch] = measure_peer(shape, dataset)
        record = measure(case, dataset, rates[case.shape, case.batch])
        record |= peers.get((case.shape, case.batch), {}) if case.model == "diffrec" else {}
        records.append(record)
        console.print(f"{' '.join(map(str, case))}: {record['train_users_per_s']:,.0f} users/s in training")
        keep(FLAGS.out, [record], packages={"torch": torch.__version__})
    print(markdown(records))
    if old is not None:
        found = regressions(old, records)
        for line in found:
            console.print(f"slower: {line}")
        console.print(f"{len(found)} regressions against {FLAGS.compare}")


def define_flags() -> None:
    """What is swept."""
    flags.DEFINE_list("models", ["diffrec"], f"Of {', '.join(MODELS)}.")
    flags.DEFINE_list("shapes", ["ml-1m"], f"Of {', '.join(SHAPES)}: sizes and released settings of the datasets.")
    flags.DEFINE(IntListParser(), "batch_sizes", (400,), "Users a step.", serializer=IntListSerializer())
    flags.DEFINE_list("ways", ["one"], "one, pmap (all devices), mesh:ITEM_SHARDS (all devices).")
    flags.DEFINE_list("dtypes", ["float32"], "float32, bfloat16: what the factors of products are rounded to.")
    flags.DEFINE_list("losses", ["plain"], "DiffRec's: plain, sketch:K, gram, sketch:K+gram (see experiments.train).")
    flags.DEFINE(
        IntListParser(least=1), "steps_at_once", (1,), "Steps given to the device together.",
        serializer=IntListSerializer(),
    )  # fmt: skip
    flags.DEFINE_integer("repeats", 5, "Timed steps (of steps at once: so many times these).", lower_bound=1)
    flags.DEFINE_enum(
        "matmul_precision", "tensorfloat32", ("float32", "tensorfloat32"), "Of float32 products on a GPU."
    )
    flags.DEFINE_boolean("peer", True, "Measure the PyTorch peer, once a shape and batch size.")
    flags.DEFINE_string("out", None, "Append a JSON object a case to this file.")
    flags.DEFINE_string("compare", None, "A file that --out wrote: print what has become slower by more than a tenth.")


if __name__ == "__main__":
    define_flags()
    start(main, __doc__ or "", keep_memory=False)  # as the peer, which is in the same process
