"""From a configuration to the library's objects: what training and evaluating share."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrec_jax.data import Dataset
from diffrec_jax.evaluation import Evaluator, SplitResult, evaluate_dataset
from diffrec_jax.recommenders import FittedRecommender
from diffrec_jax.training.loop import Progress, Trainer
from diffrec_jax.training.parallel import Parallel
from diffrec_jax.training.run_log import RunDirectory, RunDirectoryError
from diffrec_jax.typing import ScoreFn
from experiments.cli import ConfigError
from experiments.config import RunConfig


def make_evaluator(config: RunConfig, score_fn: ScoreFn, parallel: Parallel) -> Evaluator:
    """The configured evaluation of a score function."""
    batch_size = -(-config.evaluation.eval_batch_size // parallel.num_devices) * parallel.num_devices
    make_key = config.training.make_key if config.training else (lambda: jax.random.key(0))
    return Evaluator(
        score_fn=score_fn,
        ks=config.evaluation.ks,
        batch_size=batch_size,
        num_devices=parallel.num_devices,
        transform=parallel.compile,
        make_key=make_key,
    )


def find_item_groups(config: RunConfig, dataset: Dataset, run_directory: RunDirectory) -> np.ndarray | None:
    """The item groups of the run, made where it has none yet; None for models without.

    Raises:
      DataError: they cannot be made.
      RunDirectoryError: the run has checkpoints but no groups, or they are damaged.
    """
    if config.groups is None:
        return None
    stored = run_directory.item_groups(dataset.num_items)
    if stored is None and run_directory.checkpoints.exists():
        raise RunDirectoryError(
            f"{run_directory.path} has checkpoints but no item_groups.npy: restore it, or train anew"
        )
    return config.groups.make(dataset, config.data.folder) if stored is None else stored


def make_trainer(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    parallel: Parallel,
    item_groups: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """The trainer of a configuration; ``item_groups`` are those of ``find_item_groups``.

    Raises:
      ConfigError: the batch does not split over the devices, or there are fewer users to evaluate than asked for.
    """
    assert config.training is not None
    recommender = config.make_recommender(dataset, item_groups)
    try:
        return Trainer(
            recommender=recommender,
            dataset=dataset,
            evaluator=make_evaluator(config, recommender.score_fn, parallel),
            config=config.training,
            run_directory=run_directory,
            parallel=parallel,
            weighting=config.recency.make(),
            mode=config.evaluation.mode,
            eval_user_ids=config.evaluation.user_ids(dataset),
            progress=progress,
        )
    except ValueError as error:
        raise ConfigError(error) from error


def evaluate_fitted(
    config: RunConfig, recommender: FittedRecommender, dataset: Dataset, parallel: Parallel
) -> dict[str, SplitResult]:
    """Fits a closed-form model and evaluates it."""
    return evaluate_dataset(
        make_evaluator(config, recommender.score_fn, parallel),
        parallel.replicate(recommender.fit(dataset.train)),
        dataset,
        recency=config.recency.make().infer,
        test_with_valid_input=config.evaluation.test_with_valid_input,
        user_ids=config.evaluation.user_ids(dataset),
    )


def write_per_user(results: dict[str, SplitResult], folder: Path) -> None:
    """per_user_valid.npz and per_user_test.npz: user_ids, num_relevant and one array a metric."""
    for split, result in results.items():
        with (folder / f"per_user_{split}.npz").open("wb") as file:
            columns: dict[str, Any] = {"user_ids": result.user_ids, "num_relevant": result.num_relevant}
            np.savez_compressed(file, allow_pickle=False, **columns, **result.per_user)
