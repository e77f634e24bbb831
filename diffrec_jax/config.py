"""The typed configuration of a run: from a preset and what overrides it, or read back from a run directory."""

import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from diffrec_jax.data import (
    EMBEDDING_GROUPINGS,
    NAMED_SPECS,
    NO_WEIGHTING,
    RECENCY_FORMS,
    DataError,
    Dataset,
    GroupingMethod,
    RowWeighting,
    add_random_noise,
    group_items,
    make_synthetic,
    parse_recency,
    read_item_embeddings,
    read_official,
    svd_item_embeddings,
)
from diffrec_jax.evaluation import DEFAULT_KS, RATING_METRICS, AveragingMode, parse_metric
from diffrec_jax.prng import make_key
from diffrec_jax.recommenders import FittedRecommender, RatingRows, Recommender, RowValues, on_ratings, rating_rows
from diffrec_jax.registry import MODELS, Context, ModelFamily
from diffrec_jax.seeds import check_seed
from diffrec_jax.settings import check_choice, check_settings, fields_of, seed_setting, setting
from diffrec_jax.training.run_directory import LOCATION
from diffrec_jax.training.train_config import TrainConfig
from diffrec_jax.typing import Key
from diffrec_jax.version import __version__

MatmulPrecision = Literal["float32", "tensorfloat32", "default"]
DEFAULT_MATMUL_PRECISION: MatmulPrecision = "tensorfloat32"
PRESETS = Path(__file__).parent / "presets"
WHERE = ("dataset", "setting", "folder")
"""Of a DataConfig, where the data are: what they are, their fingerprint says."""
LOCATION_KEYS = tuple(f"{LOCATION}.{name}" for name in WHERE)
# What may be changed when a run is resumed: none of it affects the steps already done.
MAY_DIFFER_ON_RESUME = (
    *(f"training.{name}" for name in ("epochs", "max_steps", "accumulate_steps", "keep_newest", "keep_best")),
    "training.nonfinite_limit",
    "version",
    *LOCATION_KEYS,
)


