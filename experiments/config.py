"""Flags to the typed configuration of a run."""

import dataclasses
from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from diffrec_jax.config import (
    ConfigError,
    DataConfig,
    EvaluationConfig,
    RecencyConfig,
    RunConfig,
    check_consistent,
    checked,
    default_data_dir,
    make_run_config,
)
from diffrec_jax.data import NAMED_SPECS, DataError, find_dataset_folder
from diffrec_jax.registry import MODELS, ModelFamily
from diffrec_jax.training.loop import TrainConfig
from experiments.flags import (
    FLAGS,
    GROUPS_FIELDS,
    RECENCY_FIELDS,
    RECOMMENDER_FIELDS,
    SYNTHETIC_FIELDS,
    TRAINING_FIELDS,
)


def _check_applies(values: FlagValues, family: ModelFamily) -> None:
    """Raises ConfigError for a flag that the model has no use for: silently ignored, it would mislead."""
    useless = [flag for flag, field in RECOMMENDER_FIELDS.items() if field not in family.fields]
    useless += [] if family.has_item_groups else [*GROUPS_FIELDS, "lr2"]
    useless += [] if family.is_trained else [*(flag for flag in TRAINING_FIELDS if flag != "seed"), "target_recency"]
    useless += [] if family.weighs_rows else [*RECENCY_FIELDS, "w_min", "w_max"]
    given = [flag for flag in useless if values[flag].present]
    if given:
        raise ConfigError(f"--{given[0]} means nothing to {family.title}: leave it out, or choose another --model")


def _given_recency(values: FlagValues) -> dict[str, Any]:
    """What the flags set of the recency weights; --w_min and --w_max are the linear ones of the paper."""
    given = _given(values, RECENCY_FIELDS)
    if values["w_min"].present or values["w_max"].present:
        if values.w_min is None or values.w_max is None:
            raise ConfigError("--w_min and --w_max go together: give both")
        if "train" in given or "infer" in given:
            raise ConfigError("--w_min and --w_max set --train_recency and --infer_recency: give one or the other")
        given |= {"train": f"linear:{values.w_min:g}:{values.w_max:g}", "infer": None}
    return given


def _given_recommender(values: FlagValues, family: ModelFamily) -> dict[str, Any]:
    """What the flags set of the model; --seed is a fitted model's own."""
    is_own_seed = "seed" in family.fields and values["seed"].present
    return _given(values, RECOMMENDER_FIELDS) | ({"seed": values.seed} if is_own_seed else {})


def _given(values: FlagValues, fields: dict[str, str]) -> dict[str, Any]:
    """What the flags set, by field."""
    return {field: values[flag].value for flag, field in fields.items() if values[flag].present}


def _data_config(
    dataset: str, setting: str, data_dir: str | None, sizes: dict[str, Any], inner_split: float
) -> DataConfig:
    if dataset in NAMED_SPECS:
        return DataConfig(dataset, setting, None, {"seed": 0} | sizes, inner_split)
    if sizes:
        raise ConfigError(f"--synthetic_* was given but --dataset={dataset}: use --dataset=synthetic")
    folder = find_dataset_folder(dataset, setting, data_dir or default_data_dir()).absolute()
    is_path = folder == Path(dataset).absolute()
    return DataConfig(str(folder) if is_path else dataset, setting, str(folder), None, inner_split)


def evaluation_over(base: EvaluationConfig, values: FlagValues = FLAGS) -> EvaluationConfig:
    """``base`` with what the flags set."""
    given = _given(values, {field.name: field.name for field in dataclasses.fields(EvaluationConfig)})
    return dataclasses.replace(base, **{key: tuple(sorted(set(v))) if key == "ks" else v for key, v in given.items()})


def new_run_config(values: FlagValues = FLAGS) -> RunConfig:
    """The configuration of a new run: preset, overridden by the flags.

    Raises:
      ConfigError, DataError: something given is wrong; the message says what and what to do.
    """
    if values.model not in MODELS:
        raise ConfigError(f"--model={values.model} is unknown: choose one of {', '.join(MODELS)}")
    family = MODELS[values.model]
    sizes = _given(values, SYNTHETIC_FIELDS)
    data = _data_config(values.dataset, values.setting, values.data_dir, sizes, values.inner_split)
    _check_applies(values, family)
    return make_run_config(
        values.model,
        data,
        preset=values.preset,
        evaluation=evaluation_over(EvaluationConfig(), values),
        matmul_precision=values.matmul_precision,
        recommender=_given_recommender(values, family),
        training=_given(values, TRAINING_FIELDS),
        recency=_given_recency(values),
        groups=_given(values, GROUPS_FIELDS),
    )


def resumed_run_config(stored: RunConfig, values: FlagValues = FLAGS) -> RunConfig:
    """A stored configuration with what the command line sets: nothing but the run directory needs to be repeated.

    Raises:
      ConfigError, DataError: something given is wrong; the message says what and what to do.
    """
    family = MODELS[stored.model]
    _check_applies(values, family)
    recommender, training = stored.recommender, stored.training
    recommender = checked(family.config_class, dataclasses.asdict(recommender) | _given_recommender(values, family))
    if training is not None:
        training = checked(TrainConfig, dataclasses.asdict(training) | _given(values, TRAINING_FIELDS))
    recency = checked(RecencyConfig, dataclasses.asdict(stored.recency) | _given_recency(values))
    groups = stored.groups and dataclasses.replace(stored.groups, **_given(values, GROUPS_FIELDS))
    names = ("model", "preset", "matmul_precision")
    named = {name: getattr(stored, name) for name in names} | _given(values, {name: name for name in names})
    evaluation = evaluation_over(stored.evaluation, values)
    return check_consistent(
        RunConfig(
            **named,
            data=relocated(stored.data, _given(values, SYNTHETIC_FIELDS), values),
            evaluation=evaluation,
            recommender=recommender,
            training=training,
            recency=recency,
            groups=groups,
        )
    )


def relocated(data: DataConfig, sizes: dict[str, Any] | None = None, values: FlagValues = FLAGS) -> DataConfig:
    """A run's data as the flags say where they are now, or where they were; whether they are the same, their
    fingerprint says.

    Raises:
      ConfigError, DataError: they are neither there nor, by their name, in the default folder.
    """
    given = _given(values, {name: name for name in ("dataset", "setting", "data_dir", "inner_split") if name in values})
    is_there = data.folder is None or Path(data.folder).is_dir()
    if not given and not sizes and is_there:
        return data
    dataset, setting = given.get("dataset", data.dataset), given.get("setting", data.setting)
    stored_sizes = (data.synthetic or {}) if dataset == data.dataset else {}
    data_dir = given.get("data_dir", str(Path(data.folder).parent) if data.folder and is_there else None)
    if "data_dir" in given and "dataset" not in given and Path(dataset).is_absolute():
        dataset = str(Path(data_dir) / Path(dataset).name)
    try:
        return _data_config(
            dataset, setting, data_dir, stored_sizes | (sizes or {}), given.get("inner_split", data.inner_split)
        )
    except DataError as error:
        if given:
            raise
        raise ConfigError(
            f"the run's data were in {data.folder}, which is no longer there: say where they are now with "
            "--dataset=FOLDER, or --data_dir"
        ) from error
