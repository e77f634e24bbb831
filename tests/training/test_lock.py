import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from diffrec_jax.training import lock
from diffrec_jax.training.lock import LOCK, LockedError, hold

HOLDER = """
import sys, time
from pathlib import Path
from diffrec_jax.training.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_hears_who_holds_the_folder(tmp_path, holder):
    with (
        pytest.raises(LockedError, match=rf"run is in use by process {holder.pid} on .* since 20\d\d-"),
        hold(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_a_killed_process_stops_nobody(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_nothing_is_left_where_nothing_was_done(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    with hold(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_numbered_folders_never_meet(tmp_path):
    with hold(tmp_path / "a" / "run", numbered=True) as first, hold(tmp_path / "a" / "run", numbered=True) as second:
        assert [first.name, second.name] == ["run", "run-2"]


def test_without_file_locks_the_content_says_who_is_there(tmp_path, monkeypatch):
    """Of this machine a process that is gone, or another one with its number, holds nothing; of another, it may."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with hold(tmp_path / "run"):
        with (
            pytest.raises(LockedError, match=f"in use by process {os.getpid()} .*: if it is gone, delete"),
            hold(tmp_path / "run"),
        ):
            pass
        content = json.loads((tmp_path / "run" / LOCK).read_text())
    (tmp_path / "run").mkdir()
    for change in ({"pid": 2**22 + 1}, {"started": "0"}):
        (tmp_path / "run" / LOCK).write_text(json.dumps(content | change))
        with hold(tmp_path / "run"):
            pass
        (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / LOCK).write_text(json.dumps(content | {"host": "elsewhere"}))
    with pytest.raises(LockedError, match="on elsewhere"), hold(tmp_path / "run"):
        pass
