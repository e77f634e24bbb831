"""Compiled programs kept for later runs, in a folder that is the user's alone."""

import hashlib
import os
import stat
from pathlib import Path

import jax
import jaxlib

from .processor import told

MAX_BYTES = 2**30


def cache_folder() -> Path:
    """Where this machine's programs are kept: below $XDG_CACHE_HOME, by default ~/.cache.

    Programs are compiled for a processor, and a home directory may serve machines of several kinds.
    """
    processor = told("model name", "flags", "Features")
    kind = hashlib.sha256("\n".join([jaxlib.__version__, *processor]).encode()).hexdigest()[:12]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffrec-jax" / f"compiled-{kind}"


def _make_private(folder: Path) -> None:
    """Makes the folder; what is in it is run, so nobody else may write there.

    Raises:
      OSError: it cannot be made, or others may write to it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"{folder} is another user's, or others may write to it")


def _prune(folder: Path) -> None:
    """Deletes the programs that were used least lately, down to ``MAX_BYTES``."""
    files = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
    total = sum(found.st_size for _, found in files)
    for path, found in sorted(files, key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
        if total <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= found.st_size


def keep_compiled_programs() -> str | None:
    """Turns JAX's compilation cache on, unless the user has one already; a line that says why not, where it cannot."""
    if jax.config.jax_compilation_cache_dir:
        return None
    try:
        folder = cache_folder()
        _make_private(folder)
        _prune(folder)
    except (OSError, RuntimeError) as error:
        return f"compiled programs are not kept: {error}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return None
