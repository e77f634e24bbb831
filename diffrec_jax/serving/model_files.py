"""A model in a folder: one JSON file that says what it is, one archive of arrays. Nothing in them is run.

model.json holds the configuration, the structure of the parameters and the archive's SHA-256; arrays.npz the
parameters, the interactions the model knows, the original ids and the item groups.
"""

import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.files import UNREADABLE, naming, read_signed_json, signed_json

FORMAT = 1
DESCRIPTION, ARRAYS = "model.json", "arrays.npz"


class ModelFileError(ValueError):
    """A saved model that cannot be used; the message says why and what to do."""


def encode(tree: Any, leaves: list[np.ndarray]) -> Any:
    """The structure of a pytree as JSON; its arrays are appended to ``leaves``.

    Raises:
      ModelFileError: it holds something else than dicts, lists, tuples, NamedTuples, None and arrays.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {"dict": {key: encode(value, leaves) for key, value in tree.items()}}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = {field: encode(value, leaves) for field, value in zip(tree._fields, tree)}  # type: ignore[attr-defined]
        return {"named": type(tree).__name__, "fields": fields}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [encode(value, leaves) for value in tree]}
    array = np.asarray(tree)
    if array.dtype.kind not in "fiub":
        raise ModelFileError(f"a model of {type(tree).__name__} cannot be saved: give arrays of numbers")
    leaves.append(array)
    return {"leaf": len(leaves) - 1}


def decode(structure: Any, leaves: list[np.ndarray]) -> Any:
    """The inverse of ``encode``; a NamedTuple comes back as one of the same name and fields."""
    if structure is None:
        return None
    if "dict" in structure:
        return {key: decode(value, leaves) for key, value in structure["dict"].items()}
    if "named" in structure:
        fields = structure["fields"]
        return namedtuple(structure["named"], fields)(*(decode(value, leaves) for value in fields.values()))
    if "leaf" in structure:
        return leaves[structure["leaf"]]
    (kind,) = structure
    return {"list": list, "tuple": tuple}[kind](decode(value, leaves) for value in structure[kind])


def write_model(folder: Path, description: dict[str, Any], parameters: Any, arrays: dict[str, np.ndarray]) -> None:
    """Writes a model into a new folder, whole or not at all.

    Raises:
      ModelFileError: the folder exists and is not empty, or the parameters cannot be saved.
      OSError: it cannot be written; the error names the folder.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ModelFileError(f"{folder} is there already: choose a new folder")
    leaves: list[np.ndarray] = []
    structure = encode(parameters, leaves)
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with naming(folder):
            unfinished.mkdir(parents=True)
            named = {f"parameter_{number}": leaf for number, leaf in enumerate(leaves)}
            np.savez(unfinished / ARRAYS, allow_pickle=False, **named, **arrays)
            with (unfinished / ARRAYS).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            whole = {"format": FORMAT, "arrays_sha256": sha256, "parameters": structure, **description}
            (unfinished / DESCRIPTION).write_text(signed_json(whole))
            if folder.is_dir():
                folder.rmdir()
            unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read_model(folder: Path) -> tuple[dict[str, Any], Any, dict[str, np.ndarray]]:
    """The description, the parameters and the other arrays of a saved model.

    Raises:
      ModelFileError: there is none, it is of another format, or it is damaged.
    """
    try:
        text = (folder / DESCRIPTION).read_bytes().decode()
        number = json.loads(text)["format"]
        if number == FORMAT:
            description = read_signed_json(text)
        with (folder / ARRAYS).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except UNREADABLE as error:
        raise ModelFileError(f"{folder} holds no whole model ({error}): give a folder that save made") from None
    if number != FORMAT:
        raise ModelFileError(f"{folder} is of format {number}, this version reads {FORMAT}")
    if sha256 != description["arrays_sha256"]:
        raise ModelFileError(f"{folder / ARRAYS} is damaged: its SHA-256 is not that of {DESCRIPTION}; save it anew")
    with np.load(folder / ARRAYS, allow_pickle=False) as archive:
        arrays = dict(archive)
    count = sum(name.startswith("parameter_") for name in arrays)
    leaves = [arrays.pop(f"parameter_{number}") for number in range(count)]
    return description, decode(description["parameters"], leaves), arrays
