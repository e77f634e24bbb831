"""Several processes, each with its own devices: which one writes, and what they agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_primary() -> bool:
    """Whether this is the process that writes logs and results."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_primary(array: np.ndarray) -> np.ndarray:
    """The primary process' array, of the same shape on all: what is computed by each may differ in its last bits."""
    return np.asarray(multihost_utils.broadcast_one_to_all(array)) if jax.process_count() > 1 else array


def any_stops(turn: int, stops: bool) -> bool:
    """Whether the run stops now: one process asks itself; of several, all as soon as one was told to end.

    Those hear of it by JAX's preemption service, which sees the signal (SIGTERM) in any of them, and tells all of them
    in the same turn; turns are counted one by one.
    """
    return multihost_utils.reached_preemption_sync_point(turn) if jax.process_count() > 1 else stops
