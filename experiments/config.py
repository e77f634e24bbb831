"""The typed configuration of a run: preset, overridden by flags, or read back from a run directory."""

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrec_jax.data import NAMED_SPECS, Dataset, find_dataset_folder, make_synthetic, read_official
from diffrec_jax.evaluation import AveragingMode, parse_metric
from diffrec_jax.recommenders import POPULARITY, DiffRecConfig, FittedRecommender, Recommender, make_diffrec
from diffrec_jax.training.loop import TrainConfig
from experiments.cli import ConfigError
from experiments.flags import FLAGS, RECOMMENDER_FIELDS, TRAINING_FIELDS

PRESETS = Path(__file__).parent / "presets"
# What a resumed run may have otherwise than the run it goes on with: neither changes the steps already done.
MAY_DIFFER_ON_RESUME = ("training.epochs", "training.max_steps", "data.folder")


@dataclass(frozen=True)
class ModelFamily:
    """How a --model is configured and made; ``config_class`` is None for models that are fitted, not trained."""

    title: str
    config_class: type | None
    make: Callable[..., Any]
    """(config, num_items) -> Recommender, or () -> FittedRecommender."""


MODELS: dict[str, ModelFamily] = {
    "diffrec": ModelFamily("DiffRec", DiffRecConfig, make_diffrec),
    "popularity": ModelFamily("Popularity", None, lambda: POPULARITY),
}


@dataclass(frozen=True)
class EvaluationConfig:
    """How results are measured."""

    ks: tuple[int, ...]
    mode: AveragingMode
    test_with_valid_input: bool
    eval_users: int
    eval_batch_size: int

    def user_ids(self, dataset: Dataset) -> np.ndarray | None:
        """The users to evaluate, None for all: a fixed sample, the same for every seed of a run.

        Raises:
          ConfigError: more are asked for than there are.
        """
        if self.eval_users > dataset.num_users:
            raise ConfigError(f"--eval_users={self.eval_users} but {dataset.name} has {dataset.num_users} users")
        if not self.eval_users:
            return None
        return np.sort(np.random.default_rng(0).permutation(dataset.num_users)[: self.eval_users]).astype(np.int32)


