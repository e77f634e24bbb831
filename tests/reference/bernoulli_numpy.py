"""The diffusion of rows of 0 and 1 in NumPy float64: products of transition matrices, Bayes' rule by enumeration."""

import numpy as np


def transition(beta, rate):
    """[from, to] of one step and one entry."""
    return (1 - beta) * np.eye(2) + beta * np.array([[1 - rate, rate], [1 - rate, rate]])


def transitions(betas, t, rate):
    """[x_0, x_t] of all steps up to t."""
    product = np.eye(2)
    for beta in betas[: t + 1]:
        product = product @ transition(beta, rate)
    return product


def posterior(betas, x_0, x_t, t, rate):
    """q(x_{t-1} = 1 | x_t, x_0) of one entry; NaN where x_t cannot come of x_0."""
    joint = [transitions(betas, t - 1, rate)[x_0, x] * transition(betas[t], rate)[x, x_t] for x in (0, 1)]
    return joint[1] / sum(joint) if sum(joint) > 0 else np.nan


def reverse_mean(betas, x_0_hat, x_t, t, rate):
    """The mean of ``posterior`` over independent x_0 and x_t of these probabilities, [B, I]."""
    mean = np.zeros_like(x_t)
    for item, item_rate in enumerate(rate):
        for a in (0, 1):
            for b in (0, 1):
                weight = np.abs(1 - a - x_0_hat[:, item]) * np.abs(1 - b - x_t[:, item])
                mean[:, item] += weight * posterior(betas, a, b, t, item_rate)
    return mean


def p_sample_loop(betas, network, x_T, rate, expected=lambda output: output):
    """The reverse chain of probabilities; ``expected`` makes x_0_hat of the network's output."""
    x = np.array(x_T, np.float64)
    for t in reversed(range(1, len(betas))):
        x = reverse_mean(betas, np.clip(expected(network(x, [t] * len(x))), 0, 1), x, t, rate)
    return expected(network(x, [0] * len(x)))
