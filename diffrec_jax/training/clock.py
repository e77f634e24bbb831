"""Where the time of a run goes: kinds of work that add up to the wall time."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import jax

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
Kind = Literal["compile", "input", "step", "evaluation", "checkpoint", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PROGRESS: tuple[Kind, ...] = ("input", "step")
"""What has to be done again where it was lost."""


@functools.cache
def _compiling() -> dict[str, float]:
    """Seconds that XLA spent compiling in this process, since the first call; listened to once."""
    spent = {"seconds": 0.0}

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILE_EVENT:
            spent["seconds"] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return spent


class Clock:
    """Seconds by kind since it was made; compiling counts as such wherever it happens, the rest is ``other``.

    The clock is monotonic: the system's may be set while a run goes on.
    """

    def __init__(self) -> None:
        self._started, self._compiled = time.perf_counter(), _compiling()["seconds"]
        self._seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)

    @contextmanager
    def measuring(self, kind: Kind) -> Iterator[None]:
        """What is done within is of this kind."""
        started, compiled = time.perf_counter(), _compiling()["seconds"]
        try:
            yield
        finally:
            compiled = _compiling()["seconds"] - compiled
            self._seconds[kind] += max(time.perf_counter() - started - compiled, 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """By kind, until now; their sum is the wall time."""
        found = dict(self._seconds)
        found["compile"] = _compiling()["seconds"] - self._compiled
        found["other"] = max(time.perf_counter() - self._started - sum(found.values()), 0.0)
        return {kind: found[kind] for kind in KINDS}


def are_seconds(found: object) -> bool:
    """Whether something read from a file is what ``Clock.seconds`` gives."""
    return isinstance(found, dict) and all(isinstance(found.get(kind), int | float) for kind in KINDS)


def where_time_went(now: dict[str, float], earlier: list[dict[str, float]], lost_s: float) -> dict[str, float]:
    """Seconds by kind of all processes that worked on a run, what was ``lost`` apart, and their sum ``wall``.

    Args:
      now: of this process.
      earlier: of those before it.
      lost_s: seconds of ``PROGRESS`` in those whose steps were made again.
    """
    total = {kind: now[kind] + sum(one[kind] for one in earlier) for kind in KINDS}
    productive = sum(total[kind] for kind in PROGRESS)
    for kind in PROGRESS:
        total[kind] -= lost_s * total[kind] / productive if productive else 0.0
    found = {f"{kind}_s": value for kind, value in total.items()} | {"lost_s": lost_s}
    return found | {"wall_s": sum(found.values())}
