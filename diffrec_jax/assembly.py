"""From a configuration to the library's objects: what training and evaluating share."""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import sparse

from diffrec_jax.config import ConfigError, RunConfig, embedding_run_config
from diffrec_jax.data import Dataset
from diffrec_jax.devices import DeviceStrategy, from_primary
from diffrec_jax.evaluation import Evaluator, SampledCandidates, SplitResult, check_relevant, evaluate_dataset
from diffrec_jax.files import atomic_file, safe_name
from diffrec_jax.memory import GIB, available_bytes
from diffrec_jax.recommenders import FitLinear, FittedRecommender, LinearFactors, LinearFit, Recommender, values_of
from diffrec_jax.recommenders.linear_denoiser import fit_linear_factors, linear_factors_bytes
from diffrec_jax.registry import MODELS, Context, ModelFamily
from diffrec_jax.training.loop import Progress, Trainer
from diffrec_jax.training.run_directory import RunDirectory, RunDirectoryError
from diffrec_jax.training.state import TrainState
from diffrec_jax.typing import ScoreFn


def make_evaluator(config: RunConfig, score_fn: ScoreFn, devices: DeviceStrategy, dataset: Dataset) -> Evaluator:
    """The configured evaluation of a score function; predicted ratings are clipped to the range of those learnt of."""
    batch_size = -(-config.evaluation.eval_batch_size // devices.num_row_shards) * devices.num_row_shards
    return Evaluator(
        score_fn=score_fn,
        ks=config.evaluation.ks,
        batch_size=batch_size,
        devices=devices,
        make_key=config.make_key,
        rating_range=rating_range(dataset) if config.predicts_ratings else None,
    )


def rating_range(dataset: Dataset) -> tuple[float, float]:
    """The least and the largest rating that models learn of."""
    ratings = dataset.learnt.rated("train").data
    return float(ratings.min()), float(ratings.max())


def score_fn_for(
    functions: Recommender | FittedRecommender, dataset: Dataset, family: ModelFamily | None = None
) -> ScoreFn:
    """What the users of a dataset are scored by: where some are held out, all by their items alone.

    Raises:
      ConfigError: users are held out, and a model of the family knows only those it was trained on.
    """
    if dataset.held_out_users is None:
        return functions.score_fn
    if family is not None and family.needs_known_users and functions.score_new_fn is None:
        raise ConfigError(
            f"{dataset.name} holds out users, and {family.title} knows only those it was trained on: take a model that "
            "reads rows"
        )
    return functions.score_new_fn or functions.score_fn


def find_item_groups(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    devices: DeviceStrategy,
    progress: Progress | None = None,
) -> np.ndarray | None:
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

    def train_embeddings(model: str) -> np.ndarray:
        return trained_item_embeddings(embedding_run_config(config, model), dataset, devices, progress)

    if stored is not None:
        return stored
    return from_primary(config.groups.make(dataset.learnt, config.data.folder, train_embeddings))


def trained_item_embeddings(
    config: RunConfig, dataset: Dataset, devices: DeviceStrategy, progress: Progress | None
) -> np.ndarray:
    """The item embeddings [I, D] of a model that is trained for them and for nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, dataset, RunDirectory(folder), devices, progress=progress)
        return item_embeddings(trainer, trainer.run())


def item_embeddings(trainer: Trainer, state: TrainState) -> np.ndarray:
    """The item embeddings [I, D] of a placed state of a model that has them."""
    assert trainer.recommender.item_embeddings is not None
    embed = trainer.devices.compile(trainer.recommender.item_embeddings)
    return np.asarray(trainer.devices.fetch(embed(trainer.scoring_state(state))))


def weighted_rows(config: RunConfig, dataset: Dataset) -> sparse.csr_array:
    """The rows that models learn of, with the weights that the run trains with, or the ratings."""
    weighting = config.recency.make()
    return weighting.rows(dataset.learnt, "train", weighting.train)


def make_fit_linear(config: RunConfig, dataset: Dataset) -> FitLinear:
    """How a linear part is fitted to the rows that the run trains on: the same on every process.

    Raises, when it is called, ConfigError: it would take more memory than there is; nothing was allocated.
    """

    def fit_linear(item_groups: np.ndarray, ranks: tuple[int, ...], fit: LinearFit) -> LinearFactors:
        check_memory(config, linear_factors_bytes(dataset.train), dataset)
        rows, of_ratings = weighted_rows(config, dataset), config.rating_rows(dataset.learnt)
        rows = rows if of_ratings is None else values_of(of_ratings, rows)
        factors = fit_linear_factors(rows, item_groups, ranks, fit)
        return LinearFactors(tuple(from_primary(part) for part in factors.encoders), from_primary(factors.decoder))

    return fit_linear


def make_trainer(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    devices: DeviceStrategy,
    item_groups: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """The trainer of a configuration; ``item_groups`` are those of ``find_item_groups``.

    Raises:
      ConfigError: the batch does not split over the devices, or there are fewer users to evaluate than asked for.
    """
    assert config.training is not None
    check_data(config, dataset)
    if item_groups is not None:
        devices = devices.for_item_groups(item_groups)
    recommender = config.make_recommender(Context(dataset.learnt, item_groups, make_fit_linear(config, dataset)))
    try:
        return Trainer(
            recommender=recommender,
            dataset=dataset,
            evaluator=make_evaluator(
                config, score_fn_for(recommender, dataset, MODELS[config.model]), devices, dataset
            ),
            config=config.training,
            run_directory=run_directory,
            devices=devices,
            weighting=config.recency.make(),
            mode=config.evaluation.mode,
            eval_user_ids=config.evaluation.user_ids(dataset),
            progress=progress,
        )
    except ValueError as error:
        raise ConfigError(error) from error


def check_data(config: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError if the data have weights that the model would ignore, rows other values than it takes, or no
    ratings for rows to hold."""
    if config.recency.hold_ratings and (dataset.ratings is None or dataset.weighted):
        what = "no ratings: give them (--ratings, from_interactions(rating=...))"
        what = "weights, which ratings would replace: drop them (Dataset.without_weights)" if dataset.weighted else what
        raise ConfigError(f"row_values is {config.recency.row_values}, and {dataset.name} has {what}")
    family = MODELS[config.model]
    weighs = dataset.weighted or config.recency.make().weighs
    if weighs and getattr(config.recommender, "needs_binary_rows", False):
        raise ConfigError(
            f"{family.title} as it is set takes rows of 0 and 1 alone, and these are weighted: leave the recency out "
            "(none) and drop weights of the data (Dataset.without_weights), or take another likelihood, noise law or "
            "model"
        )
    most, largest = getattr(config.recommender, "max_target", np.inf), config.recency.make().largest_target(dataset)
    if largest > most:
        raise ConfigError(
            f"{family.title} as it is set predicts rows of at most {most:g}, and these hold {largest:g}: take another "
            "likelihood or a w_max of 1, or drop weights of the data (Dataset.without_weights)"
        )
    if dataset.weighted and not family.learns_weights:
        raise ConfigError(
            f"{dataset.name} has weights, and {family.title} cannot use them: choose another model, or drop them "
            "(Dataset.without_weights)"
        )


def check_devices(config: RunConfig, devices: DeviceStrategy) -> None:
    """Raises ConfigError if the batch does not split over the devices, or they do not compute as asked."""
    if config.training is None:
        return
    try:
        config.training.check_compiles()
    except ValueError as error:
        raise ConfigError(error) from error
    if config.training.compute_dtype != "float32" and jax.default_backend() == "cpu":
        raise ConfigError(f"compute_dtype {config.training.compute_dtype} is for GPU and TPU: leave it out on a CPU")
    num_parts = devices.num_row_shards * config.training.accumulate_steps
    if config.training.batch_size % num_parts:
        raise ConfigError(
            f"batch_size {config.training.batch_size} is no multiple of {num_parts}: the {devices.num_row_shards} "
            f"devices that share a batch, times accumulate_steps {config.training.accumulate_steps}; choose one that "
            "is, or fewer devices (--max_devices)"
        )


def check_evaluation(config: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError if there is nobody to evaluate, or nothing to average over, as the flags ask for it."""
    check_data(config, dataset)
    if not dataset.test.nnz:
        raise ConfigError(f"{dataset.name} has no test interactions to evaluate: split it")
    try:
        check_relevant(dataset, config.evaluation.mode, config.evaluation.user_ids(dataset))
    except ValueError as error:
        raise ConfigError(error) from error


def check_memory(
    config: RunConfig, needed: int, dataset: Dataset, *, available: int | None = None, instead: str | None = None
) -> None:
    """Raises ConfigError if more memory is needed than there is: by default, on the host and for a fit."""
    available = available_bytes() if available is None else available
    if instead is None:
        instead = "take a model whose memory does not grow with the square of the items (itemknn, rp3beta, ials)"
        instead = getattr(config.recommender, "less_memory", instead) if config.has_linear_part else instead
    if available is not None and needed > available:
        raise ConfigError(
            f"{MODELS[config.model].title} needs about {needed / GIB:.1f} GiB for {dataset.num_items:,} items and "
            f"{dataset.num_users:,} users, and {available / GIB:.1f} GiB are free: {instead}, or a larger machine"
        )


def check_fit_memory(config: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError if a fit to the data, of a whole model or of a linear part, needs more than there is."""
    if not config.training:
        check_memory(config, config.make_fitted(dataset).fit_bytes(dataset.train), dataset)
    if config.has_linear_part:
        check_memory(config, config.recommender.linear_bytes(dataset.train), dataset)


def prepare_trainer(
    config: RunConfig,
    dataset: Dataset,
    run_directory: RunDirectory,
    devices: DeviceStrategy,
    progress: Progress | None,
    progress_of_groups: Progress | None,
) -> tuple[Trainer, np.ndarray | None]:
    """The trainer of a run and its item groups; writes nothing.

    Raises:
      ConfigError: it needs more memory than there is, or the batch does not split over the devices.
      RunDirectoryError: the run has done more steps than are asked for, or lost its item groups.
    """
    item_groups = find_item_groups(config, dataset, run_directory, devices, progress_of_groups)
    trainer = make_trainer(config, dataset, run_directory, devices, item_groups, progress)
    trainer.check_budget()
    check_training_memory(config, trainer, dataset)
    return trainer, item_groups


def check_training_memory(config: RunConfig, trainer: Trainer, dataset: Dataset) -> None:
    """Raises ConfigError if the parameters, their moments and one gradient alone are more than there is."""
    of_host = jax.default_backend() == "cpu"
    needed = trainer.state_bytes() * trainer.devices.num_state_copies
    available = None
    if not of_host:
        needed //= jax.local_device_count()
        available = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if of_host or available is not None:
        instead = "take smaller dims or embedding_size, split the items (--parallel=mesh --item_shards)"
        check_memory(config, needed, dataset, available=available, instead=instead)


def fit_scoring_state(config: RunConfig, recommender: FittedRecommender, dataset: Dataset) -> Any:
    """What a closed-form model scores with.

    Raises:
      ConfigError: fitting would take more memory than there is; nothing was allocated.
    """
    check_memory(config, recommender.fit_bytes(dataset.train), dataset)
    return recommender.fit(weighted_rows(config, dataset))


def evaluate_scoring_state(
    config: RunConfig,
    evaluator: Evaluator,
    scoring_state: Any,
    dataset: Dataset,
    candidates: SampledCandidates | None = None,
) -> dict[str, SplitResult]:
    """Validation and test of a placed scoring state."""
    return evaluate_dataset(
        evaluator,
        scoring_state,
        dataset,
        weighting=config.recency.make(),
        test_with_valid_input=config.evaluation.test_with_valid_input,
        user_ids=config.evaluation.user_ids(dataset),
        candidates=candidates,
    )


def evaluate_fitted(
    config: RunConfig,
    recommender: FittedRecommender,
    dataset: Dataset,
    devices: DeviceStrategy,
    candidates: SampledCandidates | None = None,
) -> dict[str, SplitResult]:
    """Fits a closed-form model and evaluates it."""
    scoring_state = devices.place(fit_scoring_state(config, recommender, dataset))
    evaluator = make_evaluator(config, score_fn_for(recommender, dataset), devices, dataset)
    return evaluate_scoring_state(config, evaluator, scoring_state, dataset, candidates)


def seconds_per_1000_users(config: RunConfig, evaluator: Evaluator, scoring_state: Any, dataset: Dataset) -> float:
    """What scoring, masking, ranking and measuring 1,000 users for both splits takes, once compiled."""
    users = dataset.evaluated_users[:1000]
    started = time.perf_counter()
    evaluate_dataset(evaluator, scoring_state, dataset, weighting=config.recency.make(), user_ids=users)
    return (time.perf_counter() - started) * 1000 / len(users)


HOW = "how"
"""Name of the JSON text in a file of users' metrics that says how they were measured."""


def how_measured(config: RunConfig, config_sha256: str, candidates: SampledCandidates | None = None) -> dict[str, Any]:
    """What decides each user's metrics, beside the split; ``candidates`` where not all items were ranked."""
    evaluation = dataclasses.asdict(config.evaluation)
    measured = {name: evaluation[name] for name in ("ks", "test_with_valid_input", "eval_users")}
    own = {"infer_recency": config.recency.infer_recency, "matmul_precision": config.matmul_precision}
    sampled = dataclasses.asdict(candidates) if candidates else {}
    return json.loads(json.dumps({"config_sha256": config_sha256} | measured | own | sampled))


def per_user_path(folder: Path, split: str, how: dict[str, Any], how_of_run: dict[str, Any]) -> Path:
    """per_user_SPLIT.npz for what is measured as the run does; otherwise the name says what is different."""
    different = {name: value for name, value in how.items() if value != how_of_run.get(name)}
    parts = [f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in different.items()]
    return folder / f"{safe_name('.'.join([f'per_user_{split}', *parts]))}.npz"


def write_per_user(
    results: dict[str, SplitResult], dataset: Dataset, folder: Path, how: dict[str, Any], how_of_run: dict[str, Any]
) -> list[Path]:
    """A file a split: user_ids (the dataset's own), num_relevant, one array a metric, and how it was made."""
    paths = []
    for split, result in results.items():
        paths.append(per_user_path(folder, split, how, how_of_run))
        columns: dict[str, Any] = {
            "user_ids": dataset.original_user_ids[result.user_ids],
            "num_relevant": result.num_relevant,
            HOW: np.array(json.dumps(how)),
            **(result.rating_errors._asdict() if result.rating_errors else {}),
        }
        with atomic_file(paths[-1]) as file:
            np.savez_compressed(file, allow_pickle=False, **columns, **result.per_user)
    return paths
