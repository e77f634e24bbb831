"""Trains a model, evaluates it and leaves everything in a run directory.

python -m experiments.train --model=diffrec --dataset=ml-1m --data_dir=data
python -m experiments.train --run_dir=runs/NAME --resume
"""

import resource
import time
from pathlib import Path
from typing import Any

import jax

from diffrec_jax.data import Dataset
from diffrec_jax.recommenders import POPULARITY
from diffrec_jax.training.parallel import Parallel, local_parallel
from diffrec_jax.training.run_log import RunDirectory
from experiments import flags
from experiments.assemble import evaluate_fitted, make_trainer, write_per_user
from experiments.cli import ConfigError, start
from experiments.config import MAY_DIFFER_ON_RESUME, MODELS, RunConfig, new_run_config, resumed_run_config
from experiments.flags import FLAGS
from experiments.report import ConsoleProgress, make_console, plot_learning_curve, results_table
from experiments.versions import versions

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileClock:
    """Seconds that XLA spent compiling since it was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILE_EVENT:
            self.seconds += duration_secs


def peak_rss_bytes() -> int:
    """Most memory this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def default_run_dir(config: RunConfig) -> Path:
    """A new directory below runs/ that names the run and the time."""
    seed = "" if config.training is None else f"-seed{config.training.seed}"
    name = f"{config.model}-{Path(config.data.dataset).name}-{config.data.setting}{seed}"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def train(
    config: RunConfig, dataset: Dataset, run_directory: RunDirectory, parallel: Parallel, console
) -> dict[str, Any]:
    """Trains, evaluates the selected state, and returns what results.json holds beyond the common part."""
    assert config.training is not None
    with ConsoleProgress(console, config.training.metric) as progress:
        trainer = make_trainer(config, dataset, run_directory, parallel, progress)
        best = trainer.run()
        results = trainer.evaluate(
            parallel.replicate(best), test_with_valid_input=config.evaluation.test_with_valid_input
        )
    timings = trainer.timings
    epochs_trained = timings.steps / trainer.steps_per_epoch
    return {
        "results": results,
        "best_epoch": float(best.selection.best_epoch),
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(best.params)),
        "timings": {
            "train_s_per_epoch": timings.train_s / epochs_trained if epochs_trained else None,
            "train_s_per_step": timings.train_s / timings.steps if timings.steps else None,
            "eval_s": timings.eval_s / timings.evaluations,
            "checkpoint_s": timings.checkpoint_s,
        },
    }


def fit(config: RunConfig, dataset: Dataset, parallel: Parallel) -> dict[str, Any]:
    """Fits a closed-form model and returns what results.json holds beyond the common part."""
    started = time.perf_counter()
    results = evaluate_fitted(config, config.make_fitted(), dataset, parallel)
    timings = {"train_s_per_epoch": None, "eval_s": time.perf_counter() - started}
    return {"results": results, "best_epoch": None, "num_params": 0, "timings": timings}


def main() -> None:
    """Flags to results."""
    started, clock, console = time.perf_counter(), CompileClock(), make_console()
    if FLAGS.resume and not FLAGS.run_dir:
        raise ConfigError("--resume needs --run_dir, the directory of the run to go on with")
    run_directory = RunDirectory(FLAGS.run_dir) if FLAGS.run_dir else None
    resumes = FLAGS.resume and run_directory is not None and run_directory.exists()
    config = resumed_run_config(RunConfig.from_dict(run_directory.config())) if resumes else new_run_config()  # type: ignore[union-attr]
    dataset = config.data.load()
    parallel = local_parallel(FLAGS.max_devices)
    if config.training and config.training.batch_size % parallel.num_devices:
        raise ConfigError(
            f"--batch_size={config.training.batch_size} is no multiple of the {parallel.num_devices} devices: "
            "choose one that is, or set --max_devices"
        )
    run_directory = run_directory or RunDirectory(default_run_dir(config))
    if resumes:
        run_directory.check_config(config.to_dict(dataset), may_differ=MAY_DIFFER_ON_RESUME)
        run_directory.update_config(config.to_dict(dataset))
    else:
        run_directory.create(config.to_dict(dataset))
    title = MODELS[config.model].title
    console.print(dataset.summary(), markup=False)
    for warning in dataset.warnings:
        console.print(f"warning: {warning}", markup=False)
    devices = f"{parallel.num_devices} x {jax.devices()[0].device_kind}"
    console.print(f"{title}, preset {config.preset}, on {devices}; run directory {run_directory.path}", markup=False)

    outcome = (
        train(config, dataset, run_directory, parallel, console) if config.training else fit(config, dataset, parallel)
    )
    mode, per_split = config.evaluation.mode, outcome.pop("results")
    means = {split: result.mean(mode) for split, result in per_split.items()}
    rows = {title: means["test"]}
    baselines = {}
    if FLAGS.baseline and config.training:
        popularity = evaluate_fitted(config, POPULARITY, dataset, parallel)
        baselines["popularity"] = {split: result.mean(mode) for split, result in popularity.items()}
        rows["Popularity"] = baselines["popularity"]["test"]
    if FLAGS.per_user:
        write_per_user(per_split, run_directory.path)
    timings = outcome.pop("timings")
    results = {
        "model": config.model,
        "dataset": config.data.dataset,
        "setting": config.data.setting,
        "seed": config.training.seed if config.training else None,
        "preset": config.preset,
        "mode": mode,
        **outcome,
        **means,
        "baselines": baselines,
        "timings": {"compile_s": clock.seconds, **timings, "total_s": time.perf_counter() - started},
        "peak_rss_bytes": peak_rss_bytes(),
        "devices": devices,
        "versions": versions(),
    }
    if config.training:
        plotted = plot_learning_curve(
            run_directory.records(),
            config.training.metric,
            f"{title} on {dataset.name}, seed {config.training.seed}",
            run_directory.path / "learning_curve.png",
        )
        if not plotted:
            console.print(
                "no learning_curve.png: matplotlib is missing (pip install 'diffrec-jax[plot]')", markup=False
            )
    run_directory.write_results(results)
    console.print(results_table(f"{dataset.name}, test split, {mode} mode", rows, config.evaluation.ks))
    if config.training:
        per_epoch = timings["train_s_per_epoch"]
        speed = f"{per_epoch:.2f} s an epoch, " if per_epoch else ""
        console.print(
            f"best epoch {results['best_epoch']:g}; {speed}{timings['eval_s']:.1f} s an evaluation, "
            f"{results['timings']['total_s']:.0f} s in all; peak memory {results['peak_rss_bytes'] / 2**30:.2f} GiB",
            markup=False,
        )
    console.print(f"results in {run_directory.path / 'results.json'}", markup=False)


if __name__ == "__main__":
    flags.define_model_flags(tuple(MODELS))
    flags.define_data_flags()
    flags.define_training_flags()
    flags.define_evaluation_flags()
    flags.define_run_flags()
    start(main, __doc__ or "")
