"""One module per model family: a frozen config and pure functions built from it."""

from diffrec_jax.recommenders.base import FittedRecommender, Recommender
from diffrec_jax.recommenders.diffrec import DiffRecConfig, make_diffrec
from diffrec_jax.recommenders.popularity import POPULARITY

__all__ = ["POPULARITY", "DiffRecConfig", "FittedRecommender", "Recommender", "make_diffrec"]
