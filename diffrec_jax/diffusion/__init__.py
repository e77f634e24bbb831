"""Diffusion over interaction rows, by added noise, by entries drawn anew, by heat and as a flow.

Pure functions without networks, flags or state.
"""

from diffrec_jax.diffusion.bernoulli import (
    bernoulli_marginal,
    bernoulli_p_sample,
    bernoulli_process,
    bernoulli_q_posterior,
    bernoulli_q_sample,
    bernoulli_schedule,
)
from diffrec_jax.diffusion.flow import flow_sample, follow_flow
from diffrec_jax.diffusion.forward import p_sample, predict_epsilon, predict_x0, q_posterior, q_sample
from diffrec_jax.diffusion.heat import sharpen_loop, smoothed
from diffrec_jax.diffusion.losses import (
    ErrorFn,
    PredictionType,
    diffusion_loss,
    epsilon_loss,
    mean_cross_entropy,
    mean_squared_error,
    x0_loss,
    x0_loss_of_error,
)
from diffrec_jax.diffusion.noise import BERNOULLI, GAUSSIAN, NOISE_LAWS, NoiseLaw, register_noise_law
from diffrec_jax.diffusion.process import Process, additive_process
from diffrec_jax.diffusion.sampling import (
    gaussian_noise_fn,
    noise_for_inference,
    p_sample_loop,
    x0_denoise_fn,
)
from diffrec_jax.diffusion.schedules import (
    NoiseSchedule,
    ScheduleKind,
    make_betas,
    make_noise_schedule,
    schedule_from_betas,
)
from diffrec_jax.diffusion.timesteps import (
    LossHistory,
    init_loss_history,
    sample_timesteps,
    timestep_probabilities,
    update_loss_history,
)

__all__ = [
    "BERNOULLI",
    "GAUSSIAN",
    "NOISE_LAWS",
    "ErrorFn",
    "LossHistory",
    "NoiseLaw",
    "NoiseSchedule",
    "PredictionType",
    "Process",
    "ScheduleKind",
    "additive_process",
    "bernoulli_marginal",
    "bernoulli_p_sample",
    "bernoulli_process",
    "bernoulli_q_posterior",
    "bernoulli_q_sample",
    "bernoulli_schedule",
    "diffusion_loss",
    "epsilon_loss",
    "flow_sample",
    "follow_flow",
    "gaussian_noise_fn",
    "init_loss_history",
    "make_betas",
    "make_noise_schedule",
    "mean_cross_entropy",
    "mean_squared_error",
    "noise_for_inference",
    "p_sample",
    "p_sample_loop",
    "predict_epsilon",
    "predict_x0",
    "q_posterior",
    "q_sample",
    "register_noise_law",
    "sample_timesteps",
    "schedule_from_betas",
    "sharpen_loop",
    "smoothed",
    "timestep_probabilities",
    "update_loss_history",
    "x0_denoise_fn",
    "x0_loss",
    "x0_loss_of_error",
]
