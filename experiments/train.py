"""Trains a model, evaluates it and leaves everything in a run directory.

python -m experiments.train --model=diffrec --dataset=ml-1m --data_dir=data
python -m experiments.train --run_dir=runs/NAME --resume
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from diffrec_jax.assembly import (
    check_devices,
    check_evaluation,
    check_fit_memory,
    evaluate_fitted,
    evaluate_scoring_state,
    fit_scoring_state,
    how_measured,
    item_embeddings,
    make_evaluator,
    prepare_trainer,
    score_fn_for,
    seconds_per_1000_users,
    write_per_user,
)
from diffrec_jax.config import ConfigError, RunConfig, baseline_config, baselines_of, default_k
from diffrec_jax.data import Dataset, item_counts
from diffrec_jax.devices import DeviceStrategy, is_primary
from diffrec_jax.evaluation import SplitResult, beyond_accuracy
from diffrec_jax.files import safe_name
from diffrec_jax.memory import GIB, peak_rss_bytes
from diffrec_jax.models import split_size
from diffrec_jax.registry import MODELS
from diffrec_jax.resume import plan_start
from diffrec_jax.training.clock import Clock, where_time_went
from diffrec_jax.training.lock import LockedError
from diffrec_jax.training.loop import Trainer
from diffrec_jax.training.run_directory import RunDirectory, config_digest

from . import flags, processor
from .cli import start
from .config import new_run_config, resumed_run_config
from .console import ConsoleProgress, make_console, results_table, table_title
from .flags import FLAGS
from .machines import Watchdog, join_processes, make_devices, set_up_jax
from .plots import plot_learning_curve
from .signals import stop_requests
from .versions import versions

BEYOND_ACCURACY_K = 20
SECONDS_BETWEEN_TRIES = 0.2
Resume = Literal["auto", "must", "never"]


def default_run_dir(config: RunConfig) -> Path:
    """A new directory below runs/ that names the run and the time."""
    seed = "" if config.seed is None else f"-seed{config.seed}"
    name = f"{config.model}-{Path(config.data.dataset).name}-{config.data.setting}{seed}"
    return Path("runs") / safe_name(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


@contextmanager
def held(run_directory: RunDirectory, console: Console, *, numbered: bool) -> Iterator[None]:
    """``run_directory.held``, for which it waits as long as --wait_minutes says."""
    ends_at, is_told = time.monotonic() + 60 * FLAGS.wait_minutes, False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(run_directory.held(numbered=numbered))
                break
            except LockedError as error:
                if time.monotonic() >= ends_at:
                    raise
                if not is_told:
                    console.print(f"waiting for at most {FLAGS.wait_minutes:g} minutes: {error}", soft_wrap=True)
                is_told = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield


@dataclass(frozen=True)
class Outcome:
    """What a model's training or fitting gave."""

    splits: dict[str, SplitResult]
    best_epoch: float | None
    num_params: int
    timings: dict[str, float | None]
    item_groups: dict[str, Any] | None = None
    """Their sizes and latent sizes."""


