"""The autoencoder and the loss of L-DiffRec in NumPy float64, written from the paper with plain loops."""

import math

import numpy as np


def split_layer(total, group_sizes):
    """Units of a layer per group: in proportion, rounded down, at least one, the last takes what is left."""
    parts = []
    for size in group_sizes[:-1]:
        parts.append(max(int(size / sum(group_sizes) * total), 1))
    return [*parts, total - sum(parts)]


def encode(x, groups, encoders, activation):
    """Mean and log variance [B, L]; ``encoders`` has the (kernel, bias) pairs of each group's layers."""
    means, log_variances = [], []
    for group, layers in enumerate(encoders):
        hidden = x[:, np.flatnonzero(groups == group)]
        for kernel, bias in layers:
            hidden = activation(hidden @ kernel + bias)
        half = hidden.shape[1] // 2
        means.append(hidden[:, :half])
        log_variances.append(hidden[:, half:])
    return np.hstack(means), np.hstack(log_variances)


def decode(z, groups, decoders, outputs, latent_sizes, activation):
    """Logits [B, I]; each group's output is (table [items, hidden], bias), of all of z without ``decoders``."""
    logits = np.empty((len(z), len(groups)))
    ends = np.cumsum(latent_sizes)
    for group, (table, bias) in enumerate(outputs):
        hidden = z
        if decoders:
            hidden = z[:, ends[group] - latent_sizes[group] : ends[group]]
            for kernel, layer_bias in decoders[group]:
                hidden = activation(hidden @ kernel + layer_bias)
        logits[:, np.flatnonzero(groups == group)] = hidden @ table.T + bias
    return logits


def gaussian_kl(mean, log_variance):
    """KL of a diagonal Gaussian from the standard one, [B]."""
    totals = np.zeros(len(mean))
    for row in range(len(mean)):
        for m, v in zip(mean[row], log_variance[row]):
            totals[row] += -0.5 * (1 + v - m * m - math.exp(v))
    return totals


def multinomial_nll(logits, x):
    """-sum of x log softmax, [B]."""
    totals = np.zeros(len(x))
    for row in range(len(x)):
        top = logits[row].max()
        log_normaliser = top + math.log(np.exp(logits[row] - top).sum())
        totals[row] = -np.sum(x[row] * (logits[row] - log_normaliser))
    return totals


def mixed_loss(diffusion, nll, kl, *, reweight, lamda, lamda_min, lamda_epochs, gamma, gamma_steps, epoch, step):
    """The loss per row, with both annealings; epoch and step count from 0, the released epochs from 1."""
    lamda = max((1 - (epoch + 1) / lamda_epochs) * lamda, lamda_min)
    gamma = min(gamma, step / gamma_steps)
    if reweight:
        return lamda * diffusion + (nll + gamma * kl)
    return diffusion + lamda * (nll + gamma * kl)
