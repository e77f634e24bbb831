"""Evaluates the selected state of a finished or interrupted run again, perhaps otherwise than the run did.

python -m experiments.evaluate --run_dir=runs/NAME --ks=5,10 --test_with_valid_input --per_user

The run's own files are left as they are: users' metrics that are measured otherwise go to files of another name.
"""

import dataclasses
from pathlib import Path

from diffrec_jax.assembly import (
    check_evaluation,
    evaluate_fitted,
    find_item_groups,
    how_measured,
    make_trainer,
    write_per_user,
)
from diffrec_jax.config import ConfigError, EvaluationConfig, RecencyConfig, RunConfig, with_settings
from diffrec_jax.devices import is_primary
from diffrec_jax.evaluation import SampledCandidates
from diffrec_jax.registry import MODELS
from diffrec_jax.training.run_directory import RunDirectory, config_digest

from . import flags
from .cli import start
from .config import relocated
from .console import ConsoleProgress, make_console, results_table
from .flags import FLAGS
from .machines import join_processes, make_devices, set_up_jax


def main() -> None:
    """Flags to a table."""
    join_processes()
    run_directory, console = RunDirectory(Path(FLAGS.run_dir), writes=is_primary()), make_console()
    stored = run_directory.config()
    config_of_run = RunConfig.from_dict(stored)
    config = with_settings(config_of_run, flags.settings_given(FLAGS, EvaluationConfig, RecencyConfig), trains=False)
    precision = FLAGS.matmul_precision if FLAGS["matmul_precision"].present else config.matmul_precision
    config = dataclasses.replace(config, data=relocated(config.data), matmul_precision=precision)
    set_up_jax(precision, console)
    dataset = config.data.load()
    if dataset.fingerprint != stored["data_sha256"]:
        raise ConfigError(
            f"{dataset.name} in {config.data.folder} is not the data that {run_directory.path} was trained on: give "
            "that with --dataset or --data_dir"
        )
    check_evaluation(config, dataset)
    candidates = SampledCandidates(FLAGS.sampled_negatives) if FLAGS.sampled_negatives else None
    devices = make_devices(dataset)
    if config.training:
        with ConsoleProgress(console, config.training.metric) as progress:
            item_groups = find_item_groups(config, dataset, run_directory, devices)
            trainer = make_trainer(config, dataset, run_directory, devices, item_groups, progress)
            results = trainer.evaluate(
                trainer.restore_best(),
                test_with_valid_input=config.evaluation.test_with_valid_input,
                candidates=candidates,
            )
    else:
        results = evaluate_fitted(config, config.make_fitted(dataset), dataset, devices, candidates)
    if FLAGS.per_user and is_primary():
        digest = config_digest(stored)
        how, how_of_run = how_measured(config, digest, candidates), how_measured(config_of_run, digest)
        paths = write_per_user(results, dataset, run_directory.path, how, how_of_run)
        console.print(f"each user's metrics are in {' and '.join(str(path) for path in paths)}")
    mode, title = config.evaluation.mode, MODELS[config.model].title
    rows = {f"{title} {split}": result.mean(mode) for split, result in results.items()}
    ranked = f", {candidates}" if candidates else ""
    console.print(results_table(f"{dataset.name}, {mode} mode{ranked}", rows, config.evaluation.ks))


if __name__ == "__main__":
    flags.define_evaluation_flags()
    flags.define_evaluate_run_flags()
    flags.define_device_flags()
    start(main, __doc__ or "")