class ConfigError(ValueError):
    """A configuration that is not valid; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class RecencyConfig:
    """What rows hold, and recency weights, as ``parse_recency`` reads them.

    Raises:
      ValueError: one is not understood, or ratings are to be weighed.
    """

    train_recency: str = setting("none", f"Weights of the training rows, in time order: {RECENCY_FORMS}.")
    target_recency: str | None = setting(None, "Weights of the target row (default: those of the training row).")
    infer_recency: str | None = setting(None, "Weights of the rows scored from (default: as in training).")
    row_values: RowValues = setting(
        "ones",
        "What rows hold, x_0. ones: 1 at each interaction; ratings: rating / largest rating; residuals: what the "
        "biases of users and items leave of the rating.",
    )

    def __post_init__(self) -> None:
        """Parses every text once."""
        check_settings(self)
        made = self.make()
        if self.hold_ratings and RowWeighting(made.train, made.target, made.infer) != NO_WEIGHTING:
            raise ValueError(
                f"row_values {self.row_values} and recency weights would change each other: leave one of them out"
            )

    @property
    def hold_ratings(self) -> bool:
        """Whether rows hold ratings, in one form or another."""
        return self.row_values != "ones"

    def make(self) -> RowWeighting:
        """The weights."""
        train, target, infer = self.train_recency, self.target_recency, self.infer_recency
        return RowWeighting(
            train=parse_recency(train),
            target=None if target is None else parse_recency(target),
            infer=parse_recency(train if infer is None else infer),
            of_ratings=self.hold_ratings,
        )


@dataclass(frozen=True)
class GroupsConfig:
    """How the item groups of a latent model are made."""

    num_groups: int = setting(2, "C, item groups, each with an encoder.", at_least=1, aliases=("n_cate",))
    grouping: GroupingMethod = setting(
        "kmeans",
        "How items are grouped: kmeans on item embeddings, or on their directions alone (spherical_kmeans), spectral "
        "co-clustering of interactions, leiden communities of the graph of nearest items, popularity strata, random.",
    )
    item_embeddings: str = setting(
        "svd",
        "What kmeans clusters: svd of the training split, lightgcn trained on it first, or a .npy file [items, size], "
        "looked for as given and in the dataset's folder.",
        is_path=True,
    )
    svd_size: int = setting(64, "Size of the svd item embeddings.", at_least=1)
    groups_seed: int = seed_setting(0, "Seed of the grouping; the run's seed does not change it.")

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)

    @property
    def needs_embeddings(self) -> bool:
        """Whether item embeddings are used."""
        return self.grouping in EMBEDDING_GROUPINGS and self.num_groups > 1

    def embeddings_file(self, folder: str | None) -> Path | None:
        """The file of item embeddings; None where they are made."""
        if not self.needs_embeddings or self.item_embeddings in ("svd", "lightgcn"):
            return None
        path = Path(self.item_embeddings)
        in_folder = Path(folder or ".") / path
        return in_folder if in_folder.exists() and not path.exists() else path

    def make(self, dataset: Dataset, folder: str | None, train_embeddings: Callable[[str], np.ndarray]) -> np.ndarray:
        """The group of each item, [I]; ``train_embeddings`` gives those of a --model trained for them.

        Raises:
          DataError: the embeddings are missing or wrong, or the items cannot be grouped so.
        """
        embeddings = None
        file = self.embeddings_file(folder)
        if file is not None:
            embeddings = read_item_embeddings(file, dataset.num_items, item_ids=dataset.item_ids)
        elif self.needs_embeddings and self.item_embeddings == "svd":
            embeddings = svd_item_embeddings(dataset.train, self.svd_size, seed=self.groups_seed)
        elif self.needs_embeddings:
            embeddings = train_embeddings("lightgcn")
        return group_items(
            self.grouping, self.num_groups, train=dataset.train, embeddings=embeddings, seed=self.groups_seed
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How results are measured."""

    ks: tuple[int, ...] = setting(DEFAULT_KS, "List lengths K of the metrics.", aliases=("topN",))
    mode: AveragingMode = setting(
        "official", "official: users without relevant items count as 0; relevant_users: they are left out."
    )
    test_with_valid_input: bool = setting(
        False, "Feed training and validation items for the test (costs a second pass).", aliases=("tst_w_val",)
    )
    eval_users: int = setting(0, "Evaluate a fixed random sample of so many users; 0: all.", at_least=0)
    eval_batch_size: int = setting(400, "Users scored at once.", at_least=1)

    def __post_init__(self) -> None:
        """Checks every value, and sorts the list lengths."""
        check_settings(self)
        object.__setattr__(self, "ks", tuple(sorted(set(self.ks))))

    def user_ids(self, dataset: Dataset) -> np.ndarray | None:
        """The users to evaluate, None for all: a fixed sample, the same for every seed of a run.

        Raises:
          ConfigError: more are asked for than there are.
        """
        users = dataset.evaluated_users
        if self.eval_users > len(users):
            raise ConfigError(f"eval_users is {self.eval_users}, but {dataset.name} has {len(users)} users to evaluate")
        if not self.eval_users:
            return None
        return np.sort(np.random.default_rng(0).permutation(users)[: self.eval_users])


