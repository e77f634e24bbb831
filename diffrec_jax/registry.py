"""Every model by its name: what configures it and how it is made. ``register_model`` adds one from outside."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from diffrec_jax import recommenders as made
from diffrec_jax.data import Dataset, item_shares
from diffrec_jax.recommenders import FitLinear, FittedRecommender, Recommender


@dataclass(frozen=True)
class Context:
    """What a model may be made of, beside its configuration."""

    dataset: Dataset
    item_groups: np.ndarray | None = None
    """[I], for models that have item groups."""
    fit_linear: FitLinear | None = None
    """Fits the linear part that a model starts from, where it has one."""


PLUGINS = "diffrec_jax.models"
"""Group of entry points."""

Make = Callable[[Any, Context], Recommender | FittedRecommender]
"""(config, context) -> the model's functions."""


@dataclass(frozen=True)
class ModelFamily:
    """How a model is configured and made."""

    title: str
    config_class: type
    """A frozen dataclass."""
    make: Make
    is_trained: bool = True
    """By gradients (``make`` gives a Recommender); others are fitted (a FittedRecommender)."""
    has_item_groups: bool = False
    weighs_rows: bool = True
    """Whether recency weights of a row change anything."""
    needs_known_users: bool = False
    """Whether ``score_fn`` looks at a user's number: new users then need a ``score_new_fn``."""
    predicts_values: bool = False
    """Whether scores are estimates of what the row holds, so that they are ratings where that is ratings."""
    needs_ratings: bool = False
    """Whether rows of ones, which are all alike, tell it nothing."""

    @property
    def learns_weights(self) -> bool:
        """Whether the weights of a weighted dataset change anything."""
        return self.weighs_rows or not self.is_trained

    @property
    def fields(self) -> set[str]:
        """Names of what its configuration holds."""
        return {field.name for field in dataclasses.fields(self.config_class)}

    @property
    def is_seeded(self) -> bool:
        """Whether a seed changes anything."""
        return self.is_trained or "seed" in self.fields


def _diffrec(config: made.DiffRecConfig, context: Context) -> Recommender:
    dataset = context.dataset
    return made.make_diffrec(config, dataset.num_items, context.fit_linear, item_shares(dataset.train))


def _l_diffrec(config: made.LDiffRecConfig, context: Context) -> Recommender:
    assert context.item_groups is not None
    return made.make_l_diffrec(config, context.item_groups, context.fit_linear)


def _global_mean(config: made.GlobalMeanConfig, context: Context) -> FittedRecommender:
    return made.make_global_mean(config, context.dataset.num_items)


def _of_dataset(make: Callable[[Any, Dataset], Recommender]) -> Make:
    return lambda config, context: make(config, context.dataset)


def _of_train(make: Callable[[Any, Any], Recommender]) -> Make:
    return lambda config, context: make(config, context.dataset.train)


def _alone(make: Callable[[Any], FittedRecommender]) -> Make:
    return lambda config, context: make(config)


_autoencoder, _bpr = _of_dataset(made.make_autoencoder), _of_train(made.make_bpr)

