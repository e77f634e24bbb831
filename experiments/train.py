"""Trains a model, evaluates it and leaves everything in a run directory.

python -m experiments.train --model=diffrec --dataset=ml-1m --data_dir=data
python -m experiments.train --run_dir=runs/NAME --resume
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from diffrec_jax.data import Dataset, item_counts
from diffrec_jax.devices import OneDevice
from diffrec_jax.evaluation import SplitResult, beyond_accuracy
from diffrec_jax.models import split_size
from diffrec_jax.recommenders import PopularityConfig, make_popularity
from diffrec_jax.recommenders.linear_denoiser import linear_factors_bytes
from diffrec_jax.training.parallel import is_primary, wait_for_all
from diffrec_jax.training.run_log import RunDirectory
from experiments import flags
from experiments.assemble import (
    check_memory,
    evaluate_fitted,
    evaluate_scoring_state,
    find_item_groups,
    fit_scoring_state,
    item_embeddings,
    make_evaluator,
    make_fit_linear,
    make_trainer,
    seconds_per_1000_users,
    write_per_user,
)
from experiments.cli import ConfigError, start
from experiments.config import MAY_DIFFER_ON_RESUME, RunConfig, new_run_config, resumed_run_config
from experiments.flags import FLAGS
from experiments.machines import Watchdog, join_processes, make_devices
from experiments.memory import GIB, peak_rss_bytes
from experiments.models import MODELS
from experiments.report import ConsoleProgress, make_console, plot_learning_curve, results_table
from experiments.versions import versions

BEYOND_ACCURACY_K = 20
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileClock:
    """Seconds that XLA spent compiling since it was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILE_EVENT:
            self.seconds += duration_secs


def default_run_dir(config: RunConfig) -> Path:
    """A new directory below runs/ that names the run and the time."""
    seed = "" if config.seed is None else f"-seed{config.seed}"
    name = f"{config.model}-{Path(config.data.dataset).name}-{config.data.setting}{seed}"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


@dataclass(frozen=True)
class Outcome:
    """What a model's training or fitting gave."""

    splits: dict[str, SplitResult]
    best_epoch: float | None
    num_params: int
    timings: dict[str, float | None]


