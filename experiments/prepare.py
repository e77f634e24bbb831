"""Makes a dataset of a log: threshold, repeats, core, order, split, and a record of all of it.

  python -m experiments.prepare --name=ml-100k --download --out=data
  python -m experiments.prepare --name=ml-100k --raw=u.data --format=ml-100k --min_rating=4 --user_core=5 --out=data
  python -m experiments.prepare --name=shop --raw=log.parquet --format=parquet --user_col=customer --item_col=sku \\
      --time_col=bought_at --engine=duckdb --out=data

The dataset is the folder OUT/NAME_SETTING: `experiments.train --dataset=NAME --data_dir=OUT` trains on it.
"""

import shlex
import time
from pathlib import Path
from typing import Any

from diffrec_jax.config import ConfigError, default_data_dir
from diffrec_jax.data import DataError
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.download import KNOWN, fetch, known, unpacked

from . import flags
from .cli import start
from .command import command
from .console import make_console
from .flags import FLAGS


def prepare_config() -> PrepareConfig:
    """The configuration: what is known of a dataset of this name, and the flags over it.

    Raises:
      ConfigError: a flag is out of range, or flags contradict each other.
    """
    given, usual = flags.settings_given(FLAGS, PrepareConfig), KNOWN.get(FLAGS.name)
    settings: dict[str, Any] = {}
    if usual is not None and given.get("format", usual.format) == usual.format:
        settings = {"format": usual.format} | usual.settings
    try:
        return PrepareConfig(**(settings | given))
    except ValueError as error:
        raise ConfigError(error) from error


def main() -> None:
    """Flags to a folder."""
    try:
        from diffrec_jax.preparation.pipeline import prepare
    except ImportError as error:
        raise DataError(f"preparing data needs {error.name}: pip install 'diffrec-jax[data]'") from error
    started, console = time.perf_counter(), make_console()

    def tell(line: str) -> None:
        console.print(f"[{time.perf_counter() - started:6.1f} s] {line}", markup=False, highlight=False)

    if bool(FLAGS.raw) == FLAGS.download:
        raise ConfigError("give --raw=FILE, or --download for a known dataset")
    out = Path(FLAGS.out or default_data_dir())
    if FLAGS.download:
        known(FLAGS.name)
    config = prepare_config()
    raw = fetch(FLAGS.name, out / "raw" / FLAGS.name, tell=tell) if FLAGS.download else Path(FLAGS.raw).expanduser()
    memory = None if FLAGS.memory_gib is None else int(FLAGS.memory_gib * (1 << 30))
    with unpacked(raw, FLAGS.name, config.format, out) as log:
        made = prepare(log, FLAGS.name, out, config, engine=FLAGS.engine, memory_bytes=memory, tell=tell)
    counts = made.meta["counts"]
    tell(", ".join(f"{kind} {count:,}" for kind, count in counts.items()))
    console.print(f"{made.folder} is ready:", markup=False, highlight=False)
    shown = [f"--dataset={FLAGS.name}", f"--setting={config.setting}", f"--data_dir={out}"]
    shown += ["--mode=relevant_users"] if config.split == "users" else []
    console.print(
        f"  {command('train')} --model=diffrec {shlex.join(shown)}", markup=False, highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    flags.define_prepare_flags()
    start(main, __doc__ or "")
