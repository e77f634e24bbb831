"""The whole configuration of a run, to config.json and back."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from diffrec_jax.config.data_config import DataConfig
from diffrec_jax.config.parts import ConfigError, EvaluationConfig, GroupsConfig, RecencyConfig, part_classes, tuples
from diffrec_jax.data import Dataset
from diffrec_jax.prng import make_key
from diffrec_jax.recommenders import FittedRecommender, RatingRows, Recommender, on_ratings, rating_rows
from diffrec_jax.registry import MODELS, Context
from diffrec_jax.settings import Field, check_choice, fields_of
from diffrec_jax.training.run_directory import LOCATION
from diffrec_jax.training.train_config import TrainConfig
from diffrec_jax.typing import Key
from diffrec_jax.version import __version__

MatmulPrecision = Literal["float32", "tensorfloat32", "default"]
DEFAULT_MATMUL_PRECISION: MatmulPrecision = "tensorfloat32"
WHERE = ("dataset", "setting", "folder")
"""Of a DataConfig, where the data are: what they are, their fingerprint says."""
LOCATION_KEYS = tuple(f"{LOCATION}.{name}" for name in WHERE)
# What may be changed when a run is resumed: none of it affects the steps already done.
MAY_DIFFER_ON_RESUME = (
    *(f"training.{name}" for name in ("epochs", "max_steps", "accumulate_steps", "steps_at_once")),
    *(f"training.{name}" for name in ("keep_newest", "keep_best", "nonfinite_limit")),
    "version",
    *LOCATION_KEYS,
)


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
    recency: RecencyConfig = dataclasses.field(default_factory=RecencyConfig)
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
        if isinstance(values.get("model"), str) and values["model"] not in MODELS:
            raise ConfigError(
                f"model {values['model']!r} is unknown here: import what registers it (register_model) first; if it is "
                f"none from outside, use version {values.get('version', '0.1.0')} of the project, which wrote this"
            )
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
            raise ConfigError(
                f"config.json is damaged, or names what is not registered here ({error}): restore it, or import what "
                "registers a model or a noise law from outside"
            ) from error


def with_later_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the settings that are newer than it, at values that change nothing."""

    def complete(settings: dict[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
        known = {name: field.before for name, field in fields.items() if field.before is not dataclasses.MISSING}
        return json.loads(json.dumps(known)) | settings

    return _part_by_part(stored, complete)


def without_newer_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration without the settings that are ``newer`` than kept results, where they change nothing.

    So a run is known by the same as before they were added.
    """

    def strip(settings: dict[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
        neutral = {name: field.before for name, field in fields.items() if field.setting.newer}
        return {name: value for name, value in settings.items() if name not in neutral or value != neutral[name]}

    return _part_by_part(stored, strip)


def _part_by_part(
    stored: dict[str, Any], change: Callable[[dict[str, Any], Mapping[str, Field]], dict[str, Any]]
) -> dict[str, Any]:
    """A stored configuration whose parts are what ``change`` makes of their values and fields."""
    if stored.get("model") not in MODELS:
        return stored
    everywhere = {"data": DataConfig, "recency": RecencyConfig}  # also of a model that leaves the recency as it is
    classes = everywhere | part_classes(MODELS[stored["model"]])
    parts = {part: fields_of(of_part) for part, of_part in classes.items() if isinstance(stored.get(part), dict)}
    return stored | {part: change(stored[part], fields) for part, fields in parts.items()}


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
