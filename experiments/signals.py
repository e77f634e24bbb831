"""What SIGTERM and Ctrl-C do: a training saves its state and ends, anything else is cleaned up and ends.

Python sees a signal only between two of its own instructions, not while XLA compiles. A thread of its own hears of it
at once, so a second Ctrl-C ends the process whatever it is doing.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPPED, INTERRUPTED = 75, 130
"""Exit codes: to be resumed; ended at once by Ctrl-C."""
PARENT = "DIFFREC_PARENT"
"""Of the environment: the process that a script is started by and ends with."""
PR_SET_PDEATHSIG = 1
SECONDS_UNTIL_AGAIN = 0.05
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing has to be saved."""


def _terminate(*_: object) -> None:
    raise Terminated


def end_at_once() -> None:
    """Signals end the process with a line and no traceback: for the seconds of importing, when nothing was begun."""

    def end(number: int, _: object) -> None:
        os.write(2, b"ended while it started: nothing was begun, nothing is lost\n")
        os._exit(INTERRUPTED if number == signal.SIGINT else STOPPED)

    for number in SIGNALS:
        signal.signal(number, end)


def end_with(parent: int, number: int) -> None:
    """This process gets a signal when its parent ends, however that ends; elsewhere than on Linux, if it has by now."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def environment_to_end_with_this() -> dict[str, str]:
    """The environment of a script that is told to end when this process does, even by kill -9."""
    return os.environ | {PARENT: str(os.getpid())}


def end_with_starter() -> None:
    """SIGTERM comes when the process ends that started this script, if it asked for that."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        end_with(int(parent), signal.SIGTERM)


def _signal_again(thrown_away: Any) -> None:
    """What Python ignores in destructors and in callbacks of its collector: a signal comes again, the rest is told."""
    if issubclass(thrown_away.exc_type, KeyboardInterrupt):
        number = signal.SIGTERM if issubclass(thrown_away.exc_type, Terminated) else signal.SIGINT
        timer = threading.Timer(SECONDS_UNTIL_AGAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(thrown_away)


def clean_up_on_signals() -> None:
    """SIGTERM ends a script as Ctrl-C does, through what cleans up. A job of several processes has JAX' handler."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = _signal_again


class StopRequest:
    """Whether a signal has asked for the end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether it has."""
        return self.signal is not None

    def hear(self, number: int) -> None:
        """Notes a signal; a second Ctrl-C ends the process."""
        if self.signal is None:
            self.signal = number
            name = signal.Signals(number).name
            print(f"{name}: saving a checkpoint, then ending; Ctrl-C ends at once", file=sys.stderr, flush=True)
        elif number == signal.SIGINT:
            os._exit(INTERRUPTED)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Signals within only ask for the end.

    In a job of several processes SIGTERM is left to JAX, which tells all of them, and Ctrl-C becomes a SIGTERM.
    """
    import jax  # slow, and ``end_at_once`` is for before

    request = StopRequest()
    if jax.process_count() > 1:
        before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))}
        try:
            yield request
        finally:
            _restore(before)
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def listen() -> None:
        while numbers := os.read(reads, 1):
            if numbers[0] in SIGNALS:
                request.hear(numbers[0])
        os.close(reads)

    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        _restore(before)
        os.close(writes)


def go_on_in_a_child(aborted: str) -> None:
    """Only a child process comes back from here: its parent passes signals on, waits, and ends with its exit code.

    A child that is aborted, from C++, cannot say a last word: the parent prints ``aborted`` then, and ends with the
    code of what is to be resumed. To be called before JAX has devices.
    """
    parent, child = os.getpid(), os.fork()
    if not child:
        end_with(parent, signal.SIGKILL)
        return
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGABRT:
        print(aborted, file=sys.stderr)
        code = STOPPED
    os._exit(code if code >= 0 else 128 - code)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
