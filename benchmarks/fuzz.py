"""Does wrong input ever end in a traceback, a hang or half-written output? Thousands of inputs are changed at random.

Data folders, logs, presets, flags, run directories and saved models that work are changed: bytes, values, lines, files.
What reads them has to take them or to refuse them with a message; a refusal has to leave nothing behind.

python -m benchmarks.fuzz --inputs=10000 --seed=1
"""

import contextlib
import io
import json
import shutil
import signal
import tempfile
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.table import Table

import diffrec_jax as dr
from diffrec_jax.api import load_run
from diffrec_jax.comparison import load_run as load_compared
from diffrec_jax.config import PRESETS, ConfigError, DataConfig, RunConfig, make_run_config
from diffrec_jax.data import read_official
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.formats import FormatName
from diffrec_jax.preparation.pipeline import prepare
from diffrec_jax.registry import MODELS
from diffrec_jax.training.run_directory import RunDirectory
from experiments.cli import USER_ERRORS, start
from experiments.config import new_run_config
from experiments.console import make_console
from experiments.recommend import read_histories
from experiments.runs import parse_train_flags

FLAGS = flags.FLAGS
LONGEST_S = 30
REFUSALS = (*USER_ERRORS, OSError, MemoryError)
"""What the scripts tell in one line."""


class HungError(BaseException):
    """Took too long."""


@dataclass(frozen=True)
class Subject:
    """What is changed and read."""

    name: str
    share: int
    """How many inputs it gets for each of the others' one."""
    attempt: Callable[[Path, np.random.Generator], None]
    """(empty folder, generator): makes a changed input there and reads it."""


def change_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes flipped, cut, doubled, moved or put in."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(changed) + 1))
        length = int(rng.integers(1, 40))
        kind = rng.integers(6)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[place : place + length]
        elif kind == 3:
            changed[place:place] = rng.bytes(length)
        elif kind == 4:
            del changed[place:]
        else:
            changed[place:place] = VALUES[rng.integers(len(VALUES))].encode()
    return bytes(changed)


VALUES = [
    "", "nan", "inf", "-inf", "-1", "0", "1e308", "9" * 25, "true", "null", "[]", "{}", '""', "../../x", "\x00", "é",
    "\n", "1,2", "a:b", "exp:0", "linear:1", "=", "\t", "'", "%s", "2026-13-45", "0.5", "1" * 400,
]  # fmt: skip


def change_tree(tree: Any, rng: np.random.Generator) -> Any:
    """One value of nested dictionaries and lists replaced, left out or added."""
    found: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)):
            found.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    changed = json.loads(json.dumps(tree))
    walk(changed)
    part, key = found[rng.integers(len(found))]
    odd = [None, -1, 0, 1.5, 1e308, 2**70, True, "", "x", [], {}, [1, "a"], {"a": 1}, float("nan")]
    kind = rng.integers(4)
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, dict):
        part["more"] = odd[rng.integers(len(odd))]
    else:
        part[key] = odd[rng.integers(len(odd))]
    return changed


