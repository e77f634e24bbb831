"""The whole job from Python: fit a model, evaluate it, recommend with it, save and load it. No flags, no run directory.

Example::

  data = Dataset.from_interactions(frame, user="user", item="item", time="time")
  split = split_by_time(data, ratios=(7, 1, 2))
  model = fit("t_diffrec", split, seed=1)
  print(evaluate(model, split, ks=(10, 20)))
  lists = recommend(model, users=["u7"], k=20)
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import sparse

from diffrec_jax.assembly import (
    check_data,
    check_devices,
    check_fit_memory,
    find_item_groups,
    fit_scoring_state,
    make_evaluator,
    make_trainer,
    prepare_trainer,
    score_fn_for,
)
from diffrec_jax.config import (
    ConfigError,
    DataConfig,
    RunConfig,
    make_run_config,
    part_classes,
)
from diffrec_jax.data import DataError, Dataset
from diffrec_jax.data.interactions import ENTRY_FIELDS, SPLITS
from diffrec_jax.devices import make_strategy
from diffrec_jax.evaluation import (
    FULL_RANKING,
    AveragingMode,
    Evaluation,
    SampledCandidates,
    check_relevant,
    evaluate_dataset,
)
from diffrec_jax.registry import MODELS, ModelFamily
from diffrec_jax.resume import plan_start
from diffrec_jax.serving.model import Model
from diffrec_jax.serving.model_files import read_model, write_model
from diffrec_jax.serving.recommend import Recommendations, recommend
from diffrec_jax.training.loop import Progress
from diffrec_jax.training.run_directory import RunDirectory

__all__ = ["Evaluation", "Model", "Recommendations", "evaluate", "fit", "load", "load_run", "recommend", "save"]

OPTIONAL_ARRAYS = ("user_ids", "item_ids", "held_out_users")
"""Of a dataset, as they are named in a saved model."""


def _settings_of(config: Any, family: ModelFamily) -> dict[str, Any]:
    """The settings that parts of a configuration hold.

    Raises:
      ConfigError: one is no part of the model's configuration.
    """
    parts = () if config is None else config if isinstance(config, tuple) else (config,)
    allowed, found = tuple(part_classes(family).values()), {}
    for part in parts:
        if type(part) not in allowed:
            names = ", ".join(own.__name__ for own in allowed)
            raise ConfigError(f"config of {family.title} has to be {names}, or a tuple of them, not {part!r}")
        found |= {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return found


def fit(
    model: str,
    dataset: Dataset,
    *,
    config: Any = None,
    preset: str | None = None,
    seed: int = 1,
    run_dir: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Model:
    """Trains or fits a model of the registry on a split dataset.

    Args:
      model: its name, as ``--model`` of the scripts.
      dataset: split. A trained model's best epoch is chosen by the validation interactions; without any the last one is
        taken: give ``epochs``.
      config: the model's configuration (``DiffRecConfig`` for diffrec), or a tuple of it and other parts
        (``TrainConfig``, ``RecencyConfig``, ``GroupsConfig``, ``EvaluationConfig``), in place of the preset's values.
      preset: of the settings; by default ours where there is one for a dataset of this name.
      seed: of everything that is drawn, in [0, 2^63).
      run_dir: of a model that is trained: keeps checkpoints and a log, as ``experiments.train`` does, and resumes a
        run that is there.
      progress: told of steps and evaluations.
      **settings: over the preset and ``config``: fields of the model's configuration, of ``TrainConfig``,
        ``RecencyConfig``, ``GroupsConfig`` and ``EvaluationConfig`` (``epochs=50``, ``train_recency="exp:20"``).

    Raises:
      ConfigError: the model or a setting is unknown or out of range, or it needs more memory than there is.
      RunDirectoryError: run_dir holds a run of another configuration.
    """
    if model not in MODELS:
        raise ConfigError(f"model {model!r} is unknown: choose one of {', '.join(MODELS)}")
    family = MODELS[model]
    seeded = {"seed": seed} if family.is_seeded else {}
    given = _settings_of(config, family) | seeded | settings
    config = make_run_config(model, DataConfig(dataset.name, "", None, None), preset=preset, **given)  # type: ignore[arg-type]
    with jax.default_matmul_precision(config.matmul_precision):
        check_data(config, dataset)
        if not family.is_trained:
            if run_dir is not None:
                raise ConfigError(
                    f"{family.title} is fitted at once and has no run: leave run_dir out, and save the model"
                )
            state = fit_scoring_state(config, config.make_fitted(dataset), dataset)
            return Model(config, dataset, jax.device_get(state))
        with contextlib.ExitStack() as stack:
            folder = run_dir if run_dir is not None else stack.enter_context(tempfile.TemporaryDirectory())
            return _train(config, dataset, RunDirectory(folder), progress)


def _train(config: RunConfig, dataset: Dataset, directory: RunDirectory, progress: Progress | None) -> Model:
    check_fit_memory(config, dataset)
    devices = make_strategy(num_items=dataset.num_items)
    check_devices(config, devices)
    with directory.held():
        start = plan_start(config, dataset, directory, resume=True)
        if progress is not None:
            for warning in start.warnings:
                progress.message(f"warning: {warning}")
        trainer, item_groups = prepare_trainer(config, dataset, directory, devices, progress, progress)
        start.write(item_groups)
        best = trainer.run()
    return Model(config, dataset, trainer.devices.fetch(best.scoring_params), item_groups)


def evaluate(
    model: Model,
    dataset: Dataset,
    *,
    ks: Sequence[int] = (10, 20, 50, 100),
    mode: AveragingMode = "official",
    test_with_valid_input: bool = False,
    candidates: SampledCandidates | None = None,
) -> Evaluation:
    """Ranks all unseen items for the valid and test interactions of a dataset (docs/protocol.md).

    Args:
      model: trained or fitted on the same users and items.
      dataset: usually the split that the model was trained on.
      ks: list lengths.
      mode: whether users without relevant items count as 0 (official) or are left out (relevant_users).
      test_with_valid_input: lets the model see the valid interactions too for the test.
      candidates: another protocol: ranks the relevant items among sampled ones only. Its figures are higher, may order
        models otherwise (Krichene and Rendle, KDD 2020), and cannot be compared with those of the full ranking.

    Raises:
      DataError: the dataset's users or items are not the model's.
      ValueError: there is nothing to average over.
    """
    for name in ("original_user_ids", "original_item_ids"):
        if not np.array_equal(getattr(dataset, name), getattr(model.dataset, name)):
            raise DataError(f"{dataset.name} has other {name[9:13]}s than the model: evaluate it on the data it knows")
    never_learnt, held_out = model.dataset.held_out_users, dataset.held_out_users
    if held_out is not None and (never_learnt is None or not np.isin(held_out, never_learnt).all()):
        raise DataError(f"the model has learnt of users that {dataset.name} holds out: fit it to this dataset")
    if not dataset.evaluated_splits:
        raise DataError(f"{dataset.name} has neither valid nor test interactions to evaluate: split it")
    check_relevant(dataset, mode)
    config = dataclasses.replace(
        model.config, evaluation=dataclasses.replace(model.config.evaluation, ks=tuple(sorted(set(ks))))
    )
    score_fn = score_fn_for(model.functions, model.dataset, model.family)
    evaluator = make_evaluator(config, score_fn, model.devices, model.dataset)
    with model.precision():
        results = evaluate_dataset(
            evaluator,
            model.scoring_state,
            dataset,
            weighting=model.config.recency.make(),
            test_with_valid_input=test_with_valid_input,
            candidates=candidates,
        )
    return Evaluation(results, mode, str(candidates) if candidates else FULL_RANKING)


def load_run(run_dir: str | Path, *, find_data: Callable[[DataConfig], DataConfig] = lambda data: data) -> Model:
    """The selected model of a run of ``experiments.train``, or of ``fit`` with a run_dir.

    Args:
      run_dir: the run's directory.
      find_data: says where its data are now, if not where they were: takes the run's DataConfig, and gives one whose
        ``folder`` is theirs. A run of ``fit`` needs it, for it has the data from memory.

    Raises:
      RunDirectoryError: there is no run.
      ConfigError: its configuration is of another version, or the data are not those it was trained on.
      CheckpointError: no state was selected yet, or it is damaged.
    """
    directory = RunDirectory(run_dir, writes=False)
    stored = directory.config()
    config = RunConfig.from_dict(stored)
    data = find_data(config.data)
    if data.folder is None and data.synthetic is None:
        raise ConfigError(
            f"{run_dir} was trained on data from memory, which it does not hold: say where they are by find_data, or "
            "save and load the model"
        )
    dataset = data.load()
    if dataset.fingerprint != stored["data_sha256"]:
        raise ConfigError(f"{dataset.name} is not the data that {run_dir} was trained on: say where that is")
    with jax.default_matmul_precision(config.matmul_precision):
        if not config.training:
            return Model(
                config, dataset, jax.device_get(fit_scoring_state(config, config.make_fitted(dataset), dataset))
            )
        devices = make_strategy(num_items=dataset.num_items)
        item_groups = find_item_groups(config, dataset, directory, devices)
        trainer = make_trainer(config, dataset, directory, devices, item_groups)
        best = trainer.restore_best()
        return Model(config, dataset, trainer.devices.fetch(best.scoring_params), item_groups)


def save(model: Model, folder: str | Path) -> None:
    """Writes a model with its configuration, ids, interactions and item groups into a new folder.

    Raises:
      ModelFileError: the folder is there already, or the model's parameters are no arrays of numbers.
      OSError: it cannot be written.
    """
    dataset = model.dataset
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        matrix = getattr(dataset, split)
        arrays |= {f"{split}_indptr": matrix.indptr, f"{split}_indices": matrix.indices}
        if dataset.weighted:
            arrays[f"{split}_weights"] = matrix.data
        arrays |= {f"{split}_{field}": values[split] for field, values in dataset.entry_columns.items()}
    optional = {name: getattr(dataset, name) for name in OPTIONAL_ARRAYS} | {"item_groups": model.item_groups}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    description = {
        "config": model.config.to_dict(dataset),
        "name": dataset.name,
        "shape": [dataset.num_users, dataset.num_items],
        "min_relevant_rating": dataset.min_relevant_rating,
    }
    write_model(Path(folder).expanduser(), description, model.parameters, arrays)


def load(folder: str | Path) -> Model:
    """Reads a model that ``save`` wrote.

    Raises:
      ModelFileError: there is none, or it is damaged or of another format.
      ConfigError: its configuration is not of this version.
    """
    description, parameters, arrays = read_model(Path(folder).expanduser())
    shape = tuple(description["shape"])

    def split(name: str) -> sparse.csr_array:
        indptr, indices = arrays[f"{name}_indptr"], arrays[f"{name}_indices"]
        weights = arrays.get(f"{name}_weights", np.ones(len(indices), np.float32))
        return sparse.csr_array((weights, indices, indptr), shape=shape)

    optional = {name: arrays.get(name) for name in OPTIONAL_ARRAYS}
    splits = {name: split(name) for name in SPLITS}
    columns: dict[str, Any] = {
        field: {name: arrays[f"{name}_{field}"] for name in SPLITS}
        for field in ENTRY_FIELDS
        if f"train_{field}" in arrays
    }
    dataset = Dataset(
        description["name"],
        **splits,
        **optional,
        **columns,
        weighted="train_weights" in arrays,
        min_relevant_rating=description.get("min_relevant_rating"),
    )
    return Model(RunConfig.from_dict(description["config"]), dataset, parameters, arrays.get("item_groups"))
