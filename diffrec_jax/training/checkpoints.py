"""Checkpoints that survive a kill at any time: Orbax writes the arrays, a manifest of SHA-256 sums says they are whole.

A step's folder is complete when its manifest exists; the manifest is written last and atomically. Older steps go only
after that. What does not match its manifest is passed over, and the newest step that does is taken.

Of several processes, with the folder in a file system that they share, each writes the arrays it has; the primary one
does the rest and decides.
"""

import contextlib
import glob
import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from diffrec_jax.devices import from_primary, is_primary, wait_for_all
from diffrec_jax.files import write_atomically

MANIFEST, SHAPES, ARRAYS = "manifest.json", "shapes.json", "state"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which and what to do."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {jax.tree_util.keystr(path): list(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


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
    if _step_of(path) is None or not path.is_dir():
        return False
    return all(file.name.startswith((ARRAYS, MANIFEST, SHAPES)) for file in path.iterdir())


class Checkpoints:
    """The checkpoints of one run: the newest few and the best.

    Args:
      folder: where they are; one sub-folder a step.
      num_newest: how many of the newest are kept beside the best; two, so that a damaged one costs an interval only.
      on_warning: told of damaged steps that were passed over.
    """

    def __init__(self, folder: str | Path, *, num_newest: int = 2, on_warning: Callable[[str], None] = print):
        self.folder = Path(folder).absolute()
        self.num_newest = num_newest
        self.on_warning = on_warning

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending."""
        steps = (_step_of(path.parent) for path in self.folder.glob(f"[0-9]*/{MANIFEST}"))
        return sorted(step for step in steps if step is not None)

    def save(self, step: int, state: Any, *, best_steps: tuple[int, ...], like: Any = None) -> None:
        """Writes a state, and then removes those that it wrote and that are neither among the newest nor the best.

        Args:
          step: its number.
          state: arrays; on several devices they may be padded.
          best_steps: steps to keep whatever their age.
          like: the state's true shapes, where it is padded.

        Raises:
          CheckpointError: it cannot be written; earlier steps are as they were.
        """
        target = self.folder / str(step)
        if target.exists() and not _is_ours(target):
            raise CheckpointError(f"{target} is in the way and no checkpoint of this project: move it elsewhere")
        wait_for_all(f"step {step} may be written")
        if is_primary() and target.exists():
            shutil.rmtree(target)
        wait_for_all(f"room for step {step}")
        try:
            self._write(target, state, like)
        except (OSError, ValueError, RuntimeError) as error:
            if is_primary():
                _remove_unfinished(target)
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
                    shutil.rmtree(path)
        wait_for_all(f"step {step} is written")

    def _write(self, target: Path, state: Any, like: Any) -> None:
        arrays = target / ARRAYS
        self.folder.mkdir(parents=True, exist_ok=True)
        with _quiet(), _as_orbax_takes_it(self.folder) as folder, ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / target.name / ARRAYS, state)
        if not arrays.is_dir():
            raise OSError(f"{arrays} was not written")
        if is_primary():
            write_atomically(target / SHAPES, json.dumps(_shapes(state if like is None else like)))
            write_atomically(target / MANIFEST, json.dumps(_sums(arrays), indent=1))

    def damage(self, step: int) -> str | None:
        """What is wrong with a step, None when it is whole."""
        target = self.folder / str(step)
        try:
            expected = json.loads((target / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            return f"its manifest cannot be read ({error})"
        found = _sums(target / ARRAYS)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                kind = "missing" if name not in found else "unexpected" if name not in expected else "damaged"
                return f"file {name} is {kind}"
        return None

    def _found_damage(self, step: int) -> str | None:
        """``damage`` as the primary process sees it, for the others to agree."""
        damage = self.damage(step) if is_primary() else "the primary process says which"
        return damage if from_primary(np.asarray(damage is not None)) else None

    def newest_whole(self) -> int | None:
        """The newest step that matches its manifest, None without one; damaged steps are reported and passed over."""
        newest = -1
        for step in reversed(self.steps()) if is_primary() else ():
            damage = self.damage(step)
            if damage is None:
                newest = step
                break
            self.on_warning(f"checkpoint {self.folder / str(step)} is passed over: {damage}")
        newest = int(from_primary(np.asarray(newest)))
        return None if newest < 0 else newest

    def restore(self, step: int, like: Any, *, into: Any = None) -> Any:
        """The state of a step.

        Args:
          step: its number.
          like: the structure, true shapes and dtypes (arrays or ShapeDtypeStructs).
          into: what is made, where that is not ``like``: ShapeDtypeStructs with shardings.

        Raises:
          CheckpointError: the step is damaged, or of another structure.
        """
        damage = self._found_damage(step)
        if damage is not None:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be used: {damage}; resume from another, or train anew"
            )
        target = self.folder / str(step)
        try:
            stored, wanted = json.loads((target / SHAPES).read_text()), _shapes(like)
            for name in sorted({*stored, *wanted}):
                if stored.get(name) != wanted.get(name):
                    raise ValueError(f"{name} is {stored.get(name)} there and {wanted.get(name)} here")
            with _as_orbax_takes_it(self.folder) as folder, ocp.StandardCheckpointer() as checkpointer:
                # Not strict: padding is cut off or added. The true shapes were compared.
                return checkpointer.restore(folder / str(step) / ARRAYS, like if into is None else into, strict=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} does not fit this model: {_reason(error)}; use the "
                "settings and the version of diffrec-jax that wrote it, or train anew in another folder"
            ) from error
