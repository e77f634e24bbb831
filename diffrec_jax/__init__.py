"""Diffusion recommender models as pure JAX functions and Flax modules.

Reference: "Diffusion Recommender Model", Wang et al., SIGIR 2023, arXiv:2304.04971.
"""

from diffrec_jax.api import Evaluation, Model, Recommendations, evaluate, fit, load, load_run, recommend, save
from diffrec_jax.data import (
    Dataset,
    add_random_noise,
    from_interactions,
    hold_out_users,
    read_official,
    split_by_time,
    split_dataset,
)
from diffrec_jax.diffusion import (
    LossHistory,
    NoiseSchedule,
    diffusion_loss,
    epsilon_loss,
    gaussian_noise_fn,
    init_loss_history,
    make_noise_schedule,
    noise_for_inference,
    p_sample_loop,
    predict_epsilon,
    predict_x0,
    q_posterior,
    q_sample,
    register_noise_law,
    sample_timesteps,
    timestep_probabilities,
    update_loss_history,
    x0_denoise_fn,
    x0_loss,
)
from diffrec_jax.evaluation import SampledCandidates, evaluate_lists, evaluate_scores
from diffrec_jax.models import GroupedVAE, MLPDenoiser, fold_denoiser, gaussian_kl, multinomial_nll
from diffrec_jax.recommenders import DiffRecConfig, LDiffRecConfig, make_diffrec, make_l_diffrec
from diffrec_jax.registry import register_model
from diffrec_jax.serving.export import export
from diffrec_jax.serving.lists import write_recommendations
from diffrec_jax.version import __version__

__all__ = [
    "Dataset",
    "DiffRecConfig",
    "Evaluation",
    "GroupedVAE",
    "LDiffRecConfig",
    "LossHistory",
    "MLPDenoiser",
    "Model",
    "NoiseSchedule",
    "Recommendations",
    "SampledCandidates",
    "__version__",
    "add_random_noise",
    "diffusion_loss",
    "epsilon_loss",
    "evaluate",
    "evaluate_lists",
    "evaluate_scores",
    "export",
    "fit",
    "fold_denoiser",
    "from_interactions",
    "gaussian_kl",
    "gaussian_noise_fn",
    "hold_out_users",
    "init_loss_history",
    "load",
    "load_run",
    "make_diffrec",
    "make_l_diffrec",
    "make_noise_schedule",
    "multinomial_nll",
    "noise_for_inference",
    "p_sample_loop",
    "predict_epsilon",
    "predict_x0",
    "q_posterior",
    "q_sample",
    "read_official",
    "recommend",
    "register_model",
    "register_noise_law",
    "sample_timesteps",
    "save",
    "split_by_time",
    "split_dataset",
    "timestep_probabilities",
    "update_loss_history",
    "write_recommendations",
    "x0_denoise_fn",
    "x0_loss",
]
