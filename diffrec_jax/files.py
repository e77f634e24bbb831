"""Files that are whole or not there: written beside their place, then moved into it."""

import contextlib
import glob
import hashlib
import json
import os
import secrets
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

LONGEST_NAME = 180
LONGEST_WRITE_S = 3600.0
"""Seconds after which nobody writes any more to an unfinished file."""
SIGNATURE = "sha256"
"""Key of the SHA-256 of a JSON file's content, in the file."""
UNREADABLE = (
    ValueError, OSError, EOFError, KeyError, TypeError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, NotImplementedError,
)  # fmt: skip
"""What NumPy raises for files that are no arrays, or damaged ones; it has no error of its own."""


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


def _remove_abandoned(path: Path) -> None:
    """Takes away what killed processes left of a file that they were writing."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LONGEST_WRITE_S:
                left.unlink()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[Any]]:
    """A binary file to write to: a reader, or a crash, sees the old content or the new one, never a part.

    Raises:
      OSError: it cannot be written; the error names ``path``, and nothing is left of the new content.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")  # of this writer alone
    _remove_abandoned(path)
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


def signed_json(content: dict[str, Any]) -> str:
    """A text that holds its own SHA-256, for ``read_signed_json``."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({SIGNATURE: digest, **content}, indent=1) + "\n"


def read_signed_json(text: str) -> dict[str, Any]:
    """The content of a ``signed_json``.

    Raises:
      ValueError: the text is not what was written, in any character.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop(SIGNATURE, None) is None or signed_json(content) != text:
        raise ValueError("it is not what was written")
    return content
