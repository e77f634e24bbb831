"""What signals do, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.runs import execute, log_of
from experiments.signals import INTERRUPTED, PARENT, STOPPED, Terminated, clean_up_on_signals, stop_requests
from tests.experiments.scripts import ROOT

ASKED = """
import time
from experiments.signals import stop_requests
with stop_requests() as asked:
    print("ready", flush=True)
    while not asked():
        time.sleep(0.01)
    time.sleep(float("{seconds}"))
print("saved", flush=True)
"""

KILLS = """
import os, pathlib, time
while "1\\n" not in pathlib.Path({0!r}).read_text():
    time.sleep(0.01)
os.kill({1}, 15)
"""


@pytest.mark.once
@pytest.mark.parametrize(
    ("signals", "seconds", "code", "output"),
    [
        ([signal.SIGTERM], 0, 0, "saved"),
        ([signal.SIGINT, signal.SIGTERM], 0.5, 0, "saved"),
        ([signal.SIGTERM, signal.SIGINT], 60, INTERRUPTED, ""),
        ([signal.SIGINT, signal.SIGINT], 60, INTERRUPTED, ""),
    ],
)
def test_a_signal_asks_and_a_second_ctrl_c_ends(signals, seconds, code, output):
    command = [sys.executable, "-c", ASKED.format(seconds=seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    for number in signals:
        process.send_signal(number)
        assert f"{signals[0].name}: saving a checkpoint" in process.stderr.readline() or number is signals[-1]
    assert (process.communicate(timeout=30)[0].strip(), process.returncode) == (output, code)


def test_signals_mean_what_they_did_before_when_nothing_is_saved_any_more():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with stop_requests() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        while not asked():
            time.sleep(0.01)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def catches(pid, number):
    """Whether a process has a handler of a signal, as Linux tells it."""
    (line,) = (text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


IN_A_DESTRUCTOR = """
import signal, time
from experiments.signals import Terminated, clean_up_on_signals

class Ends:
    def __del__(self):
        signal.raise_signal({})

clean_up_on_signals()
try:
    Ends()
    time.sleep(30)
except {}:
    print("ended")
"""


@pytest.mark.parametrize("number, name", [(15, "Terminated"), (2, "KeyboardInterrupt")])
def test_a_signal_that_comes_within_a_destructor_is_not_lost(number, name):
    code = IN_A_DESTRUCTOR.format(number, name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0)


@pytest.mark.once
def test_a_script_that_is_ended_while_it_imports_says_so_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not catches(process.pid, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.001)
    process.terminate()
    said = process.communicate(timeout=30)[0]
    assert (said, process.returncode) == (b"ended while it started: nothing was begun, nothing is lost\n", STOPPED)


@pytest.mark.once
def test_a_script_whose_starter_has_ended_already_ends():
    own = os.environ | {PARENT: str(os.getppid())}
    command = [sys.executable, "-m", "experiments.train", "--model=none"]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == (b"ended while it started: nothing was begun, nothing is lost\n", STOPPED)


def test_a_run_within_a_script_is_told_to_end_with_it(tmp_path):
    child = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('told'))); print(1); time.sleep(60)"
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        clean_up_on_signals()
        log = log_of(tmp_path / "child")
        log.touch()
        asks = subprocess.Popen([sys.executable, "-c", KILLS.format(str(log), os.getpid())])
        with pytest.raises(Terminated):
            list(execute({tmp_path / "child": [sys.executable, "-u", "-c", child]}))
        assert asks.wait() == 0
        assert log.read_text().splitlines()[1:] == ["1", "told"]
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before):
            signal.signal(number, handler)