@dataclass(frozen=True)
class DataConfig:
    """Which data."""

    dataset: str
    setting: str
    folder: str | None
    """Where it was found; None for synthetic data."""
    synthetic: dict[str, Any] | None
    tuning_holdout: float = 0.0
    """Newest share of the training rows that is validated with, the test left alone; 0 for the dataset's own splits."""
    random_noise: float = 0.0
    """Random items for each interaction of train and valid."""
    random_noise_seed: int = 0
    """Of the random items; the run's seed does not change them."""
    ratings: bool = False
    """Whether its ratings are read."""
    min_relevant_rating: float | None = None
    """Least rating in valid and test that is relevant to a ranking; None: all that is there is."""

    def __post_init__(self) -> None:
        """Checks the types, which come from config.json."""
        types: dict[str, Any] = {"dataset": str, "setting": str, "folder": str | None, "synthetic": dict | None}
        types |= {"tuning_holdout": Real, "random_noise": Real, "random_noise_seed": int, "ratings": bool}
        for name, kind in (types | {"min_relevant_rating": Real | None}).items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")
        check_seed(self.random_noise_seed, "random_noise_seed")

    def load(self, *, strict_ids: bool = False) -> Dataset:
        """Reads or makes the dataset; then the tuning holdout, and last the noise, so that what is the test has none.

        Raises:
          DataError: it is missing or malformed, its ids have gaps and ``strict_ids``, or there is no such holdout or
            noise; or it has no ratings, or none that is relevant, and they are asked for.
        """
        dataset = self._load(strict_ids=strict_ids)
        if self.tuning_holdout:
            dataset = dataset.tuning_holdout(self.tuning_holdout)
        if self.min_relevant_rating is not None:
            dataset = dataclasses.replace(dataset, min_relevant_rating=self.min_relevant_rating)
        return add_random_noise(dataset, self.random_noise, seed=self.random_noise_seed)

    def _load(self, *, strict_ids: bool) -> Dataset:
        if self.synthetic is not None:
            if self.ratings:
                raise DataError(f"{self.dataset} data have no ratings: take a dataset that was made of a log with them")
            spec = {key: value for key, value in self.synthetic.items() if key != "seed"}
            base = dataclasses.replace(NAMED_SPECS[self.dataset], **spec)
            return make_synthetic(base, seed=self.synthetic["seed"], name=self.dataset)
        assert self.folder is not None
        return read_official(self.folder, strict_ids=strict_ids, ratings=self.ratings)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does."""

    model: str
    preset: str
    data: DataConfig
    evaluation: EvaluationConfig
    recommender: Any
    training: TrainConfig | None = None
    """None for models that are fitted."""
    recency: RecencyConfig = RecencyConfig()
    groups: GroupsConfig | None = None
    """None for models without item groups."""
    matmul_precision: MatmulPrecision = DEFAULT_MATMUL_PRECISION
    """Of float32 products on an accelerator."""

    def make_recommender(self, context: Context) -> Recommender:
        """The functions of a model that is trained.

        Raises:
          ConfigError: the layers are too narrow for the item groups.
        """
        try:
            return self._on_rows(MODELS[self.model].make(self.recommender, context), context.dataset)  # type: ignore[return-value]
        except ValueError as error:
            raise ConfigError(error) from error

    def _on_rows(self, made: Recommender | FittedRecommender, learnt: Dataset) -> Recommender | FittedRecommender:
        """The functions on rows as this run has them: scores are predicted ratings where rows hold those."""
        rows = self.rating_rows(learnt)
        return made if rows is None else on_ratings(made, rows)

    def rating_rows(self, learnt: Dataset) -> RatingRows | None:
        """How rows of ratings become x_0, by what is learnt of; None where rows hold none."""
        return rating_rows(self.recency.row_values, learnt.rated("train")) if self.recency.hold_ratings else None

    @property
    def predicts_ratings(self) -> bool:
        """Whether scores are predicted ratings."""
        return self.recency.hold_ratings and MODELS[self.model].predicts_values

    @property
    def has_linear_part(self) -> bool:
        """Whether a linear part is fitted before the training."""
        return getattr(self.recommender, "has_linear_part", False)

    @property
    def holds_params(self) -> bool:
        """Whether some parameters within trained arrays are held: weight decay would shrink them."""
        return getattr(self.recommender, "holds_params", False)

    def make_fitted(self, dataset: Dataset) -> FittedRecommender:
        """The functions of a model that is fitted."""
        made = MODELS[self.model].make(self.recommender, Context(dataset.learnt))
        return self._on_rows(made, dataset.learnt)  # type: ignore[return-value]

    @property
    def seed(self) -> int | None:
        """Of the run; None where nothing is drawn."""
        return self.training.seed if self.training else getattr(self.recommender, "seed", None)

    @property
    def uses_seed(self) -> bool:
        """Whether another seed gives another result."""
        return self.seed is not None and getattr(self.recommender, "uses_seed", True)

    def make_key(self) -> Key:
        """The root of what is drawn, in scoring too."""
        return self.training.make_key() if self.training else make_key(0)

    def to_dict(self, dataset: Dataset) -> dict[str, Any]:
        """For config.json: everything that a result depends on, and, under ``location``, where the data were."""
        values = dataclasses.asdict(self)
        location = {name: values["data"].pop(name) for name in WHERE}
        file = self.groups.embeddings_file(self.data.folder) if self.groups else None
        embeddings_sha256 = file_sha256(file) if file is not None and file.is_file() else None
        return values | {
            LOCATION: location,
            "data_sha256": dataset.fingerprint,
            "item_embeddings_sha256": embeddings_sha256,
            "version": __version__,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """The inverse of ``to_dict``.

        Raises:
          ConfigError: the values are no configuration of this version.
        """
        try:
            classes = part_classes(MODELS[values["model"]])
            if not isinstance(values["data_sha256"], str):
                raise ValueError("data_sha256 is no text")
            check_choice("matmul_precision", values["matmul_precision"], get_args(MatmulPrecision))
            return cls(
                **{name: values[name] for name in ("model", "preset", "matmul_precision")},
                data=DataConfig(**values["data"], **values[LOCATION]),
                **{part: of_part(**tuples(values[part])) for part, of_part in classes.items()},
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"config.json is not of this version of the project, {__version__}, but of "
                f"{values.get('version', '0.1.0')} ({error}): use that one, or train anew"
            ) from error
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"config.json is damaged ({error}): restore it, or train anew") from error


def with_later_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the settings that are newer than it, at their defaults: those change nothing."""
    if stored.get("model") not in MODELS:
        return stored
    completed = dict(stored)
    everywhere = {"data": DataConfig, "recency": RecencyConfig}  # also of a model that leaves the recency as it is
    for part, config_class in (everywhere | part_classes(MODELS[stored["model"]])).items():
        if isinstance(stored.get(part), dict):
            defaults = {name: field.default for name, field in fields_of(config_class).items()}
            known = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
            completed[part] = json.loads(json.dumps(known)) | stored[part]
    return completed


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """The values with lists, as JSON and TOML have them, as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def default_data_dir() -> str:
    """$DIFFREC_DATA_DIR, then data."""
    return os.environ.get("DIFFREC_DATA_DIR") or "data"


def preset_path(model: str, data: DataConfig) -> Path | None:
    """The preset file of a model and dataset; synthetic data of a real dataset's size takes that dataset's.

    Without a setting the dataset's name is that of its folder: ml-1m_clean.

    The model's default.toml where the dataset has none; None where the model has no presets.
    """
    name = data.dataset.removeprefix("synthetic-")
    suffix = "" if name == "synthetic" or not data.setting else f"_{data.setting}"
    own = [] if "/" in name else [PRESETS / model / f"{name}{suffix}.toml"]
    return next((path for path in [*own, PRESETS / model / "default.toml"] if path.exists()), None)


def load_preset(model: str, data: DataConfig, wanted: str | None = None) -> tuple[str, dict[str, Any]]:
    """The name and the values of a preset; by default ours where there is one, else the released one.

    Raises:
      ConfigError: there is no such preset.
    """
    path = preset_path(model, data)
    presets = tomllib.loads(path.read_text()) if path else {"none": {}}
    name = wanted or next(name for name in ("tuned", "released", "none") if name in presets)
    if name not in presets:
        raise ConfigError(f"there is no preset {name!r} of {model} for this dataset, only {', '.join(presets)}")
    return name, presets[name]


PARTS = ("recommender", "training", "recency", "groups", "evaluation")
"""Of a configuration: fields of a RunConfig whose own fields are the settings."""


def part_classes(family: ModelFamily) -> dict[str, type]:
    """The class of each part that a model has."""
    classes = {"recommender": family.config_class}
    if family.is_trained:
        classes["training"] = TrainConfig
    if family.weighs_rows:
        classes["recency"] = RecencyConfig
    if family.has_item_groups:
        classes["groups"] = GroupsConfig
    return classes | {"evaluation": EvaluationConfig}


def settings_by_part(family: ModelFamily, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings sorted into the parts of a configuration that have them.

    Raises:
      ConfigError: the model has no such setting.
    """
    classes = part_classes(family)
    names = {part: {field.name for field in dataclasses.fields(classes[part])} for part in classes}
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in settings.items():
        part = next((part for part in names if name in names[part]), None)
        if part is None or (name == "target_recency" and not family.is_trained):
            known = ", ".join(sorted(set().union(*names.values())))
            raise ConfigError(f"{family.title} has no setting {name}: leave it out (its settings: {known})")
        found[part][name] = tuple(value) if isinstance(value, list) else value
    return found


