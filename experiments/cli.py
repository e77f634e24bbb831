"""Starts a script: grouped --help, and one clear line instead of a traceback for what a user can put right."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from diffrec_jax.data import DataError
from diffrec_jax.training.checkpoints import CheckpointError
from diffrec_jax.training.loop import DivergedError
from diffrec_jax.training.run_log import RunDirectoryError
from experiments.flags import grouped_help
from experiments.memory import keep_freed_memory

USER_ERROR = 2


class ConfigError(ValueError):
    """Flags or presets that do not make a valid configuration."""


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USER_ERROR


def start(main: Callable[[], None], usage: str, *, keep_memory: bool = True) -> None:
    """Parses the flags, runs ``main`` and exits: 0, 2 for what the user can put right, 130 when interrupted.

    ``keep_memory`` is ``experiments.memory.keep_freed_memory``.
    """
    asks_for_help = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
    if asks_for_help & set(sys.argv[1:]):
        print(grouped_help(usage))
        sys.exit(0)

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

    def run(argv: list[str]) -> int:
        del argv
        try:
            main()
        except (ConfigError, DataError, RunDirectoryError, CheckpointError, DivergedError) as error:
            return _fail(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        return 0

    app.run(run, flags_parser=parse)
