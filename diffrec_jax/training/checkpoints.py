"""Checkpoints that survive a kill at any time: Orbax writes the arrays, a manifest says that they are whole.

A step is written to a folder of another name, its manifest last, and then moved to its place; older steps go only
after that. The manifest has the SHA-256 of every file and of itself, and of every array, as it was in memory, its name,
shape and the sum of its bits: what was written wrong is found as well as what was damaged later. What does not match
is passed over, and the newest step that does is taken.

The names of arrays are ours (``layout``), so a manifest also says which format it has: ``FORMAT`` counts them, and
``_read_manifest`` turns earlier ones into this one.

Of several processes, with the folder in a file system that they share, each writes the arrays it has; the primary one
does the rest and decides.
"""

import contextlib
import glob
import hashlib
import json
import logging
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.devices import from_primary, is_primary, wait_for_all
from diffrec_jax.files import read_signed_json, signed_json, write_atomically
from diffrec_jax.version import __version__

FORMAT = 2
MANIFEST, ARRAYS, UNFINISHED = "manifest.json", "state", ".new"
SHAPES_OF_FORMAT_1 = "shapes.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which and what to do."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was saved."""


@dataclass(frozen=True)
class StoredArray:
    """What a manifest says of an array."""

    name: str
    shape: list[int]
    bits: int | None
    """Of ``bit_sums``; None where it was not written."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a step."""

    files: dict[str, str]
    """SHA-256 by path below the arrays' folder."""
    arrays: list[StoredArray]
    """In the order that they are numbered in."""
    evaluated: bool
    """Whether the state knows of an evaluation after this very step."""
    format: int = FORMAT
    version: str = __version__
    """Of the project, that wrote it."""