def default_k(ks: Iterable[int]) -> int:
    """The default K of a metric: 20 if it is evaluated, else the largest K."""
    return 20 if 20 in ks else max(ks)


def make_run_config(
    model: str,
    data: DataConfig,
    *,
    preset: str | None = None,
    matmul_precision: MatmulPrecision = DEFAULT_MATMUL_PRECISION,
    **settings: Any,
) -> RunConfig:
    """The configuration of a new run: a preset, and ``settings`` over it.

    Args:
      model: a name of the registry.
      data: which data; their name decides the preset.
      preset: its name; by default ours where there is one.
      matmul_precision: of float32 products on an accelerator.
      **settings: fields of the model's configuration, of ``TrainConfig``, ``RecencyConfig``, ``GroupsConfig`` and
        ``EvaluationConfig``.

    Raises:
      ConfigError: the model, the preset or a setting is unknown, a value is out of range, or they do not go together.
    """
    if model not in MODELS:
        raise ConfigError(f"model {model!r} is unknown: choose one of {', '.join(MODELS)}")
    name, values = load_preset(model, data, preset)
    try:
        ks = tuple(settings.get("ks", DEFAULT_KS))
        default = {"metric": f"recall@{default_k(ks)}"} if MODELS[model].is_trained else {}
        parts = settings_by_part(MODELS[model], default | values | settings)
        made = {part: of_part(**parts[part]) for part, of_part in part_classes(MODELS[model]).items()}
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(error) from error
    return check_consistent(RunConfig(model=model, preset=name, data=data, matmul_precision=matmul_precision, **made))


