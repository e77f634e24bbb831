"""Flags to the typed configuration of a run."""

import dataclasses
from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from diffrec_jax.config import ConfigError, DataConfig, RunConfig, default_data_dir, make_run_config, with_settings
from diffrec_jax.data import NAMED_SPECS, DataError, find_dataset_folder
from diffrec_jax.preparation.download import KNOWN, options_of
from diffrec_jax.registry import MODELS, ModelFamily

from .command import command
from .flags import FLAGS, is_given, settings_given

SYNTHETIC_FIELDS = {
    "synthetic_users": "num_users",
    "synthetic_items": "num_items",
    "synthetic_interactions": "num_interactions",
    "synthetic_seed": "seed",
}
CHANGES = ("tuning_holdout", "random_noise", "random_noise_seed", "ratings", "min_relevant_rating")
"""Flags, and fields of a DataConfig, of what is done to a dataset when it is loaded."""


def _given(values: FlagValues, *names: str) -> dict[str, Any]:
    """What the command line sets of these flags."""
    return {name: values[name].value for name in names if name in values and is_given(values, name)}


def _settings(values: FlagValues, family: ModelFamily) -> dict[str, Any]:
    """The settings that the command line gives; --w_min and --w_max are the linear recency of the paper.

    Raises:
      ConfigError: the model has no such setting, or two contradict each other.
    """
    given = settings_given(values)
    if not family.is_seeded:
        given.pop("seed", None)  # scripts give one to every model
    if is_given(values, "w_min") or is_given(values, "w_max"):
        if values.w_min is None or values.w_max is None:
            raise ConfigError("--w_min and --w_max go together: give both")
        if "train_recency" in given or "infer_recency" in given:
            raise ConfigError("--w_min and --w_max set --train_recency and --infer_recency: give one or the other")
        given |= {"train_recency": f"linear:{values.w_min:g}:{values.w_max:g}", "infer_recency": None}
    return given


def _sizes(values: FlagValues) -> dict[str, Any]:
    return {SYNTHETIC_FIELDS[name]: value for name, value in _given(values, *SYNTHETIC_FIELDS).items()}


def find_data(dataset: str, setting: str, data_dir: str) -> Path:
    """The folder of a dataset.

    Raises:
      DataError: it is not there; of a known dataset the message says how to make it.
    """
    try:
        return find_dataset_folder(dataset, setting, data_dir)
    except DataError as error:
        if dataset not in KNOWN:
            raise
        variant = "" if setting == "clean" else f" --setting={setting}"
        made = [f"  {command('prepare')} {options}{variant} --out={data_dir}" for options in options_of(dataset)]
        raise DataError("\n".join([f"{error}. To make it:", *made])) from error


def _data_config(
    dataset: str, setting: str, data_dir: str | None, sizes: dict[str, Any], changes: dict[str, Any]
) -> DataConfig:
    if dataset in NAMED_SPECS:
        return DataConfig(dataset, setting, None, {"seed": 0} | sizes, **changes)
    if sizes:
        raise ConfigError(f"--synthetic_* was given but --dataset={dataset}: use --dataset=synthetic")
    folder = find_data(dataset, setting, data_dir or default_data_dir()).absolute()
    is_path = folder == Path(dataset).absolute()
    return DataConfig(str(folder) if is_path else dataset, setting, str(folder), None, **changes)


def new_run_config(values: FlagValues = FLAGS) -> RunConfig:
    """The configuration of a new run: preset, overridden by the flags.

    Raises:
      ConfigError, DataError: something given is wrong; the message says what and what to do.
    """
    if values.model not in MODELS:
        raise ConfigError(f"--model={values.model} is unknown: choose one of {', '.join(MODELS)}")
    return make_run_config(
        values.model,
        _data_config(values.dataset, values.setting, values.data_dir, _sizes(values), _given(values, *CHANGES)),
        preset=values.preset,
        matmul_precision=values.matmul_precision,
        **_settings(values, MODELS[values.model]),
    )


def resumed_run_config(stored: RunConfig, values: FlagValues = FLAGS) -> RunConfig:
    """A stored configuration with what the command line sets: nothing but the run directory needs to be repeated.

    Raises:
      ConfigError, DataError: something given is wrong; the message says what and what to do.
    """
    changed = with_settings(stored, _settings(values, MODELS[stored.model]))
    named = _given(values, "model", "preset", "matmul_precision")
    return dataclasses.replace(changed, data=relocated(stored.data, _sizes(values), values), **named)


def relocated(data: DataConfig, sizes: dict[str, Any] | None = None, values: FlagValues = FLAGS) -> DataConfig:
    """A run's data as the flags say where they are now, or where they were; whether they are the same, their
    fingerprint says.

    Raises:
      ConfigError, DataError: they are neither there nor, by their name, in the default folder.
    """
    given = _given(values, "dataset", "setting", "data_dir", *CHANGES)
    is_there = data.folder is None or Path(data.folder).is_dir()
    if not given and not sizes and is_there:
        return data
    dataset, setting = given.get("dataset", data.dataset), given.get("setting", data.setting)
    stored_sizes = (data.synthetic or {}) if dataset == data.dataset else {}
    data_dir = given.get("data_dir", str(Path(data.folder).parent) if data.folder and is_there else None)
    if "data_dir" in given and "dataset" not in given and Path(dataset).is_absolute():
        dataset = str(Path(data_dir) / Path(dataset).name)
    changes = {name: given.get(name, getattr(data, name)) for name in CHANGES}
    try:
        return _data_config(dataset, setting, data_dir, stored_sizes | (sizes or {}), changes)
    except DataError as error:
        if given:
            raise
        raise ConfigError(
            f"the run's data were in {data.folder}, which is no longer there: say where they are now with "
            "--dataset=FOLDER, or --data_dir"
        ) from error
