"""Networks: Flax modules that know nothing of noise schedules."""

from diffrec_jax.models.folding import FoldedDenoiser, can_fold, fold_denoiser
from diffrec_jax.models.mlp import MLPDenoiser, timestep_embedding

__all__ = ["FoldedDenoiser", "MLPDenoiser", "can_fold", "fold_denoiser", "timestep_embedding"]