def with_settings(config: RunConfig, settings: Mapping[str, Any], *, trains: bool = True) -> RunConfig:
    """The configuration with other values of some settings; ``trains`` is false where it is only to evaluate with.

    Raises:
      ConfigError: the model has no such setting, a value is out of range, or they do not go together.
    """
    parts = settings_by_part(MODELS[config.model], settings)
    try:
        changed = {part: dataclasses.replace(getattr(config, part), **own) for part, own in parts.items() if own}
    except ValueError as error:
        raise ConfigError(error) from error
    changed_config = dataclasses.replace(config, **changed)
    return check_consistent(changed_config) if trains else changed_config


def embedding_run_config(config: RunConfig, model: str) -> RunConfig:
    """The configuration of a model that is trained for its item embeddings alone: its preset for the same data."""
    assert config.groups is not None and config.training is not None
    shared = {name: getattr(config.training, name) for name in ("prng_impl", "metric")}
    measured = dataclasses.asdict(config.evaluation)
    made = make_run_config(model, config.data, **shared, **measured, seed=config.groups.groups_seed)
    return dataclasses.replace(made, matmul_precision=config.matmul_precision)


def baselines_of(config: RunConfig) -> tuple[str, ...]:
    """Models that are evaluated beside that of a run: what does not beat them is not worth its cost."""
    names = ("popularity", "biases", "global_mean") if config.predicts_ratings else ("popularity",)
    return tuple(name for name in names if name != config.model)


def baseline_config(config: RunConfig, name: str) -> RunConfig:
    """The configuration of a baseline of a run: popularity counts interactions, the others predict ratings."""
    family = MODELS[name]
    recency = config.recency
    if recency.hold_ratings:
        recency = RecencyConfig(row_values="ratings" if family.predicts_values else "ones")
    return dataclasses.replace(config, model=name, preset="none", recommender=family.config_class(), recency=recency)


def models_that_predict_values() -> str:
    """Their titles."""
    return ", ".join(family.title for family in MODELS.values() if family.predicts_values)


def check_metric(config: RunConfig) -> None:
    """Raises ValueError if the metric that the run selects by is none that it measures."""
    assert config.training is not None
    metric = config.training.metric
    if metric not in RATING_METRICS:
        parse_metric(metric, config.evaluation.ks)
    elif not config.predicts_ratings:
        raise ValueError(
            f"metric {metric} needs predicted ratings: set row_values to ratings or residuals, with a model that "
            f"predicts what rows hold ({models_that_predict_values()})"
        )


def check_consistent(config: RunConfig) -> RunConfig:
    """The configuration itself.

    Raises:
      ConfigError: its parts do not go together.
    """
    try:
        for part in part_classes(MODELS[config.model]):
            check_settings(getattr(config, part))  # a class from outside may not do so itself
    except ValueError as error:
        raise ConfigError(error) from error
    if config.recency.row_values == "residuals" and not MODELS[config.model].predicts_values:
        raise ConfigError(
            f"row_values residuals are for models that predict what rows hold ({models_that_predict_values()}), not "
            f"{MODELS[config.model].title}: take ratings"
        )
    if config.training is not None:
        try:
            check_metric(config)
            jax.eval_shape(config.training.make_key)
            config.training.make_optimizer(holds_params=config.holds_params)
        except ValueError as error:
            raise ConfigError(error) from error
        predicts_noise = getattr(config.recommender, "prediction_type", "x0") != "x0"
        if config.recency.target_recency is not None and predicts_noise:
            raise ConfigError("target_recency needs prediction_type x0: a prediction of the noise has no other target")
    return config
