"""What a script runs on: one process or many, their devices, and a watch over those that hang."""

import faulthandler
from typing import Any

import jax
from rich.console import Console

from diffrec_jax.config import ConfigError
from diffrec_jax.data import Dataset
from diffrec_jax.devices import DeviceStrategy, make_strategy

from .cache import keep_compiled_programs
from .flags import FLAGS
from .signals import go_on_in_a_child


def join_processes() -> None:
    """With --distributed, meets the other processes of the job; nothing that asks JAX for devices may come before.

    Raises:
      ConfigError: they are not found, or only a part of the address was given.
    """
    address: dict[str, Any] = {
        name: FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")
    }
    given = [value is not None for value in address.values()]
    if not FLAGS.distributed:
        if any(given):
            raise ConfigError("--coordinator_address, --num_processes and --process_id need --distributed")
        return
    if any(given) and not all(given):
        raise ConfigError("--coordinator_address, --num_processes and --process_id go together: give all or none")
    go_on_in_a_child(ABORTED)
    try:
        jax.distributed.initialize(**address, heartbeat_timeout_seconds=FLAGS.heartbeat_seconds)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed found no job to join ({str(error).splitlines()[0]}): outside Slurm, Open MPI, Kubernetes "
            "and Cloud TPU give --coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from error


PEER_LOST = "another process of the job has ended or cannot be reached: start all of them again with --resume"
_SIGNS_OF_A_LOST_PEER = ("Gloo", "NCCL", "Connection closed", "Connection reset", "heartbeat", "UNAVAILABLE", "Barrier")


ABORTED = f"JAX ended this process (see above), as it does when {PEER_LOST}"


def tells_of_a_lost_peer(error: Exception) -> bool:
    """Whether an error of JAX comes of another process that is gone."""
    return jax.distributed.is_initialized() and any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PEER)


def set_up_jax(matmul_precision: str | None, console: Console) -> None:
    """The precision of products, where it is not the model's own, and the cache of compiled programs."""
    if matmul_precision is not None:
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    if FLAGS.compilation_cache:
        problem = keep_compiled_programs()
        if problem:
            console.print(f"warning: {problem}")


def make_devices(dataset: Dataset) -> DeviceStrategy:
    """The devices that the flags choose.

    Raises:
      ConfigError: they cannot be used so.
    """
    try:
        return make_strategy(
            FLAGS.parallel, num_items=dataset.num_items, item_shards=FLAGS.item_shards, max_devices=FLAGS.max_devices
        )
    except ValueError as error:
        raise ConfigError(error) from error


class Watchdog:
    """Ends the process, with the stack of every thread, when it shows no life for so long: a peer may have died.

    Args:
      minutes: without a sign of life; 0 for never.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes

    def alive(self) -> None:
        """A sign of life: the time begins anew."""
        if self.minutes:
            faulthandler.dump_traceback_later(60 * self.minutes, exit=True)

    def stop(self) -> None:
        """Watches no longer."""
        faulthandler.cancel_dump_traceback_later()


NO_WATCHDOG = Watchdog(0)
