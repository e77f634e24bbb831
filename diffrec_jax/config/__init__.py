"""The typed configuration of a run: from a preset and what overrides it, or read back from a run directory."""

from diffrec_jax.config.data_config import DataConfig, default_data_dir
from diffrec_jax.config.parts import ConfigError, EvaluationConfig, GroupsConfig, RecencyConfig, part_classes
from diffrec_jax.config.presets import (
    PRESETS,
    baseline_config,
    baselines_of,
    default_k,
    embedding_run_config,
    make_run_config,
    with_settings,
)
from diffrec_jax.config.run_config import (
    DEFAULT_MATMUL_PRECISION,
    LOCATION_KEYS,
    MAY_DIFFER_ON_RESUME,
    MatmulPrecision,
    RunConfig,
    with_later_settings,
    without_newer_settings,
)

__all__ = [
    "DEFAULT_MATMUL_PRECISION",
    "LOCATION_KEYS",
    "MAY_DIFFER_ON_RESUME",
    "PRESETS",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "GroupsConfig",
    "MatmulPrecision",
    "RecencyConfig",
    "RunConfig",
    "baseline_config",
    "baselines_of",
    "default_data_dir",
    "default_k",
    "embedding_run_config",
    "make_run_config",
    "part_classes",
    "with_later_settings",
    "with_settings",
    "without_newer_settings",
]
