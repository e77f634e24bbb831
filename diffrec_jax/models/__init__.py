"""Networks: Flax modules that know nothing of noise schedules."""

from diffrec_jax.models.decoded_errors import (
    Decoder,
    decoded_multinomial_nll,
    decoded_squared_error,
    gram_squared_error,
)
from diffrec_jax.models.folding import FoldedDenoiser, can_fold, fold_denoiser
from diffrec_jax.models.grouped_vae import GroupedVAE, split_size
from diffrec_jax.models.likelihood import gaussian_kl, multinomial_nll
from diffrec_jax.models.mlp import MLPDenoiser, timestep_embedding

__all__ = [
    "Decoder",
    "FoldedDenoiser",
    "GroupedVAE",
    "MLPDenoiser",
    "can_fold",
    "decoded_multinomial_nll",
    "decoded_squared_error",
    "fold_denoiser",
    "gaussian_kl",
    "gram_squared_error",
    "multinomial_nll",
    "split_size",
    "timestep_embedding",
]
