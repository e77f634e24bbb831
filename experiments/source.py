"""The trained model that a script is told to take."""

from rich.console import Console

from diffrec_jax.api import Model, load, load_run
from diffrec_jax.config import ConfigError

from .config import relocated
from .flags import FLAGS
from .machines import set_up_jax


def load_source(console: Console) -> Model:
    """Of --run_dir or --saved.

    Raises:
      ConfigError: neither is given, or both.
    """
    if bool(FLAGS.run_dir) == bool(FLAGS.saved):
        raise ConfigError("give --run_dir, a run of experiments.train, or --saved, a folder of diffrec_jax.save")
    set_up_jax(None, console)
    return load(FLAGS.saved) if FLAGS.saved else load_run(FLAGS.run_dir, find_data=relocated)
