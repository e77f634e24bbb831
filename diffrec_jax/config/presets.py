"""Configurations of new runs: a preset, and what overrides it."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffrec_jax.config.checks import check_consistent
from diffrec_jax.config.data_config import DataConfig
from diffrec_jax.config.parts import ConfigError, RecencyConfig, part_classes, settings_by_part
from diffrec_jax.config.run_config import DEFAULT_MATMUL_PRECISION, MatmulPrecision, RunConfig
from diffrec_jax.evaluation import DEFAULT_KS
from diffrec_jax.registry import MODELS

PRESETS = Path(__file__).parents[1] / "presets"


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
    """The configuration of a baseline of a run: popularity counts interactions alike, the others predict ratings."""
    family = MODELS[name]
    holds_ratings = config.recency.hold_ratings and family.predicts_values
    recency = RecencyConfig(row_values="ratings" if holds_ratings else "ones")
    return dataclasses.replace(config, model=name, preset="none", recommender=family.config_class(), recency=recency)
