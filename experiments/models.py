"""Every --model: what configures it and how it is made."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrec_jax import recommenders as made
from diffrec_jax.data import Dataset
from diffrec_jax.recommenders import FitLinear, FittedRecommender, Recommender


@dataclass(frozen=True)
class ModelFamily:
    """How a --model is configured and made."""

    title: str
    config_class: type
    make: Callable[..., Any]
    """(config, dataset, item_groups, fit_linear) -> Recommender, or (config) -> FittedRecommender."""
    is_trained: bool = True
    """By gradients; others are fitted."""
    has_item_groups: bool = False
    weighs_rows: bool = True
    """Whether recency weights of a row change anything."""

    @property
    def fields(self) -> set[str]:
        """Names of what its configuration holds."""
        return {field.name for field in dataclasses.fields(self.config_class)}

    @property
    def is_seeded(self) -> bool:
        """Whether a seed changes anything."""
        return self.is_trained or "seed" in self.fields


def _trained(
    title: str, config_class: type, make: Callable[[Any, Dataset], Recommender], *, weighs_rows: bool = True
) -> ModelFamily:
    def make_for(config: Any, dataset: Dataset, item_groups: None, fit_linear: FitLinear | None) -> Recommender:
        del item_groups, fit_linear
        return make(config, dataset)

    return ModelFamily(title, config_class, make_for, weighs_rows=weighs_rows)


def _fitted(title: str, config_class: type, make: Callable[[Any], FittedRecommender]) -> ModelFamily:
    return ModelFamily(title, config_class, make, is_trained=False)


def _latent(title: str) -> ModelFamily:
    def make(
        config: made.LDiffRecConfig, dataset: Dataset, item_groups: np.ndarray, fit_linear: FitLinear | None
    ) -> Recommender:
        del dataset
        return made.make_l_diffrec(config, item_groups, fit_linear)

    return ModelFamily(title, made.LDiffRecConfig, make, has_item_groups=True)


def _diffrec(title: str) -> ModelFamily:
    def make(
        config: made.DiffRecConfig, dataset: Dataset, item_groups: None, fit_linear: FitLinear | None
    ) -> Recommender:
        del item_groups
        return made.make_diffrec(config, dataset.num_items, fit_linear)

    return ModelFamily(title, made.DiffRecConfig, make)


def _bpr(config: made.MFConfig, dataset: Dataset) -> Recommender:
    return made.make_bpr(config, dataset.train)


# T- and LT-DiffRec and T-EASE are presets of recency weights: nothing in the models knows of them.
MODELS: dict[str, ModelFamily] = {
    "diffrec": _diffrec("DiffRec"),
    "t_diffrec": _diffrec("T-DiffRec"),
    "l_diffrec": _latent("L-DiffRec"),
    "lt_diffrec": _latent("LT-DiffRec"),
    "mf": _trained("MF", made.MFConfig, _bpr, weighs_rows=False),
    "lightgcn": _trained("LightGCN", made.LightGCNConfig, _bpr, weighs_rows=False),
    "cdae": _trained("CDAE", made.CDAEConfig, made.make_autoencoder),
    "multidae": _trained("MultiDAE", made.MultiDAEConfig, made.make_autoencoder),
    "multidae_pp": _trained("MultiDAE++", made.MultiDAEPlusConfig, made.make_autoencoder),
    "multivae": _trained("MultiVAE", made.MultiVAEConfig, made.make_autoencoder),
    "sasrec": _trained(
        "SASRec",
        made.SASRecConfig,
        lambda config, dataset: made.make_sasrec(config, dataset.train),
        weighs_rows=False,
    ),
    "popularity": dataclasses.replace(
        _fitted("Popularity", made.PopularityConfig, made.make_popularity), weighs_rows=False
    ),
    "itemknn": _fitted("ItemKNN", made.ItemKNNConfig, made.make_item_knn),
    "rp3beta": _fitted("RP3beta", made.RP3betaConfig, made.make_rp3beta),
    "ease": _fitted("EASE", made.EaseConfig, made.make_ease),
    "t_ease": _fitted("T-EASE", made.EaseConfig, made.make_ease),
    "slim": _fitted("SLIM", made.SlimConfig, made.make_slim),
    "gfcf": _fitted("GF-CF", made.GFCFConfig, made.make_gfcf),
    "ials": _fitted("iALS", made.IALSConfig, made.make_ials),
}
