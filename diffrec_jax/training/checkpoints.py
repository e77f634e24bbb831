"""Checkpoints that survive a kill at any time: Orbax writes the arrays, a manifest of SHA-256 sums says they are whole.

A step's folder is complete when its manifest exists; the manifest is written last and atomically. Older steps go only
after that. What does not match its manifest is passed over, and the newest step that does is taken.

Of several processes, with the folder in a file system that they share, each writes the arrays it has; the primary one
does the rest and decides.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from diffrec_jax.training.parallel import from_primary, is_primary, wait_for_all

MANIFEST, SHAPES = "manifest.json", "shapes.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which and what to do."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {jax.tree_util.keystr(path): list(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


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
        return sorted(int(path.parent.name) for path in self.folder.glob(f"[0-9]*/{MANIFEST}"))

    def save(self, step: int, state: Any, *, best_step: int, like: Any = None) -> None:
        """Writes a state, verifies it, and then removes what is neither among the newest nor the best.

        Args:
          step: its number.
          state: arrays; on several devices they may be padded.
          best_step: the step to keep whatever its age.
          like: the state's true shapes, where it is padded.

        Raises:
          CheckpointError: what was written cannot be read back whole.
        """
        target = self.folder / str(step)
        if is_primary() and target.exists():
            shutil.rmtree(target)
        wait_for_all(f"room for step {step}")
        arrays = target / "state"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(arrays, state)
        if not arrays.is_dir():
            raise CheckpointError(f"checkpoint {arrays} was not written: is the disk full?")
        if is_primary():
            write_atomically(target / SHAPES, json.dumps(_shapes(state if like is None else like)))
            write_atomically(target / MANIFEST, json.dumps(_sums(arrays), indent=1))
            keep = {*self.steps()[-self.num_newest :], best_step}
            for path in self.folder.iterdir():
                if path.is_dir() and not (path.name.isdigit() and int(path.name) in keep):
                    shutil.rmtree(path)
        wait_for_all(f"step {step} is written")

    def damage(self, step: int) -> str | None:
        """What is wrong with a step, None when it is whole."""
        target = self.folder / str(step)
        try:
            expected = json.loads((target / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            return f"its manifest cannot be read ({error})"
        found = _sums(target / "state")
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
            with ocp.StandardCheckpointer() as checkpointer:
                # Not strict: padding is cut off or added. The true shapes were compared.
                return checkpointer.restore(target / "state", like if into is None else into, strict=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} does not fit this model: {str(error).splitlines()[0]}; use the "
                "settings and the version of diffrec-jax that wrote it, or train anew in another folder"
            ) from error
