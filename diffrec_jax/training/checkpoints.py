"""Checkpoints that survive a kill at any time: Orbax writes the arrays, a manifest of SHA-256 sums says they are whole.

A step's folder is complete when its manifest exists; the manifest is written last and atomically. Older steps go only
after that. What does not match its manifest is passed over, and the newest step that does is taken.
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
import orbax.checkpoint as ocp

MANIFEST = "manifest.json"


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


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def all_finite(tree: Any) -> bool:
    """Whether every number of a pytree is finite."""
    return bool(_all_finite(tree))


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

    def save(self, step: int, state: Any, *, best_step: int) -> None:
        """Writes a state, verifies it, and then removes what is neither among the newest nor the best.

        Raises:
          CheckpointError: what was written cannot be read back whole.
        """
        target = self.folder / str(step)
        if target.exists():
            shutil.rmtree(target)
        arrays = target / "state"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(arrays, state)
        if not arrays.is_dir():
            raise CheckpointError(f"checkpoint {arrays} was not written: is the disk full?")
        write_atomically(target / MANIFEST, json.dumps(_sums(arrays), indent=1))
        keep = {*self.steps()[-self.num_newest :], best_step}
        for path in self.folder.iterdir():
            if path.is_dir() and not (path.name.isdigit() and int(path.name) in keep):
                shutil.rmtree(path)

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

    def newest_whole(self) -> int | None:
        """The newest step that matches its manifest, None without one; damaged steps are reported and passed over."""
        for step in reversed(self.steps()):
            damage = self.damage(step)
            if damage is None:
                return step
            self.on_warning(f"checkpoint {self.folder / str(step)} is passed over: {damage}")
        return None

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, with the structure, shapes and dtypes of ``like`` (arrays or ShapeDtypeStructs).

        Raises:
          CheckpointError: the step is damaged, or of another structure.
        """
        damage = self.damage(step)
        if damage is not None:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be used: {damage}; resume from another, or train anew"
            )
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(self.folder / str(step) / "state", abstract)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} does not fit this model: {str(error).splitlines()[0]}"
            ) from error