@dataclass(frozen=True)
class DataConfig:
    """Which data."""

    dataset: str
    setting: str
    folder: str | None
    """Where it was found; None for synthetic data."""
    synthetic: dict[str, Any] | None

    def load(self) -> Dataset:
        """Reads or makes the dataset.

        Raises:
          DataError: it is missing or malformed.
        """
        if self.synthetic is not None:
            spec = {key: value for key, value in self.synthetic.items() if key != "seed"}
            base = dataclasses.replace(NAMED_SPECS[self.dataset], **spec)
            return make_synthetic(base, seed=self.synthetic["seed"], name=self.dataset)
        assert self.folder is not None
        return read_official(self.folder)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; ``recommender`` and ``training`` are None for fitted models."""

    model: str
    preset: str
    data: DataConfig
    evaluation: EvaluationConfig
    recommender: Any = None
    training: TrainConfig | None = None

    def make_recommender(self, num_items: int) -> Recommender:
        """The functions of a model that is trained."""
        return MODELS[self.model].make(self.recommender, num_items)

    def make_fitted(self) -> FittedRecommender:
        """The functions of a model that is fitted."""
        return MODELS[self.model].make()

    def to_dict(self, dataset: Dataset) -> dict[str, Any]:
        """For config.json: the configuration and a fingerprint of the data."""
        fingerprint = hashlib.sha256()
        for split in (dataset.train, dataset.valid, dataset.test):
            fingerprint.update(split.indptr.astype(np.int64).tobytes())
            fingerprint.update(split.indices.astype(np.int64).tobytes())
        return dataclasses.asdict(self) | {"data_sha256": fingerprint.hexdigest()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """The inverse of ``to_dict``.

        Raises:
          ConfigError: the values are no configuration of this version.
        """
        try:
            family = MODELS[values["model"]]
            trained = family.config_class is not None
            return cls(
                model=values["model"],
                preset=values["preset"],
                data=DataConfig(**values["data"]),
                evaluation=EvaluationConfig(**_tuples(values["evaluation"])),
                recommender=family.config_class(**_tuples(values["recommender"])) if trained else None,  # type: ignore[misc]
                training=TrainConfig(**values["training"]) if trained else None,
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(f"config.json is not of this version of the project: {error}") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def default_data_dir() -> str:
    """$DIFFREC_DATA_DIR, then data."""
    return os.environ.get("DIFFREC_DATA_DIR") or "data"


def default_prng_impl() -> str:
    """threefry4x32 where this JAX has it: the same quality as threefry2x32 in less time on CPU."""
    try:
        jax.eval_shape(lambda: jax.random.key(0, impl="threefry4x32"))
    except ValueError:
        return "threefry2x32"
    return "threefry4x32"


def preset_path(model: str, data: DataConfig) -> Path:
    """The preset file of a model and dataset; synthetic data of a real dataset's size takes that dataset's."""
    name = data.dataset.removeprefix("synthetic-")
    setting = "" if name == "synthetic" else f"_{data.setting}"
    path = PRESETS / model / f"{name}{setting}.toml"
    return path if "/" not in name and path.exists() else PRESETS / model / "default.toml"


def _load_preset(model: str, data: DataConfig, wanted: str | None) -> tuple[str, dict[str, Any]]:
    path = preset_path(model, data)
    presets = tomllib.loads(path.read_text())
    name = wanted or ("tuned" if "tuned" in presets else "released")
    if name not in presets:
        raise ConfigError(f"there is no preset {name!r} in {path}: it has {', '.join(presets)}")
    return name, presets[name]


def _given(fields: dict[str, str]) -> dict[str, Any]:
    return {field: FLAGS[flag].value for flag, field in fields.items() if FLAGS[flag].value is not None}


def _checked(config_class: type, values: dict[str, Any]) -> Any:
    try:
        return config_class(**_tuples(values))
    except ValueError as error:
        raise ConfigError(error) from error


def data_config_from_flags() -> DataConfig:
    """Which data the flags ask for.

    Raises:
      DataError: a dataset folder that is not there.
      ConfigError: sizes for a dataset that is not synthetic.
    """
    sizes = _given({f"synthetic_{name}": f"num_{name}" for name in ("users", "items", "interactions")})
    if FLAGS.dataset in NAMED_SPECS:
        return DataConfig(FLAGS.dataset, FLAGS.setting, None, {"seed": FLAGS.synthetic_seed} | sizes)
    if sizes:
        raise ConfigError(f"--synthetic_* sizes were given but --dataset={FLAGS.dataset}: use --dataset=synthetic")
    folder = find_dataset_folder(FLAGS.dataset, FLAGS.setting, FLAGS.data_dir or default_data_dir())
    return DataConfig(FLAGS.dataset, FLAGS.setting, str(folder), None)


def relocated(config: RunConfig, data_dir: str | None) -> RunConfig:
    """The configuration with its dataset looked for in ``data_dir``, or where it was when that is None."""
    if data_dir is None or config.data.folder is None:
        return config
    folder = find_dataset_folder(config.data.dataset, config.data.setting, data_dir)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, folder=str(folder)))


def evaluation_config_from_flags() -> EvaluationConfig:
    """How the flags ask for results."""
    return EvaluationConfig(
        ks=tuple(sorted(set(FLAGS.ks))),
        mode=FLAGS.mode,
        test_with_valid_input=FLAGS.test_with_valid_input,
        eval_users=FLAGS.eval_users,
        eval_batch_size=FLAGS.eval_batch_size,
    )


def run_config_from_flags() -> RunConfig:
    """Preset and flags as one configuration.

    Raises:
      ConfigError, DataError: something given is wrong; the message says what and what to do.
    """
    if FLAGS.model not in MODELS:
        raise ConfigError(f"--model={FLAGS.model} is unknown: choose one of {', '.join(MODELS)}")
    family = MODELS[FLAGS.model]
    data, evaluation = data_config_from_flags(), evaluation_config_from_flags()
    if family.config_class is None:
        return RunConfig(model=FLAGS.model, preset="none", data=data, evaluation=evaluation)
    name, preset = _load_preset(FLAGS.model, data, FLAGS.preset)
    recommender = _checked(family.config_class, preset.get("recommender", {}) | _given(RECOMMENDER_FIELDS))
    prng = {"prng_impl": default_prng_impl()}
    training = _checked(TrainConfig, prng | preset.get("training", {}) | _given(TRAINING_FIELDS))
    try:
        parse_metric(training.metric, evaluation.ks)
        jax.eval_shape(training.make_key)
    except ValueError as error:
        raise ConfigError(error) from error
    return RunConfig(FLAGS.model, name, data, evaluation, recommender, training)
