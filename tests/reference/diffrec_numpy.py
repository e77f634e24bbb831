"""DiffRec in NumPy float64, written from the paper with plain loops; slow, and independent of the library's code.

Timesteps are 0-based (the paper's t minus 1); rows are users, columns items.
"""

import math

import numpy as np

MAX_BETA = 0.999
FIXED_FIRST_BETA = 1e-5


def make_betas(kind, *, num_timesteps, noise_scale=1.0, noise_min=0.0, noise_max=0.0, beta_fixed=False):
    """beta_t of the schedules linear, linear-var, cosine and binomial, [T]."""
    betas = []
    if kind == "linear":
        for t in range(num_timesteps):
            share = t / (num_timesteps - 1) if num_timesteps > 1 else 0.0
            betas.append(noise_scale * (noise_min + share * (noise_max - noise_min)))
    elif kind == "linear-var":
        previous_abar = 1.0
        for t in range(num_timesteps):
            share = t / (num_timesteps - 1) if num_timesteps > 1 else 0.0
            abar = 1.0 - noise_scale * (noise_min + share * (noise_max - noise_min))
            betas.append(min(1.0 - abar / previous_abar, MAX_BETA))
            previous_abar = abar
    elif kind == "cosine":
        for t in range(num_timesteps):
            before, after = t / num_timesteps, (t + 1) / num_timesteps
            ratio = _cosine_abar(after) / _cosine_abar(before)
            betas.append(min(1.0 - ratio, MAX_BETA))
    elif kind == "binomial":
        for t in range(num_timesteps):
            betas.append(1.0 / (num_timesteps + 1 - t))
    else:
        raise KeyError(kind)
    if beta_fixed:
        betas[0] = FIXED_FIRST_BETA
    return np.array(betas)


def _cosine_abar(u):
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def alphas_cumprod(betas):
    """abar_t, the product of 1 - beta up to and including t, [T]."""
    abar, product = [], 1.0
    for beta in betas:
        product *= 1.0 - beta
        abar.append(product)
    return np.array(abar)


def variances(betas):
    """1 - abar_t, [T]."""
    return 1.0 - alphas_cumprod(betas)


def q_sample(betas, x_0, t, noise):
    """x_t from x_0 [B, D], t [B] and standard normal noise [B, D]."""
    abar = alphas_cumprod(betas)
    x_t = np.empty(x_0.shape)
    for row, step in enumerate(t):
        x_t[row] = math.sqrt(abar[step]) * x_0[row] + math.sqrt(1.0 - abar[step]) * noise[row]
    return x_t


def posterior_coefficients(betas, t):
    """(factor of x_0, factor of x_t, variance) of q(x_{t-1} | x_t, x_0) for one t."""
    abar = alphas_cumprod(betas)
    abar_before = abar[t - 1] if t > 0 else 1.0
    alpha = 1.0 - betas[t]
    factor_x0 = math.sqrt(abar_before) * (1.0 - alpha) / (1.0 - abar[t])
    factor_xt = math.sqrt(alpha) * (1.0 - abar_before) / (1.0 - abar[t])
    variance = (1.0 - alpha) * (1.0 - abar_before) / (1.0 - abar[t])
    return factor_x0, factor_xt, variance


def q_posterior(betas, x_0, x_t, t):
    """Mean [B, D] and variance [B, 1] of q(x_{t-1} | x_t, x_0)."""
    mean, variance = np.empty(x_t.shape), np.empty((len(t), 1))
    for row, step in enumerate(t):
        factor_x0, factor_xt, variance[row, 0] = posterior_coefficients(betas, step)
        mean[row] = factor_x0 * x_0[row] + factor_xt * x_t[row]
    return mean, variance


def predict_x0(betas, x_t, t, epsilon):
    """x_0 from x_t and the noise in it."""
    abar = alphas_cumprod(betas)
    x_0 = np.empty(x_t.shape)
    for row, step in enumerate(t):
        x_0[row] = (x_t[row] - math.sqrt(1.0 - abar[step]) * epsilon[row]) / math.sqrt(abar[step])
    return x_0


def predict_epsilon(betas, x_t, t, x_0):
    """The noise in x_t, given x_0."""
    abar = alphas_cumprod(betas)
    epsilon = np.empty(x_t.shape)
    for row, step in enumerate(t):
        epsilon[row] = (x_t[row] - math.sqrt(abar[step]) * x_0[row]) / math.sqrt(1.0 - abar[step])
    return epsilon


def signal_to_noise(betas):
    """SNR(t) = abar / (1 - abar), [T]."""
    abar = alphas_cumprod(betas)
    return abar / (1.0 - abar)


def x0_loss_weights(betas):
    """SNR(t-1) - SNR(t), and 1 at the first step, [T]."""
    snr = signal_to_noise(betas)
    weights = [1.0]
    for t in range(1, len(betas)):
        weights.append(snr[t - 1] - snr[t])
    return np.array(weights)


