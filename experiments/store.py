"""Runs found by what they are, wherever they lie: by their configuration and the fingerprint of their data."""

import contextlib
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from diffrec_jax.config import RunConfig, with_later_settings, without_newer_settings
from diffrec_jax.files import safe_name
from diffrec_jax.training.run_directory import LOCATION, RunDirectory, RunDirectoryError

NOT_IDENTITY = (LOCATION, "version", "preset")
"""Of config.json: what a run does does not depend on them."""
SHOWN = 12
"""Digits of an identity in the name of a run directory."""


def identity(config: dict[str, Any]) -> str:
    """Of what config.json holds: equal for runs that do the same on the same data, in whatever version or folder."""
    config = without_newer_settings(with_later_settings(config))
    values = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Store:
    """The run directories below a folder.

    Args:
      folder: of new runs; finished ones are looked for in it and its folders.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._finished: dict[str, Path] = {}
        for file in sorted([*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]):
            if is_usable(file.parent):
                with contextlib.suppress(RunDirectoryError):  # a damaged or older one is made anew, elsewhere
                    self._finished.setdefault(identity(RunDirectory(file.parent).config()), file.parent)

    def finished(self, of: str) -> Path | None:
        """The finished run of this identity."""
        found = self._finished.get(of)
        own = next(iter(self.folder.glob(f"*-{of[:SHOWN]}")), None)
        return found or (own if own and is_usable(own) else None)

    def place(self, of: str, config: RunConfig) -> Path:
        """Where the run of this identity is, or goes."""
        seed = "" if config.seed is None else f"-seed{config.seed}"
        name = f"{config.model}-{Path(config.data.dataset).name}-{config.data.setting}{seed}-{of[:SHOWN]}"
        return self.finished(of) or self.folder / safe_name(name)


def is_usable(path: Path) -> bool:
    """Whether a run is finished and has its users' metrics, neither of them torn."""
    return is_trained(path) and zipfile.is_zipfile(path / "per_user_test.npz")


def is_trained(path: Path) -> bool:
    """Whether a run is finished, with or without its users' metrics."""
    try:
        return RunDirectory(path).results() is not None
    except RunDirectoryError:
        return False
