"""One module per model family: a frozen config and pure functions built from it."""

from diffrec_jax.recommenders.autoencoders import (
    CDAEConfig,
    MultiDAEConfig,
    MultiDAEPlusConfig,
    MultiVAEConfig,
    make_autoencoder,
)
from diffrec_jax.recommenders.base import FittedRecommender, Recommender, StepContext
from diffrec_jax.recommenders.biases import BiasesConfig, GlobalMeanConfig, make_biases, make_global_mean
from diffrec_jax.recommenders.bpr import LightGCNConfig, MFConfig, make_bpr
from diffrec_jax.recommenders.diffrec import DiffRecConfig, make_diffrec
from diffrec_jax.recommenders.flowcf import FlowCFConfig, make_flowcf
from diffrec_jax.recommenders.giffcf import GiffCFConfig, make_giffcf
from diffrec_jax.recommenders.ials import IALSConfig, make_ials
from diffrec_jax.recommenders.item_item import (
    EaseConfig,
    GFCFConfig,
    ItemKNNConfig,
    RP3betaConfig,
    SlimConfig,
    make_ease,
    make_gfcf,
    make_item_knn,
    make_rp3beta,
    make_slim,
)
from diffrec_jax.recommenders.l_diffrec import LDiffRecConfig, make_l_diffrec
from diffrec_jax.recommenders.linear_denoiser import (
    FitLinear,
    LinearFactors,
    LinearFit,
    fit_linear_denoiser,
    fit_linear_factors,
)
from diffrec_jax.recommenders.popularity import PopularityConfig, make_popularity
from diffrec_jax.recommenders.rating_rows import RatingRows, RowValues, on_ratings, rating_rows, values_of
from diffrec_jax.recommenders.s_diffrec import SDiffRecConfig, make_s_diffrec
from diffrec_jax.recommenders.sasrec import SASRecConfig, make_sasrec
from diffrec_jax.recommenders.window_ridge import WindowRidgeConfig, make_window_ridge

__all__ = [
    "BiasesConfig",
    "CDAEConfig",
    "DiffRecConfig",
    "EaseConfig",
    "FitLinear",
    "FittedRecommender",
    "FlowCFConfig",
    "GFCFConfig",
    "GiffCFConfig",
    "GlobalMeanConfig",
    "IALSConfig",
    "ItemKNNConfig",
    "LDiffRecConfig",
    "LightGCNConfig",
    "LinearFactors",
    "LinearFit",
    "MFConfig",
    "MultiDAEConfig",
    "MultiDAEPlusConfig",
    "MultiVAEConfig",
    "PopularityConfig",
    "RP3betaConfig",
    "RatingRows",
    "Recommender",
    "RowValues",
    "SASRecConfig",
    "SDiffRecConfig",
    "SlimConfig",
    "StepContext",
    "WindowRidgeConfig",
    "fit_linear_denoiser",
    "fit_linear_factors",
    "make_autoencoder",
    "make_biases",
    "make_bpr",
    "make_diffrec",
    "make_ease",
    "make_flowcf",
    "make_gfcf",
    "make_giffcf",
    "make_global_mean",
    "make_ials",
    "make_item_knn",
    "make_l_diffrec",
    "make_popularity",
    "make_rp3beta",
    "make_s_diffrec",
    "make_sasrec",
    "make_slim",
    "make_window_ridge",
    "on_ratings",
    "rating_rows",
    "values_of",
]