def change_a_file(folder: Path, rng: np.random.Generator) -> None:
    """One of a folder's files changed, removed, emptied or swapped for another one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = files[rng.integers(len(files))], files[rng.integers(len(files))]
    kind = rng.integers(8)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        path.write_bytes(other.read_bytes())
    elif kind == 3 and path.suffix == ".json":
        path.write_text(json.dumps(change_tree(json.loads(path.read_text()), rng)))
    else:
        path.write_bytes(change_bytes(path.read_bytes(), rng))


def copied(source: Path, folder: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(source, folder / "copy"))


def released_folder(folder: Path) -> None:
    """A dataset in the released layout."""
    pairs = np.argwhere(np.random.default_rng(0).random((30, 20)) < 0.7)
    parts = np.random.default_rng(1).choice(3, size=len(pairs), p=(0.8, 0.1, 0.1))
    for number, split in enumerate(("train", "valid", "test")):
        np.save(folder / f"{split}_list.npy", pairs[parts == number])


def subjects(made: Path) -> list[Subject]:
    """All of them; what they start from is made in a folder."""
    (made / "data").mkdir()
    released_folder(made / "data")
    rows = np.random.default_rng(0).integers(1, 9, size=(150, 4))
    lines = [f"u{a},i{b},{c},{1e9 + 60 * number:.0f}" for number, (a, b, c, _) in enumerate(rows)]
    logs: dict[FormatName, tuple[str, str]] = {
        "csv": ("log.csv", "\n".join(["user,item,rating,time", *lines]) + "\n"),
        "json-lines": (
            "log.jsonl",
            "".join(json.dumps({"user": int(a), "item": int(b), "time": int(d)}) + "\n" for a, b, _, d in rows),
        ),
        "sequences": ("log.txt", "".join(f"{n} {' '.join(map(str, set(row)))}\n" for n, row in enumerate(rows))),
        "ml-100k": ("u.data", "\n".join(f"{a}\t{b}\t{c}\t{d}" for a, b, c, d in rows) + "\n"),
    }  # fmt: skip
    dataset = read_official(made / "data")
    model = dr.fit("diffrec", dataset, dims=(4,), epochs=1, eval_every=1, batch_size=12, run_dir=made / "run")
    dr.save(model, made / "model")
    config = RunDirectory(made / "run").config()
    config["location"] |= {"folder": str(made / "data"), "dataset": "data"}
    RunDirectory(made / "run").update_config(config)
    (made / "run" / "results.json").write_text(json.dumps({"test": {"recall@20": 0.1}, "timings": {}}))
    presets = sorted(PRESETS.glob("*/*.toml"))
    names = sorted(set(parse_train_flags([])) - {"help", "helpshort", "helpfull", "helpxml"})

    def data(folder: Path, rng: np.random.Generator) -> None:
        copy = copied(made / "data", folder)
        if rng.random() < 0.3:  # values rather than bytes
            path = copy / f"{('train', 'valid', 'test')[rng.integers(3)]}_list.npy"
            pairs = np.load(path)
            odd = [
                pairs.astype(float),
                pairs[:, :1],
                pairs.T,
                -pairs,
                pairs * 10**12,
                pairs[:0],
                np.float64(3),
                pairs > 3,
            ]
            np.save(path, odd[rng.integers(len(odd))])
        else:
            change_a_file(copy, rng)
        read_official(copy)

    def log(folder: Path, rng: np.random.Generator) -> None:
        kind = list(logs)[rng.integers(len(logs))]
        name, text = logs[kind]
        path = folder / name
        path.write_bytes(change_bytes(text.encode(), rng))
        out = folder / "out"
        on_bad_line = ("error", "skip")[rng.integers(2)]
        try:
            prepare(path, "x", out, PrepareConfig(format=kind, on_bad_line=on_bad_line))
        except REFUSALS:
            if out.exists() and any(out.iterdir()):
                raise AssertionError(f"left behind: {sorted(out.rglob('*'))}") from None
            raise

    def preset(folder: Path, rng: np.random.Generator) -> None:
        path = presets[rng.integers(len(presets))]
        for values in change_tree(tomllib.loads(path.read_text()), rng).values():
            if isinstance(values, dict):
                make_run_config(path.parent.name, DataConfig("synthetic", "clean", None, {"seed": 0}), **values)

    def command(folder: Path, rng: np.random.Generator) -> None:
        given = [f"--model={list(MODELS)[rng.integers(len(MODELS))]}"]
        for _ in range(rng.integers(1, 4)):
            name = names[rng.integers(len(names))]
            value = VALUES[rng.integers(len(VALUES))]
            if rng.random() < 0.5:
                value = str(rng.integers(-3, 2000) if rng.random() < 0.5 else round(rng.normal(), 3))
            given.append(f"--{name}={value}" if rng.random() < 0.95 else f"--{name}")
        with contextlib.redirect_stderr(io.StringIO()):
            new_run_config(parse_train_flags(given))

    def run(folder: Path, rng: np.random.Generator) -> None:
        copy = copied(made / "run", folder)
        if rng.random() < 0.5:
            (copy / "config.json").write_text(json.dumps(change_tree(config, rng)))  # without a sum: as if written so
        else:
            change_a_file(copy, rng)
        directory = RunDirectory(copy)
        directory.records()
        directory.earlier_clocks()
        RunConfig.from_dict(directory.config())
        if rng.random() < 0.2:
            with contextlib.suppress(*REFUSALS):
                load_compared(copy)
            load_run(copy)

    def saved(folder: Path, rng: np.random.Generator) -> None:
        copy = copied(made / "model", folder)
        change_a_file(copy, rng)
        loaded = dr.load(copy)
        if rng.random() < 0.1:
            dr.recommend(loaded, users=loaded.dataset.original_user_ids[:2], k=3)

    def histories(folder: Path, rng: np.random.Generator) -> None:
        path = folder / "histories.txt"
        path.write_bytes(change_bytes(b"0 1 2 3\n1 4 5\n77 2 3\n", rng))
        read_histories(model, str(path))

    return [
        Subject("data folders", 8, data),
        Subject("logs", 3, log),
        Subject("presets", 6, preset),
        Subject("flags", 12, command),
        Subject("run directories", 6, run),
        Subject("saved models", 4, saved),
        Subject("histories", 3, histories),
    ]


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises HungError in what takes longer."""

    def hung(*_: object) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(subject: Subject, rng: np.random.Generator) -> tuple[str, str]:
    """taken, refused, or what it must not be; and the message or the traceback."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with limited(LONGEST_S):
                subject.attempt(Path(folder), rng)
        except REFUSALS as error:
            return "refused", str(error)
        except HungError:
            return "hung", ""
        except Exception:
            return "traceback", traceback.format_exc()
    return "taken", ""


def main() -> None:
    """Inputs to a table."""
    console = make_console()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        all_subjects = [subject for subject in subjects(Path(made)) if not FLAGS.only or subject.name in FLAGS.only]
        order = [subject for subject in all_subjects for _ in range(subject.share)]
        for number in range(FLAGS.inputs):
            subject = order[number % len(order)]
            outcome, said = outcome_of(subject, np.random.default_rng([FLAGS.seed, number]))
            counts[subject.name][outcome] += 1
            if outcome in ("traceback", "hung"):
                key = f"{subject.name}: {(said.strip().splitlines() or ['hung'])[-1][:120]}"
                if key not in found:
                    found[key] = said
                    console.print(f"input {number} ({subject.name}) {outcome}:\n{said[-2500:]}")
            elif outcome == "refused" and (not said.strip() or len(said) > 3000):
                counts[subject.name]["traceback"] += 1
                console.print(f"input {number} ({subject.name}): the message is empty or endless: {said[:200]!r}")
    kinds = ("taken", "refused", "traceback", "hung")
    table = Table(title=f"{FLAGS.inputs:,} inputs, seed {FLAGS.seed}")
    for heading in ("what was changed", *kinds):
        table.add_column(heading)
    for name, own in counts.items():
        table.add_row(name, *(f"{own[kind]:,}" for kind in kinds))
    console.print(table)
    bad = sum(own[kind] for own in counts.values() for kind in ("traceback", "hung"))
    if bad:
        raise ConfigError(f"{bad} inputs ended in a traceback or hung: see above")


if __name__ == "__main__":
    flags.DEFINE_integer("inputs", 10_000, "How many.", lower_bound=1)
    flags.DEFINE_integer("seed", 1, "Of the changes.", lower_bound=0)
    flags.DEFINE_list(
        "only", [], "Only these: data folders, logs, presets, flags, run directories, saved models, histories."
    )
    start(main, __doc__ or "")