@dataclass(frozen=True)
class Restored:
    """A state as it was read."""

    state: Any
    evaluated: bool
    bits: list[int | None]
    """Sums that its leaves have to have."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock alone
        return {path.relative_to(folder).as_posix(): digest for path, digest in zip(files, pool.map(_sha256, files))}


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def bit_sums(tree: Any) -> list[jax.Array]:
    """Of every leaf, the sum of its entries read as whole numbers, modulo 2^32: a flipped bit changes it, zeros do not.

    So it is the same however the leaf is padded and split over devices.
    """

    def of_leaf(leaf: jax.Array) -> jax.Array:
        kind = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        whole = leaf if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, kind)
        return jnp.sum(whole.astype(jnp.uint32), dtype=jnp.uint32)

    return [of_leaf(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]


def layout(tree: Any) -> dict[str, Any]:
    """The leaves by name: fields, keys and places on the way to them, as ``opt_state/0/mu/params/bias``."""
    with_paths = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in with_paths}
    if len(named) != len(with_paths):
        raise ValueError("two arrays of the state have the same name")
    return named


def _number(place: int) -> str:
    """What Orbax calls an array: a name of its own could hold what it takes for a path."""
    return f"{place:05d}"


def _read_manifest(target: Path) -> Manifest:
    """The manifest of a step's folder, of any format.

    Raises:
      DamagedCheckpointError: it is not what was written.
      CheckpointError: it is of a later version.
    """
    try:
        text = (target / MANIFEST).read_bytes().decode()
        content = json.loads(text)
        if "format" not in content and "sha256" not in content:
            return _from_format_1(target, content)
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"checkpoint {target} was written by diffrec-jax {content['version']}, in format {content['format']}: "
                f"this is {__version__}, which reads formats up to {FORMAT}; install that version"
            )
        content = read_signed_json(text)
        arrays = [StoredArray(**array) for array in content.pop("arrays")]
        return Manifest(arrays=arrays, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"its manifest cannot be read ({error})") from error


def _from_format_1(target: Path, files: dict[str, str]) -> Manifest:
    """Sums of files alone; names as in Python, with their shapes in another file; arrays lie by their names."""
    shapes = json.loads((target / SHAPES_OF_FORMAT_1).read_text())
    parts = re.compile(r"\.(\w+)|\['([^']*)'\]|\[(\d+)\]")
    names = {name: "/".join("".join(part) for part in parts.findall(name)) for name in shapes}
    arrays = [StoredArray(names[name], shape, None) for name, shape in shapes.items()]
    return Manifest(files, arrays, evaluated=True, format=1, version="0.2.0")


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells of one error that it raises by many tracebacks: what it logs, and writes that end after it."""
    disabled, hook = logging.root.manager.disable, sys.unraisablehook

    def without_late_writes(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logging.disable(logging.CRITICAL)
    sys.unraisablehook = without_late_writes
    try:
        yield
        sys.unraisablehook = hook
    except BaseException:
        # The other writes end in their own time, or are never begun: what they say stays unsaid. So the hook stays too.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    finally:
        logging.disable(disabled)


def _reason(error: Exception) -> str:
    """What went wrong, in short."""
    text = next(iter(str(error).splitlines()), type(error).__name__)
    if any(sign in text for sign in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota exceeded")):
        return "the disk is full"
    return text if len(text) <= 200 else f"... {text[-200:]}"


@contextlib.contextmanager
def _orbax(folder: Path) -> Iterator[tuple[Any, Path]]:
    """A checkpointer, and the path of an existing folder that it takes."""
    # Imported here: that takes long, and most commands neither read nor write a checkpoint.
    from orbax.checkpoint import StandardCheckpointer

    with _as_orbax_takes_it(folder) as taken, StandardCheckpointer() as checkpointer:
        yield checkpointer, taken


@contextlib.contextmanager
def _as_orbax_takes_it(folder: Path) -> Iterator[Path]:
    """A path of an existing folder: Orbax takes [, ? and * in one for a pattern, and then finds nothing."""
    if not glob.has_magic(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        link = Path(elsewhere) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _remove_unfinished(folder: Path) -> None:
    """Removes a folder that threads may still be writing to, for some time."""
    for _ in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _step_of(path: Path) -> int | None:
    """The step whose folder this is by its name; None for anything else."""
    return int(path.name) if path.name.isascii() and path.name.isdigit() and path.name == str(int(path.name)) else None


def _is_ours(path: Path) -> bool:
    """Whether a folder is a step's and holds nothing but what ``save`` writes, whole or in part."""
    if _step_of(path.with_name(path.name.removesuffix(UNFINISHED))) is None or not path.is_dir():
        return False
    return all(file.name.startswith((ARRAYS, MANIFEST, SHAPES_OF_FORMAT_1)) for file in path.iterdir())


def _remove(path: Path) -> None:
    """Removes a step's folder; killed in between, it no longer counts as one."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


class Checkpoints:
    """The checkpoints of one run: the newest few and the best.

    Args:
      folder: where they are; one sub-folder a step.
      num_newest: how many of the newest are kept beside the best; two, so that a damaged one costs an interval only.
    """

    def __init__(self, folder: str | Path, *, num_newest: int = 2):
        self.folder = Path(folder).absolute()
        self.num_newest = num_newest

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending."""
        steps = (_step_of(path.parent) for path in self.folder.glob(f"[0-9]*/{MANIFEST}"))
        return sorted(step for step in steps if step is not None)

    def newest(self, *, before: int | None = None) -> int | None:
        """The newest step with a manifest, of those before one; all processes agree on it."""
        steps = [step for step in self.steps() if before is None or step < before] if is_primary() else []
        newest = int(from_primary(np.asarray(max(steps, default=-1))))
        return None if newest < 0 else newest

    def save(
        self,
        step: int,
        state: Any,
        *,
        best_steps: tuple[int, ...],
        like: Any = None,
        bits: list[int] | None = None,
        evaluated: bool = True,
    ) -> None:
        """Writes a state, and then removes those that it wrote and that are neither among the newest nor the best.

        Args:
          step: its number; a state of this step that is there is replaced when the new one is whole.
          state: arrays; on several devices they may be padded.
          best_steps: steps to keep whatever their age.
          like: the state's true shapes, where it is padded.
          bits: its ``bit_sums``, to be compared when it is read.
          evaluated: whether the state knows of an evaluation after this very step.

        Raises:
          CheckpointError: it cannot be written; earlier steps are as they were.
          JaxRuntimeError: another process of the job, or a device, was lost; the same.
        """
        target = self.folder / str(step)
        unfinished = target.with_name(f"{step}{UNFINISHED}")
        for path in (target, unfinished):
            if path.exists() and not _is_ours(path):
                raise CheckpointError(f"{path} is in the way and no checkpoint of this project: move it elsewhere")
        wait_for_all(f"step {step} may be written")
        if is_primary() and unfinished.exists():
            shutil.rmtree(unfinished)
        wait_for_all(f"room for step {step}")
        try:
            self._write(unfinished, state, state if like is None else like, bits, evaluated)
            if is_primary():
                if target.exists():
                    _remove(target)
                unfinished.rename(target)
        except (OSError, ValueError, RuntimeError) as error:
            if is_primary():
                _remove_unfinished(unfinished)
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise  # another process of the job was lost, or a device: room would not help
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            raise CheckpointError(
                f"checkpoint {target} cannot be written ({_reason(error)}): it takes about {size:,} bytes, and "
                f"{_free_bytes(self.folder):,} are free there; the earlier checkpoints are untouched: make room, then "
                "resume"
            ) from error
        if is_primary():
            keep = {*self.steps()[-self.num_newest :], *best_steps}
            for path in self.folder.iterdir():
                if _is_ours(path) and _step_of(path) not in keep:
                    _remove(path)
        wait_for_all(f"step {step} is written")

    def _write(self, target: Path, state: Any, like: Any, bits: list[int] | None, evaluated: bool) -> None:
        arrays = target / ARRAYS
        self.folder.mkdir(parents=True, exist_ok=True)
        numbered = {_number(place): leaf for place, leaf in enumerate(layout(state).values())}
        with _quiet(), _orbax(self.folder) as (checkpointer, folder):
            checkpointer.save(folder / target.name / ARRAYS, numbered)
        if not arrays.is_dir():
            raise OSError(f"{arrays} was not written")
        if is_primary():
            named = layout(like)
            sums = [None] * len(named) if bits is None else [int(value) for value in bits]
            stored = [StoredArray(name, list(leaf.shape), value) for (name, leaf), value in zip(named.items(), sums)]
            write_atomically(target / MANIFEST, signed_json(asdict(Manifest(_sums(arrays), stored, evaluated))))

    def finish_moves(self) -> None:
        """Moves to its place what was written whole by a process that was killed before it did so itself."""
        if is_primary() and self.folder.is_dir():
            for path in self.folder.glob(f"[0-9]*{UNFINISHED}"):
                target = path.with_name(path.name.removesuffix(UNFINISHED))
                if (path / MANIFEST).exists() and _is_ours(path) and (_is_ours(target) or not target.exists()):
                    if target.exists():
                        _remove(target)
                    path.rename(target)
        wait_for_all("moves are finished")

    def damage(self, step: int) -> str | None:
        """What is wrong with a step, None when it is whole.

        Raises:
          CheckpointError: it is of a later version.
        """
        target = self.folder / str(step)
        try:
            expected, found = _read_manifest(target).files, _sums(target / ARRAYS)
        except DamagedCheckpointError as error:
            return str(error)
        except FileNotFoundError as error:  # a running process removes an old step meanwhile
            return f"file {Path(error.filename).relative_to(target / ARRAYS)} is missing"
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                kind = "missing" if name not in found else "unexpected" if name not in expected else "damaged"
                return f"file {name} is {kind}"
        return None

    def damaged(self, step: int, how: str) -> DamagedCheckpointError:
        """The error of a step that cannot be used."""
        return DamagedCheckpointError(
            f"checkpoint {self.folder / str(step)} cannot be used: {how}; resume from another, or train anew"
        )

    def _found_damage(self, step: int) -> str | None:
        """``damage`` as the primary process sees it, for the others to agree."""
        damage = self.damage(step) if is_primary() else "the primary process says which"
        return damage if from_primary(np.asarray(damage is not None)) else None

    def restore(self, step: int, like: Any, *, into: Any = None) -> Restored:
        """The state of a step, with what its bits have to add up to.

        Args:
          step: its number.
          like: the structure, true shapes and dtypes (arrays or ShapeDtypeStructs).
          into: what is made, where that is not ``like``: ShapeDtypeStructs with shardings.

        Raises:
          DamagedCheckpointError: the step is damaged.
          CheckpointError: it is of another structure, or of a later version.
        """
        target = self.folder / str(step)
        with contextlib.suppress(DamagedCheckpointError):
            _read_manifest(target)  # all processes see a later version, and end
        damage = self._found_damage(step)
        if damage is not None:
            raise self.damaged(step, damage)
        try:
            manifest, wanted = _read_manifest(target), layout(like)
            stored = {array.name: array for array in manifest.arrays}
            for name in sorted({*stored, *wanted}):
                there = stored[name].shape if name in stored else None
                here = list(wanted[name].shape) if name in wanted else None
                if there != here:
                    raise ValueError(f"{name} is {there} there and {here} here")
            state = self._read(step, manifest, like if into is None else into)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} does not fit this model: {_reason(error)}; use the "
                "settings and the version of diffrec-jax that wrote it, or train anew in another folder"
            ) from error
        return Restored(state, manifest.evaluated, [stored[name].bits for name in wanted])

    def _read(self, step: int, manifest: Manifest, into: Any) -> Any:
        # Not strict: padding is cut off or added. The true shapes were compared.
        with _orbax(self.folder) as (checkpointer, folder):
            path = folder / str(step) / ARRAYS
            if manifest.format == 1:
                return checkpointer.restore(path, into, strict=False)
            numbers = {array.name: _number(place) for place, array in enumerate(manifest.arrays)}
            named = layout(into)
            found = checkpointer.restore(path, {numbers[name]: leaf for name, leaf in named.items()}, strict=False)
        return jax.tree.unflatten(jax.tree.structure(into), [found[numbers[name]] for name in named])