def num_numbers(tree: Any) -> int:
    """How many numbers a pytree of arrays holds."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def train(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    devices: OneDevice,
    item_groups: np.ndarray | None,
    console: Console,
) -> Outcome:
    """Trains and evaluates the selected state."""
    assert config.training is not None
    with ConsoleProgress(console, config.training.metric, Watchdog(FLAGS.watchdog_minutes)) as progress:
        trainer = make_trainer(config, dataset, run_directory, devices, item_groups, progress)
        best = trainer.run()
        splits = trainer.evaluate(best, test_with_valid_input=config.evaluation.test_with_valid_input)
    if trainer.recommender.item_embeddings:
        run_directory.write_item_embeddings(item_embeddings(trainer, best))
    timings, of_one = trainer.timings, jax.eval_shape(trainer.recommender.init_params, jax.random.key(0))
    return Outcome(
        splits=splits,
        best_epoch=float(devices.fetch(best.selection.best_epoch)),
        num_params=num_numbers(of_one),
        timings={
            "train_s": timings.train_s,
            "train_s_per_epoch": timings.train_s * trainer.steps_per_epoch / timings.steps if timings.steps else None,
            "train_s_per_step": timings.train_s / timings.steps if timings.steps else None,
            "eval_s": timings.eval_s / timings.evaluations,
            "eval_s_per_1000_users": seconds_per_1000_users(
                config, trainer.evaluator, trainer.scoring_state(best), dataset
            ),
            "checkpoint_s": timings.checkpoint_s,
        },
    )


def fit(config: RunConfig, dataset: Dataset, devices: OneDevice, console: Console) -> Outcome:
    """Fits a closed-form model and evaluates it."""
    recommender, title = config.make_fitted(), MODELS[config.model].title
    evaluator = make_evaluator(config, recommender.score_fn, devices)
    console.print(f"fitting {title} takes about {recommender.fit_bytes(dataset.train) / GIB:.2f} GiB", markup=False)
    started = time.perf_counter()
    fitted = fit_scoring_state(config, recommender, dataset)
    fit_s, scoring_state = time.perf_counter() - started, devices.place(fitted)
    started = time.perf_counter()
    splits = evaluate_scoring_state(config, evaluator, scoring_state, dataset)
    timings = {
        "fit_s": fit_s,
        "train_s_per_epoch": None,
        "eval_s": time.perf_counter() - started,
        "eval_s_per_1000_users": seconds_per_1000_users(config, evaluator, scoring_state, dataset),
    }
    return Outcome(splits=splits, best_epoch=None, num_params=num_numbers(fitted), timings=timings)


def check_devices(config: RunConfig, devices: OneDevice) -> None:
    """Raises ConfigError if the batch does not split over the devices, or they do not compute as asked."""
    if config.training is None:
        return
    if config.training.compute_dtype != "float32" and jax.default_backend() == "cpu":
        raise ConfigError(f"--compute_dtype={config.training.compute_dtype} is for GPU and TPU: leave it out on a CPU")
    num_parts = devices.num_row_shards * config.training.accumulate_steps
    if config.training.batch_size % num_parts:
        raise ConfigError(
            f"--batch_size={config.training.batch_size} is no multiple of the {devices.num_row_shards} devices along "
            f"the rows times --accumulate_steps={config.training.accumulate_steps}: "
            "choose one that is, or set --max_devices"
        )


def describe_item_groups(config: RunConfig, item_groups: np.ndarray | None) -> dict[str, Any] | None:
    """Their sizes and latent sizes, for results.json."""
    if item_groups is None:
        return None
    sizes = tuple(np.bincount(item_groups).tolist())
    latent_sizes = split_size(config.recommender.in_dims[-1], sizes)
    return {"sizes": sizes, "latent_sizes": latent_sizes}


def plot(run_directory: RunDirectory, metric: str, title: str, console: Console) -> None:
    """learning_curve.png, or a line that says what is missing for it."""
    path = run_directory.path / "learning_curve.png"
    if not plot_learning_curve(run_directory.records(), metric, title, path):
        console.print(f"no {path.name}: matplotlib is missing (pip install 'diffrec-jax[plot]')", markup=False)


def show(results: dict[str, Any], ks: tuple[int, ...], run_directory: RunDirectory, console: Console) -> None:
    """The final table and what the run cost."""
    rows = {MODELS[results["model"]].title: results["test"]}
    rows |= {MODELS[name].title: baseline["test"] for name, baseline in results["baselines"].items()}
    inner = results.get("inner_split")
    split = f"inner split {inner:g} (the valid split, not the test)" if inner else "test split"
    console.print(results_table(f"{results['dataset']}, {split}, {results['mode']} mode", rows, ks))
    timings = results["timings"]
    costs = [f"{timings['total_s']:.0f} s in all", f"peak memory {results['peak_rss_bytes'] / 2**30:.2f} GiB"]
    if timings["train_s_per_epoch"]:
        costs.insert(0, f"{timings['train_s_per_epoch']:.2f} s an epoch, {timings['eval_s']:.1f} s an evaluation")
    if results["best_epoch"] is not None:
        costs.insert(0, f"best epoch {results['best_epoch']:g}")
    console.print("; ".join(costs), markup=False)
    console.print(f"results in {run_directory.path / 'results.json'}", markup=False)


def main() -> None:
    """Flags to results."""
    started = time.perf_counter()
    join_processes()
    clock, console = CompileClock(), make_console(quiet=not is_primary())
    if FLAGS.resume and not FLAGS.run_dir:
        raise ConfigError("--resume needs --run_dir, the directory of the run to go on with")
    found = RunDirectory(FLAGS.run_dir, writes=is_primary()) if FLAGS.run_dir else None
    resumes = FLAGS.resume and found is not None and found.exists()
    config = resumed_run_config(RunConfig.from_dict(found.config())) if resumes else new_run_config()  # type: ignore[union-attr]
    if FLAGS.distributed and found is None:
        raise ConfigError("--distributed needs --run_dir: the processes have to share it")
    dataset = config.data.load()
    devices = make_devices(dataset)
    # What complains does so before anything is written.
    check_devices(config, devices)
    config.evaluation.user_ids(dataset)
    if not config.training:
        check_memory(config, config.make_fitted().fit_bytes(dataset.train), dataset)
    run_directory, stored = found or RunDirectory(default_run_dir(config)), config.to_dict(dataset)
    if resumes:
        run_directory.check_config(stored, may_differ=MAY_DIFFER_ON_RESUME)
    else:
        run_directory.check_unused()
    with ConsoleProgress(console, "recall@20") as progress:
        item_groups = find_item_groups(config, dataset, run_directory, devices, progress)
    if item_groups is not None or config.has_linear_part:
        config.make_recommender(dataset, item_groups, make_fit_linear(config, dataset))
    if config.has_linear_part:
        check_memory(config, linear_factors_bytes(dataset.train), dataset)
    wait_for_all("what was there is known")
    if resumes:
        finished = run_directory.results()
        if finished is not None and stored["training"] == run_directory.config()["training"]:
            console.print(f"{run_directory.path} is finished: more --epochs would go on with it", markup=False)
            show(finished, config.evaluation.ks, run_directory, console)
            return
        run_directory.update_config(stored)
    else:
        run_directory.create(stored)
    if item_groups is not None:
        run_directory.write_item_groups(item_groups)
    wait_for_all("the run directory is made")
    title, used = MODELS[config.model].title, f"{devices.num_devices} x {jax.devices()[0].device_kind}{devices.way}"
    for line in (
        dataset.summary(),
        *(f"warning: {warning}" for warning in dataset.warnings),
        f"{title}, preset {config.preset}, on {used}; run directory {run_directory.path}",
    ):
        console.print(line, markup=False)

    if config.training:
        outcome = train(config, dataset, run_directory, devices, item_groups, console)
    else:
        outcome = fit(config, dataset, devices, console)
    mode, baselines, beyond_k = config.evaluation.mode, {}, min(BEYOND_ACCURACY_K, max(config.evaluation.ks))
    if FLAGS.baseline and config.model != "popularity":
        popularity = evaluate_fitted(config, make_popularity(PopularityConfig()), dataset, devices)
        baselines["popularity"] = {split: result.mean(mode) for split, result in popularity.items()}
    if not is_primary():
        return
    if FLAGS.per_user:
        write_per_user(outcome.splits, run_directory.path)
    if config.training:
        plot(run_directory, config.training.metric, f"{title} on {dataset.name}, seed {config.training.seed}", console)
    results = {
        "model": config.model,
        "dataset": config.data.dataset,
        "setting": config.data.setting,
        "inner_split": config.data.inner_split,
        "seed": config.seed,
        "preset": config.preset,
        "mode": mode,
        "best_epoch": outcome.best_epoch,
        "num_params": outcome.num_params,
        "item_groups": describe_item_groups(config, item_groups),
        **{split: result.mean(mode) for split, result in outcome.splits.items()},
        "beyond_accuracy": beyond_accuracy(
            outcome.splits["test"].top_items, item_counts(dataset.train), dataset.num_users, beyond_k
        ),
        "baselines": baselines,
        "timings": {"compile_s": clock.seconds, **outcome.timings, "total_s": time.perf_counter() - started},
        "peak_rss_bytes": peak_rss_bytes(),
        "devices": used,
        "versions": versions(),
    }
    run_directory.write_results(results)
    show(results, config.evaluation.ks, run_directory, console)


if __name__ == "__main__":
    flags.define_model_flags(tuple(MODELS))
    flags.define_data_flags()
    flags.define_training_flags()
    flags.define_evaluation_flags()
    flags.define_run_flags()
    flags.define_device_flags()
    start(main, __doc__ or "")
