"""Noise schedules: tables over the timesteps, made in NumPy float64 and cast once at the end.

With the variances of recommendation schedules (1 - abar of 1e-8 .. 1e-2) float32 arithmetic loses the loss weights
altogether, so ``1 - abar`` is carried as a quantity of its own and never obtained by subtracting from one.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from diffrec_jax.typing import Array

ScheduleKind = Literal["linear", "linear-var", "cosine", "binomial"]
MAX_BETA = 0.999
FIXED_FIRST_BETA = 1e-5


class NoiseSchedule(NamedTuple):
    """Tables of a Gaussian diffusion, each [T], index t = 0 .. T-1 (the paper's t minus 1).

    ``variances`` is 1 - abar_t. ``x0_loss_weights`` is SNR(t-1) - SNR(t) with 1 at t = 0; ``epsilon_loss_weights`` is
    the weight of the squared error of the noise, with 1 at t = 0 where the x_0 likelihood takes its place.
    """

    betas: Array
    alphas_cumprod: Array
    variances: Array
    sqrt_alphas_cumprod: Array
    sqrt_variances: Array
    posterior_coef_x0: Array
    posterior_coef_xt: Array
    posterior_variances: Array
    x0_loss_weights: Array
    epsilon_loss_weights: Array

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.betas.shape[0]


def _betas_from_variances(variances: np.ndarray) -> np.ndarray:
    previous = np.concatenate([[0.0], variances[:-1]])
    return np.minimum((variances - previous) / (1.0 - previous), MAX_BETA)


def make_betas(
    kind: ScheduleKind = "linear-var",
    *,
    num_timesteps: int,
    noise_scale: float = 1.0,
    noise_min: float = 0.0,
    noise_max: float = 0.0,
    beta_fixed: bool = False,
) -> np.ndarray:
    """Variances beta_t of the single forward steps, [T] float64.

    ``linear-var`` makes 1 - abar_t linear from ``noise_scale * noise_min`` to ``noise_scale * noise_max``; ``linear``
    makes the betas themselves linear there; ``cosine`` and ``binomial`` (1/(T+1) .. 1/2) do not depend on them.
    ``beta_fixed`` then replaces the first beta by 1e-5. A noise_scale of 0 means no noise, whatever else is given: all
    betas are 0.

    Raises:
      ValueError: an unknown kind, T < 1, noise_min > noise_max, or a beta outside (0, 1).

    Reference: arXiv:2304.04971, section 3.1 and eq. 4 (linear-var); arXiv:2102.09672 (cosine).
    """
    if kind not in get_args(ScheduleKind):
        raise ValueError(f"noise schedule {kind!r} is unknown: choose one of {', '.join(get_args(ScheduleKind))}")
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")
    if not noise_scale >= 0:
        raise ValueError(f"noise_scale must be at least 0 (no noise), got {noise_scale}")
    if noise_scale == 0:
        return np.zeros(num_timesteps)
    steps = np.arange(num_timesteps, dtype=np.float64)
    if kind in ("linear", "linear-var"):
        if not 0 < noise_min <= noise_max:
            raise ValueError(f"need 0 < noise_min <= noise_max, got noise_min={noise_min}, noise_max={noise_max}")
        if not noise_scale * noise_max < 1:
            raise ValueError(
                f"noise_scale * noise_max must be below 1, the variance of pure noise, got {noise_scale * noise_max:g}"
            )
        if kind == "linear-var" and noise_min == noise_max and num_timesteps > 1:
            raise ValueError(f"linear-var needs noise_min < noise_max for more than one step, both are {noise_min}")
        ramp = noise_scale * np.linspace(noise_min, noise_max, num_timesteps, dtype=np.float64)
        betas = ramp if kind == "linear" else _betas_from_variances(ramp)
    elif kind == "cosine":
        u = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
        alphas_cumprod = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1], MAX_BETA)
    else:
        betas = 1.0 / (num_timesteps - steps + 1.0)
    if beta_fixed:
        betas[0] = FIXED_FIRST_BETA
    return betas


def schedule_from_betas(betas: np.ndarray, dtype=jnp.float32) -> NoiseSchedule:
    """All tables of a diffusion with the given betas ([T], any float), computed in float64 and cast to ``dtype``.

    ``dtype`` may be ``np.float64`` with the tables then kept as NumPy arrays, which is what a float64 reference wants.

    Betas that are all 0 mean no noise: x_t is x_0, every loss weight is 1, and the reverse mean is the prediction
    itself, as in the released code with a noise scale of 0. There is then no noise to predict.

    Raises:
      ValueError: betas are not a vector of values in (0, 1), or all 0.
    """
    betas = np.array(betas, dtype=np.float64)
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"betas must be a non-empty vector, got shape {betas.shape}")
    has_noise = bool(np.any(betas != 0))
    if has_noise and not (np.all(betas > 0) and np.all(betas < 1)):
        raise ValueError(f"betas must lie in (0, 1), got values from {betas.min():g} to {betas.max():g}")
    alphas_cumprod = np.cumprod(1.0 - betas)
    previous_alphas_cumprod = np.concatenate([[1.0], alphas_cumprod[:-1]])
    # 1 - abar_t = (1 - abar_{t-1}) + abar_{t-1} beta_t: a sum of positive terms, nothing cancels.
    variances = np.cumsum(previous_alphas_cumprod * betas)
    previous_variances = np.concatenate([[0.0], variances[:-1]])
    x0_loss_weights, epsilon_loss_weights = np.ones_like(betas), np.ones_like(betas)
    posterior_coef_x0, posterior_coef_xt, posterior_variances = np.ones_like(betas), np.zeros_like(betas), betas
    if has_noise:
        # SNR(t-1) - SNR(t) = (v_t - v_{t-1}) / (v_{t-1} v_t), and v_t - v_{t-1} = abar_{t-1} beta_t.
        x0_loss_weights[1:] = (previous_alphas_cumprod * betas)[1:] / (previous_variances * variances)[1:]
        epsilon_loss_weights[1:] = variances[1:] / (previous_variances[1:] ** 2 * (1.0 - betas[1:]))
        posterior_coef_x0 = np.sqrt(previous_alphas_cumprod) * betas / variances
        posterior_coef_xt = np.sqrt(1.0 - betas) * previous_variances / variances
        posterior_variances = betas * previous_variances / variances
    cast = np.asarray if dtype == np.float64 else jnp.asarray
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "variances": variances,
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_variances": np.sqrt(variances),
        "posterior_coef_x0": posterior_coef_x0,
        "posterior_coef_xt": posterior_coef_xt,
        "posterior_variances": posterior_variances,
        "x0_loss_weights": x0_loss_weights,
        "epsilon_loss_weights": epsilon_loss_weights,
    }
    return NoiseSchedule(**{name: cast(table, dtype) for name, table in tables.items()})  # type: ignore[arg-type]


def make_noise_schedule(
    kind: ScheduleKind = "linear-var",
    *,
    num_timesteps: int,
    noise_scale: float = 1.0,
    noise_min: float = 0.0,
    noise_max: float = 0.0,
    beta_fixed: bool = False,
    dtype=jnp.float32,
) -> NoiseSchedule:
    """The schedule of the given kind: ``make_betas`` followed by ``schedule_from_betas``.

    Example::

      schedule = make_noise_schedule(num_timesteps=5, noise_scale=1e-4, noise_min=5e-4, noise_max=5e-3, beta_fixed=True)

    Raises:
      ValueError: as ``make_betas``.
    """
    betas = make_betas(
        kind,
        num_timesteps=num_timesteps,
        noise_scale=noise_scale,
        noise_min=noise_min,
        noise_max=noise_max,
        beta_fixed=beta_fixed,
    )
    return schedule_from_betas(betas, dtype)
