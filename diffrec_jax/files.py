"""Files that are whole or not there: written beside their place, then moved into it."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

LONGEST_NAME = 180


def safe_name(text: str) -> str:
    """A file name for a text, another one for every text: what is unusual in file names becomes %XX."""
    name = quote(text, safe="=,+-._")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system within, such as a full disk, name the path: Python's own often do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[Any]]:
    """A binary file to write to: a reader, or a crash, sees the old content or the new one, never a part.

    Raises:
      OSError: it cannot be written; the error names ``path``, and nothing is left of the new content.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, text: str) -> None:
    """Writes a text as ``atomic_file`` does."""
    with atomic_file(path) as file:
        file.write(text.encode())