def count_parameters(tree: Any) -> int:
    """How many numbers a pytree of arrays holds."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def train(config: RunConfig, trainer: Trainer, progress: ConsoleProgress) -> Outcome:
    """Trains and evaluates the selected state."""
    with progress, stop_requests() as trainer.should_stop:
        best = trainer.run()
        splits = trainer.evaluate(best, test_with_valid_input=config.evaluation.test_with_valid_input)
    if trainer.recommender.item_embeddings:
        trainer.run_directory.write_item_embeddings(item_embeddings(trainer, best))
    timings, of_one = trainer.timings, jax.eval_shape(trainer.recommender.init_params, jax.random.key(0))
    return Outcome(
        splits=splits,
        best_epoch=float(trainer.best(best).best_epoch),
        num_params=count_parameters(of_one),
        timings={
            "train_s": timings.train_s,
            "train_s_per_epoch": timings.train_s * trainer.steps_per_epoch / timings.steps if timings.steps else None,
            "train_s_per_step": timings.train_s / timings.steps if timings.steps else None,
            "eval_s": timings.eval_s / timings.evaluations,
            "eval_s_per_1000_users": seconds_per_1000_users(
                config, trainer.evaluator, trainer.scoring_state(best), trainer.dataset
            ),
            "checkpoint_s": timings.checkpoint_s,
        },
    )


def fit(config: RunConfig, dataset: Dataset, devices: DeviceStrategy, console: Console, clock: Clock) -> Outcome:
    """Fits a closed-form model and evaluates it."""
    recommender, title = config.make_fitted(dataset), MODELS[config.model].title
    evaluator = make_evaluator(config, score_fn_for(recommender, dataset, MODELS[config.model]), devices, dataset)
    console.print(f"fitting {title} takes about {recommender.fit_bytes(dataset.train) / GIB:.2f} GiB")
    started = time.perf_counter()
    with clock.measuring("step"):
        fitted = fit_scoring_state(config, recommender, dataset)
    fit_s, scoring_state = time.perf_counter() - started, devices.place(fitted)
    started = time.perf_counter()
    with clock.measuring("evaluation"):
        splits = evaluate_scoring_state(config, evaluator, scoring_state, dataset)
    timings = {
        "fit_s": fit_s,
        "train_s_per_epoch": None,
        "eval_s": time.perf_counter() - started,
        "eval_s_per_1000_users": seconds_per_1000_users(config, evaluator, scoring_state, dataset),
    }
    return Outcome(splits=splits, best_epoch=None, num_params=count_parameters(fitted), timings=timings)


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
        console.print(f"no {path.name}: matplotlib is missing (pip install 'diffrec-jax[plot]')")


def show(results: dict[str, Any], ks: tuple[int, ...], run_directory: RunDirectory, console: Console) -> None:
    """The final table and what the run cost."""
    rows = {MODELS[results["model"]].title: results["test"]}
    rows |= {MODELS[name].title: baseline["test"] for name, baseline in results["baselines"].items()}
    console.print(results_table(table_title(results), rows, ks))
    timings = results["timings"]
    costs = [f"{timings['total_s']:.0f} s in all"]
    if results["peak_rss_bytes"]:
        costs.append(f"peak memory {results['peak_rss_bytes'] / GIB:.2f} GiB")
    if timings["train_s_per_epoch"]:
        costs.insert(0, f"{timings['train_s_per_epoch']:.2f} s an epoch, {timings['eval_s']:.1f} s an evaluation")
    if results["best_epoch"] is not None:
        costs.insert(0, f"best epoch {results['best_epoch']:g}")
    if results.get("valid"):
        k = default_k(ks)
        told = ", ".join(f"{name} {results['valid'][name]:.4f}" for name in (f"recall@{k}", f"ndcg@{k}"))
        costs.insert(0, f"on valid {told}")
    console.print("; ".join(costs))
    console.print(f"results in {run_directory.path / 'results.json'}")


def main() -> None:
    """Flags to results."""
    clock = Clock()
    join_processes()
    console, resume = make_console(quiet=not is_primary()), FLAGS.resume
    if resume != "never" and not FLAGS.run_dir:
        raise ConfigError("--resume needs --run_dir, the directory of the run to go on with")
    if FLAGS.distributed and not FLAGS.run_dir:
        raise ConfigError("--distributed needs --run_dir: the processes have to share it")
    found = RunDirectory(FLAGS.run_dir, writes=is_primary()) if FLAGS.run_dir else None
    resumes = resume != "never" and found is not None and found.exists()
    if resume == "must" and not resumes:
        raise ConfigError(f"--resume=must: there is no run in {found.path}")  # type: ignore[union-attr]
    config = resumed_run_config(RunConfig.from_dict(found.config())) if resumes else new_run_config()  # type: ignore[union-attr]
    set_up_jax(config.matmul_precision, console)
    dataset = config.data.load(strict_ids=FLAGS.strict_ids)
    devices = make_devices(dataset)
    # All checks come before anything is written.
    check_devices(config, devices)
    check_evaluation(config, dataset)
    check_fit_memory(config, dataset)
    run_directory = found or RunDirectory(default_run_dir(config))
    with held(run_directory, console, numbered=found is None):
        outcome = run(config, dataset, run_directory, devices, console, clock, resume=resume)
        if outcome is None:
            return
        baselines = {}
        with clock.measuring("evaluation"):
            for name in baselines_of(config) if FLAGS.baseline else ():
                own = baseline_config(config, name)
                found = evaluate_fitted(own, own.make_fitted(dataset), dataset, devices)
                baselines[name] = {split: result.mean(config.evaluation.mode) for split, result in found.items()}
        if is_primary():
            now = clock.seconds
            timings = {"compile_s": now["compile"], **outcome.timings, "total_s": sum(now.values())}
            of_all = where_time_went(now, *run_directory.earlier_clocks())
            results = describe(config, dataset, devices, outcome, run_directory)
            results |= {"baselines": baselines, "timings": timings, "time": of_all}
            finish(config, dataset, run_directory, console, outcome, results)


def run(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    devices: DeviceStrategy,
    console: Console,
    clock: Clock,
    *,
    resume: Resume,
) -> Outcome | None:
    """Makes the run directory, or goes on in it, and trains or fits; None where the run was finished already."""
    plan, trainer, item_groups = plan_start(config, dataset, run_directory, resume=resume != "never"), None, None
    if plan.results is not None:
        plan.write_location()
        console.print(f"{run_directory.path} is finished: more --epochs would go on with it")
        show(plan.results, config.evaluation.ks, run_directory, console)
        return None
    if config.training:
        progress = ConsoleProgress(console, config.training.metric, Watchdog(FLAGS.watchdog_minutes))
        with ConsoleProgress(console, config.training.metric) as of_groups:
            trainer, item_groups = prepare_trainer(config, dataset, run_directory, devices, progress, of_groups)
        trainer.clock, trainer.must_resume = clock, resume == "must"
    plan.write(item_groups)
    for line in (
        dataset.summary(),
        *(f"warning: {warning}" for warning in (*dataset.warnings, *plan.warnings)),
        f"{MODELS[config.model].title}, preset {config.preset}, on {describe_devices(devices)}; run directory "
        f"{run_directory.path}",
    ):
        console.print(line)
    if trainer is None:
        return fit(config, dataset, devices, console, clock)
    outcome = train(config, trainer, progress)
    return dataclasses.replace(outcome, item_groups=describe_item_groups(config, item_groups))


def describe_devices(devices: DeviceStrategy) -> str:
    """How many, of what kind, on what processor, and how they are used."""
    return f"{devices.num_devices} x {jax.devices()[0].device_kind} ({processor.describe()}){devices.description}"


def describe(
    config: RunConfig, dataset: Dataset, devices: DeviceStrategy, outcome: Outcome, run_directory: RunDirectory
) -> dict[str, Any]:
    """What results.json says of a run, beside what it took and its baselines."""
    mode, beyond_k = config.evaluation.mode, min(BEYOND_ACCURACY_K, max(config.evaluation.ks))
    return {
        "model": config.model,
        "dataset": config.data.dataset,
        "setting": config.data.setting,
        "tuning_holdout": config.data.tuning_holdout,
        "random_noise": config.data.random_noise,
        "min_relevant_rating": config.data.min_relevant_rating,
        "seed": config.seed,
        "preset": config.preset,
        "mode": mode,
        "best_epoch": outcome.best_epoch,
        "num_params": outcome.num_params,
        "item_groups": outcome.item_groups,
        **{split: result.mean(mode) for split, result in outcome.splits.items()},
        "beyond_accuracy": beyond_accuracy(
            outcome.splits["test"].top_items, item_counts(dataset.train), dataset.num_users, beyond_k
        ),
        "peak_rss_bytes": run_directory.peak_bytes(peak_rss_bytes()),
        "devices": describe_devices(devices),
        "matmul_precision": config.matmul_precision,
        "versions": versions(),
    }


def finish(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    console: Console,
    outcome: Outcome,
    results: dict[str, Any],
) -> None:
    """Writes and shows the results."""
    if FLAGS.per_user:
        how = how_measured(config, config_digest(run_directory.config()))
        write_per_user(outcome.splits, dataset, run_directory.path, how, how)
    if config.training:
        title = f"{MODELS[config.model].title} on {dataset.name}, seed {config.training.seed}"
        plot(run_directory, config.training.metric, title, console)
    run_directory.write_results(results)
    show(results, config.evaluation.ks, run_directory, console)


if __name__ == "__main__":
    flags.define_train_flags()
    start(main, __doc__ or "")