# T- and LT-DiffRec and T-EASE are presets of recency weights: nothing in the models knows of them.
MODELS: dict[str, ModelFamily] = {
    "diffrec": ModelFamily("DiffRec", made.DiffRecConfig, _diffrec, predicts_values=True),
    "t_diffrec": ModelFamily("T-DiffRec", made.DiffRecConfig, _diffrec),
    "l_diffrec": ModelFamily("L-DiffRec", made.LDiffRecConfig, _l_diffrec, has_item_groups=True),
    "lt_diffrec": ModelFamily("LT-DiffRec", made.LDiffRecConfig, _l_diffrec, has_item_groups=True),
    "s_diffrec": ModelFamily("S-DiffRec", made.SDiffRecConfig, _of_train(made.make_s_diffrec), weighs_rows=False),
    "giffcf": ModelFamily("GiffCF", made.GiffCFConfig, _of_train(made.make_giffcf)),
    "flowcf": ModelFamily("FlowCF", made.FlowCFConfig, _of_train(made.make_flowcf)),
    "mf": ModelFamily("MF", made.MFConfig, _bpr, weighs_rows=False, needs_known_users=True),
    "lightgcn": ModelFamily("LightGCN", made.LightGCNConfig, _bpr, weighs_rows=False, needs_known_users=True),
    "cdae": ModelFamily("CDAE", made.CDAEConfig, _autoencoder, needs_known_users=True),
    "multidae": ModelFamily("MultiDAE", made.MultiDAEConfig, _autoencoder),
    "multidae_pp": ModelFamily("MultiDAE++", made.MultiDAEPlusConfig, _autoencoder),
    "multivae": ModelFamily("MultiVAE", made.MultiVAEConfig, _autoencoder),
    "sasrec": ModelFamily("SASRec", made.SASRecConfig, _of_train(made.make_sasrec), weighs_rows=False),
    "popularity": ModelFamily(
        "Popularity", made.PopularityConfig, _alone(made.make_popularity), is_trained=False, weighs_rows=False
    ),
    "itemknn": ModelFamily("ItemKNN", made.ItemKNNConfig, _alone(made.make_item_knn), is_trained=False),
    "rp3beta": ModelFamily("RP3beta", made.RP3betaConfig, _alone(made.make_rp3beta), is_trained=False),
    "ease": ModelFamily("EASE", made.EaseConfig, _alone(made.make_ease), is_trained=False, predicts_values=True),
    "t_ease": ModelFamily("T-EASE", made.EaseConfig, _alone(made.make_ease), is_trained=False),
    "slim": ModelFamily("SLIM", made.SlimConfig, _alone(made.make_slim), is_trained=False),
    "gfcf": ModelFamily("GF-CF", made.GFCFConfig, _alone(made.make_gfcf), is_trained=False),
    "window_ridge": ModelFamily(
        "WindowRidge", made.WindowRidgeConfig, _alone(made.make_window_ridge), is_trained=False
    ),
    "ials": ModelFamily("iALS", made.IALSConfig, _alone(made.make_ials), is_trained=False),
    "biases": ModelFamily(
        "Biases",
        made.BiasesConfig,
        _alone(made.make_biases),
        is_trained=False,
        predicts_values=True,
        needs_ratings=True,
    ),
    "global_mean": ModelFamily(
        "Global mean",
        made.GlobalMeanConfig,
        _global_mean,
        is_trained=False,
        predicts_values=True,
        needs_ratings=True,
    ),
}


def register_model(
    name: str,
    config_class: type,
    make: Make,
    *,
    title: str | None = None,
    is_trained: bool = True,
    has_item_groups: bool = False,
    weighs_rows: bool = True,
    needs_known_users: bool = False,
    predicts_values: bool = False,
) -> None:
    """Adds a model from outside: it is then trained, evaluated and compared like ours.

    Args:
      name: what it is asked for by.
      config_class: a frozen dataclass whose fields all have defaults.
      make: (config, context) -> Recommender, or FittedRecommender where it is not trained.
      title: what tables call it; the name by default.
      is_trained: by gradients.
      has_item_groups: whether the context has to hold item groups.
      weighs_rows: whether recency weights of a row change anything.
      needs_known_users: whether ``score_fn`` looks at users' numbers; new users then need a ``score_new_fn``.
      predicts_values: whether scores are estimates of what the row holds, ratings where that is ratings.

    Raises:
      ValueError: there is a model of that name, or config_class is no frozen dataclass.
    """
    if name in MODELS:
        raise ValueError(f"there is a model {name!r} already: choose another name")
    if not dataclasses.is_dataclass(config_class) or not config_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"the configuration of {name!r} has to be a frozen dataclass, not {config_class!r}")
    MODELS[name] = ModelFamily(
        title or name, config_class, make, is_trained, has_item_groups, weighs_rows, needs_known_users, predicts_values
    )


def load_plugins() -> None:
    """Imports what installed packages declare as entry points of the group ``diffrec_jax.models``.

    Such a module calls ``register_model`` (or ``register_noise_law``): the scripts then know its models.
    """
    for entry in metadata.entry_points(group=PLUGINS):
        entry.load()
