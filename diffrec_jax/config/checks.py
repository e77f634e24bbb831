"""Whether the parts of a configuration go together."""

import jax

from diffrec_jax.config.parts import ConfigError, part_classes
from diffrec_jax.config.run_config import RunConfig
from diffrec_jax.evaluation import RATING_METRICS, parse_metric
from diffrec_jax.registry import MODELS
from diffrec_jax.settings import check_settings


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
