"""What a diffusion draws with, and how it noises and goes back: functions of a schedule, one tuple for each kind."""

from collections.abc import Callable
from typing import NamedTuple

from diffrec_jax.diffusion.forward import p_sample, q_sample
from diffrec_jax.diffusion.noise import NoiseLaw
from diffrec_jax.diffusion.schedules import NoiseSchedule
from diffrec_jax.typing import Array

QSample = Callable[[NoiseSchedule, Array, Array, Array], Array]
"""(schedule, x_0, t, noise) -> x_t."""
PSample = Callable[[NoiseSchedule, Array, Array, Array, Array | None], Array]
"""(schedule, x_0_hat, x_t, t, noise) -> x_{t-1}; its mean where the noise is None."""


class Process(NamedTuple):
    """A forward process and its reverse step."""

    draw: NoiseLaw
    """(key, shape) -> what the other two take as noise."""
    q_sample: QSample
    p_sample: PSample


def additive_process(law: NoiseLaw) -> Process:
    """Noise of a law of mean 0 and variance 1 is scaled and added: ``q_sample`` and ``p_sample``."""
    return Process(law, q_sample, p_sample)
