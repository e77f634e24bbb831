"""How long do lists of 20 items for all users take, to a Parquet file, and how much memory, as their number grows?

Synthetic users with 20 interactions each, a dataset's items, and its released DiffRec, untrained. Each number of users
is a process of its own. Memory is what the process holds at most while it writes, beyond libraries, data and model.

python -m benchmarks.lists --shape=ml-1m --users=100000,1000000
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.table import Table

from benchmarks.harness import SHAPES, Shape, init_rankable_params, make_shape, released_config
from benchmarks.records import clear_peak, keep, make_folder_of, measured_apart, status_bytes
from diffrec_jax import Model, write_recommendations
from diffrec_jax.data import make_synthetic
from diffrec_jax.memory import GIB
from experiments.cli import start
from experiments.console import make_console

FLAGS = flags.FLAGS
K, INTERACTIONS = 20, 20


def of_users(shape: Shape, num_users: int) -> Shape:
    """The shape with another number of users."""
    spec = dataclasses.replace(shape.spec, num_users=num_users, num_interactions=INTERACTIONS * num_users)
    return dataclasses.replace(shape, spec=spec)


def measure(shape: Shape) -> dict[str, Any]:
    """Writes the lists of all users, once."""
    dataset = make_synthetic(shape.spec, name=f"synthetic-{shape.name}")
    config = released_config("diffrec", "ml-1m" if shape.name == "small" else shape.name)
    model = Model(config, dataset, jax.tree.map(np.asarray, init_rankable_params(shape, dataset)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        write_recommendations(path, model, users=range(min(400, dataset.num_users)), k=K)  # compiles
        clear_peak()
        before, started = status_bytes("VmRSS"), time.perf_counter()
        num_users = write_recommendations(path, model, k=K)
        seconds = time.perf_counter() - started
        file_bytes = path.stat().st_size
    assert num_users == dataset.num_users
    memory = status_bytes("VmHWM") - before
    return {"users": num_users, "ours_s": [seconds], "ours_peak_bytes": memory, "file_bytes": file_bytes}


def main() -> None:
    """Measures, shows and keeps."""
    shape = make_shape(FLAGS.shape)
    if FLAGS.one:
        print(json.dumps(measure(of_users(shape, FLAGS.one))))
        return
    make_folder_of(FLAGS.out)
    found = [measured_apart("lists", [f"--shape={shape.name}", f"--one={number}"]) for number in FLAGS.users]
    table = Table(title=f"lists of {K} of {shape.spec.num_items:,} items to Parquet")
    for heading in ("users", "s", "users / s", "memory GiB", "file GiB"):
        table.add_column(heading, justify="right")
    for row in found:
        (seconds,) = row["ours_s"]
        table.add_row(
            f"{row['users']:,}",
            f"{seconds:.1f}",
            f"{row['users'] / seconds:,.0f}",
            f"{row['ours_peak_bytes'] / GIB:.2f}",
            f"{row['file_bytes'] / GIB:.3f}",
        )
    make_console().print(table)
    rows = [{"row": f"lists of {row['users']:,} users to Parquet", "peer_s": []} | row for row in found]
    given = [f"--shape={shape.name}", f"--users={','.join(FLAGS.users)}"]
    keep(FLAGS.out, rows, benchmark="lists", shape=shape.name, flags=given)


if __name__ == "__main__":
    flags.DEFINE_enum("shape", "ml-1m", SHAPES, "Whose items and released settings.")
    flags.DEFINE_list("users", ["100000", "1000000"], "Numbers of users.")
    flags.DEFINE_integer("one", None, "Measure this number of users alone, and print it: what --users starts.")
    flags.DEFINE_string("out", None, "A line of JSON for each row is added to this file.")
    start(main, __doc__ or "")
