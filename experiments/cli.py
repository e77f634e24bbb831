"""Starts a script: grouped --help, and one clear line instead of a traceback for what a user can put right."""

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging

from diffrec_jax.config import ConfigError
from diffrec_jax.data import DataError
from diffrec_jax.evaluation import ScoresError
from diffrec_jax.memory import keep_freed_memory
from diffrec_jax.serving.model_files import ModelFileError
from diffrec_jax.training.checkpoints import CheckpointError
from diffrec_jax.training.lock import LockedError
from diffrec_jax.training.loop import StoppedError
from diffrec_jax.training.losses import DivergedError
from diffrec_jax.training.run_directory import RunDirectoryError

from .command import command
from .flags import grouped_help
from .machines import PEER_LOST, tells_of_a_lost_peer
from .signals import INTERRUPTED, STOPPED, Terminated, clean_up_on_signals

USER_ERROR = 2
OUT_OF_MEMORY = "out of memory: {}; lower --batch_size, --eval_batch_size or --dims, or take a larger machine"


USER_ERRORS = (
    ConfigError, DataError, RunDirectoryError, LockedError, CheckpointError, DivergedError, ScoresError, ModelFileError,
)  # fmt: skip


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _leave(USER_ERROR) if jax.distributed.is_initialized() else USER_ERROR


WHAT_TO_DO = {
    errno.ENOSPC: "make room and start again; a run goes on with --resume",
    errno.EDQUOT: "make room and start again; a run goes on with --resume",
    errno.EROFS: "name another folder, or make this one writable; a run goes on with --resume",
    errno.EACCES: "name another folder, or make this one accessible to you; a run goes on with --resume",
    errno.EIO: "the disk fails: copy what is there elsewhere; a run goes on with --resume",
}


def _describe(error: OSError) -> str:
    """The path, what is wrong with it and what to do, where that is clear."""
    text = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
    advice = WHAT_TO_DO.get(error.errno or 0)
    return f"{text}: {advice}" if advice else text


def run_main(main: Callable[[], None]) -> int:
    """Runs a script's ``main``: its exit code, after a line for what a user can put right."""
    try:
        main()
    except USER_ERRORS as error:
        return _fail(error)
    except OSError as error:
        return _fail(_describe(error))
    except MemoryError as error:
        return _fail(OUT_OF_MEMORY.format(error or "the machine gives no more"))
    except jax.errors.JaxRuntimeError as error:
        if tells_of_a_lost_peer(error):
            print(PEER_LOST, file=sys.stderr)
            return _leave(STOPPED)
        first_line = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in first_line and "Out of memory" not in first_line:
            raise
        return _fail(OUT_OF_MEMORY.format(first_line))
    except StoppedError as error:
        print(error, file=sys.stderr)
        return _leave(STOPPED)
    except Terminated:
        print("ended by SIGTERM: start it again, with --resume where it had begun a run directory", file=sys.stderr)
        return _leave(STOPPED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _leave(INTERRUPTED)
    return 0


def _leave(code: int) -> int:
    """Ends the process without Python's own end.

    In it JAX crashes if it was interrupted while it compiled, and waits for the other processes of a job, which may
    wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start(main: Callable[[], None], usage: str, *, keep_memory: bool = True) -> None:
    """Parses the flags, runs ``main`` and exits: 0, 2 for what the user can put right, 75 stopped, 130 interrupted.

    ``keep_memory`` is ``diffrec_jax.memory.keep_freed_memory``.
    """
    asks_for_help = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
    if asks_for_help & set(sys.argv[1:]):
        with contextlib.suppress(BrokenPipeError):  # of --help | head
            print(grouped_help(usage.replace("python -m experiments.", command(""))), flush=True)
        os._exit(0)  # Python's own end takes a quarter of a second

    gc.enable()
    gc.freeze()  # what was imported stays
    clean_up_on_signals()
    if keep_memory:
        keep_freed_memory()
    logging.set_verbosity(logging.WARNING)  # JAX and Orbax tell much at the level of info

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            sys.exit(_fail(f"{' '.join(str(error).split())} (--help lists all flags)"))
        if len(rest) > 1:
            sys.exit(_fail(f"unexpected argument {rest[1]!r}: flags are written --name=value (--help lists them)"))
        return rest

    app.run(lambda argv: run_main(main), flags_parser=parse)
