"""One process at a time in a run directory."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LOCK = "run.lock"
_IN_USE = (errno.EWOULDBLOCK, errno.EACCES)


class LockedError(RuntimeError):
    """Somebody else works in the folder; the message says who, and since when."""


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None where it is not there or cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process of a lock's content still runs; one of another machine counts as running."""
    if holder.get("host") != socket.gethostname():
        return True
    started = _started(int(holder["pid"]))
    return started is not None and holder.get("started") in (None, started)


def _read(file: IO[str]) -> dict[str, Any] | None:
    file.seek(0)
    try:
        return json.loads(file.read() or "null")
    except ValueError:
        return None


def _in_use(path: Path, holder: dict[str, Any] | None, remedy: str) -> LockedError:
    who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
    return LockedError(f"{path.parent} is in use by {who}: {remedy}")


def _take(path: Path) -> IO[str]:
    """The open, locked file.

    Raises:
      LockedError: another process has it.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(file)
            file.close()
            if error.errno in _IN_USE:
                raise _in_use(path, holder, "wait for it or stop it, or choose another directory") from None
            raise
        # Who had it before may have deleted the file between its opening and its locking here.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()


def _take_without_flock(path: Path) -> IO[str]:
    """The same where the file system has no locks: the content alone says who has it."""
    file = path.open("a+")
    holder = _read(file)
    if holder is not None and _is_alive(holder):
        file.close()
        raise _in_use(path, holder, f"if it is gone, delete {path}")
    return file


def _make_numbered(path: Path) -> Path:
    """A new folder of this name or, where that is taken, with -2, -3, ...; no two processes get the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


@contextmanager
def hold(folder: Path, *, numbered: bool = False) -> Iterator[Path]:
    """Holds a folder, which is made where it is missing, against other processes that ask for it, and gives its path.

    The system frees the lock of a process that ends, however it ends, so one that is left behind stops nobody. On
    leaving, the lock file goes, and the folder too where it was made here and is still empty.

    Args:
      folder: its path.
      numbered: always makes a new one, with a number behind its name where that is taken.

    Raises:
      LockedError: another process holds it.
      OSError: the folder or the file cannot be made.
    """
    made = numbered or not folder.exists()
    if numbered:
        folder = _make_numbered(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        file = _take(path)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        file = _take_without_flock(path)
    try:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield folder
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()
        if made:
            with contextlib.suppress(OSError):  # something is in it: as it should be
                path.parent.rmdir()
