"""One module per model family: a frozen config and pure functions built from it."""

from diffrec_jax.recommenders.base import Clock, FittedRecommender, Recommender
from diffrec_jax.recommenders.diffrec import DiffRecConfig, make_diffrec
from diffrec_jax.recommenders.l_diffrec import LDiffRecConfig, make_l_diffrec
from diffrec_jax.recommenders.popularity import POPULARITY

__all__ = [
    "POPULARITY",
    "Clock",
    "DiffRecConfig",
    "FittedRecommender",
    "LDiffRecConfig",
    "Recommender",
    "make_diffrec",
    "make_l_diffrec",
]