def epsilon_loss_weights(betas):
    """(1 - abar_t) / ((1 - abar_{t-1})^2 (1 - beta_t)), and 1 at the first step, [T]."""
    abar = alphas_cumprod(betas)
    weights = [1.0]
    for t in range(1, len(betas)):
        weights.append((1.0 - abar[t]) / ((1.0 - abar[t - 1]) ** 2 * (1.0 - betas[t])))
    return np.array(weights)


def x0_loss(betas, x_0, x_0_hat, t, *, reweight=True):
    """Loss of a prediction of x_0, [B]."""
    weights = x0_loss_weights(betas)
    losses = []
    for row, step in enumerate(t):
        error = np.mean((x_0_hat[row] - x_0[row]) ** 2)
        losses.append(weights[step] * error if reweight else error)
    return np.array(losses)


def epsilon_loss(betas, x_0, x_t, noise, epsilon_hat, t, *, reweight=True):
    """Loss of a prediction of the noise, [B]; the first step's is half the squared error of the x_0 it implies."""
    weights = epsilon_loss_weights(betas)
    x_0_hat = predict_x0(betas, x_t, t, epsilon_hat)
    losses = []
    for row, step in enumerate(t):
        error = np.mean((epsilon_hat[row] - noise[row]) ** 2)
        if not reweight:
            losses.append(error)
        elif step == 0:
            losses.append(np.mean((x_0[row] - x_0_hat[row]) ** 2) / 2)
        else:
            losses.append(weights[step] * error)
    return np.array(losses)


def new_loss_history(num_timesteps):
    """An empty list for every timestep."""
    return [[] for _ in range(num_timesteps)]


def update_loss_history(history, t, losses, mask, *, length=10):
    """Appends the examples one by one to their timestep's list and drops what is older than the last ``length``."""
    for step, loss, counts in zip(t, losses, mask):
        if counts:
            history[step].append(float(loss))
            if len(history[step]) > length:
                history[step].pop(0)


def timestep_probabilities(history, *, length=10, uniform_share=0.001):
    """p_t, [T]: uniform until every list is full, then by the root mean square of the losses."""
    num_timesteps = len(history)
    if any(len(losses) < length for losses in history):
        return np.full(num_timesteps, 1.0 / num_timesteps)
    sizes = [math.sqrt(sum(loss * loss for loss in losses) / length) for losses in history]
    return np.array([(1 - uniform_share) * size / sum(sizes) + uniform_share / num_timesteps for size in sizes])


def timestep_embedding(t, size, *, max_period=10_000):
    """Cosines then sines of t at geometrically spaced frequencies, a zero at the end of an odd size, [B, size]."""
    half = size // 2
    embedding = np.zeros((len(t), size))
    for row, step in enumerate(t):
        for i in range(half):
            angle = step * max_period ** (-i / half)
            embedding[row, i] = math.cos(angle)
            embedding[row, half + i] = math.sin(angle)
    return embedding


def mlp_denoiser(params, x_t, t, *, time_embedding_size=10, normalize=False, activation=np.tanh):
    """The denoiser's output [B, D], without dropout, from the parameter tree of the Flax module."""
    tree = params["params"]

    def weights(name):
        own = tree[name]
        kernel = own["kernel"] if "kernel" in own else own["table"].T
        return np.asarray(kernel, np.float64), np.asarray(own["bias"], np.float64)

    rows = []
    for x, embedding in zip(np.asarray(x_t, np.float64), timestep_embedding(t, time_embedding_size)):
        if normalize:
            x = x / max(math.sqrt(np.sum(x**2)), 1e-12)
        kernel, bias = weights("time_layer")
        hidden = np.concatenate([x, embedding @ kernel + bias])
        kernel = np.concatenate([np.asarray(tree[name], np.float64) for name in ("input_kernel", "time_kernel")])
        hidden = activation(hidden @ kernel + np.asarray(tree["input_bias"], np.float64))
        layer = 0
        while f"hidden_layers_{layer}" in tree:
            kernel, bias = weights(f"hidden_layers_{layer}")
            hidden = activation(hidden @ kernel + bias)
            layer += 1
        kernel, bias = weights("output_layer")
        rows.append(hidden @ kernel + bias)
    return np.stack(rows)


def noise_for_inference(betas, x_0, num_noise_steps, noise):
    """x_0 after T' steps of the forward process, or x_0 itself when T' = 0."""
    if num_noise_steps == 0:
        return x_0
    return q_sample(betas, x_0, [num_noise_steps - 1] * len(x_0), noise)


def p_sample_loop(betas, network, x_T, *, noise=None, prediction_type="x0"):
    """All T reverse steps of ``network(x_t, t)``, with ``noise`` [T, B, D] (or none) added for t > 0."""
    x = np.array(x_T, dtype=np.float64)
    for step in reversed(range(len(betas))):
        t = [step] * len(x)
        prediction = network(x, t)
        x_0_hat = predict_x0(betas, x, t, prediction) if prediction_type == "epsilon" else prediction
        mean, variance = q_posterior(betas, x_0_hat, x, t)
        if noise is not None and step > 0:
            mean = mean + np.sqrt(variance) * noise[step]
        x = mean
    return x
