"""The comparators in NumPy float64, dense and naive, written from their publications."""

import numpy as np


def ease(x, l2):
    """arXiv:1905.03375, algorithm 1, for dense x [U, I]."""
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def recency_row(items, weights, num_items, scale):
    """A row whose newest item counts its weight, one of age a exp(-a / scale) of it."""
    row = np.zeros(num_items)
    for age, (item, weight) in enumerate(zip(items[::-1], weights[::-1])):
        row[item] = weight * np.exp(-age / scale)
    return row


def windows(rows, num_items, scales, horizon, stride):
    """Inputs [W, SI] and targets [W, I] from rows of (items, weights), oldest first: all windows made one by one."""
    phi, y = [], []
    for items, weights in rows:
        for end in range(len(items) - 1, 0, -stride):
            past = [recency_row(items[:end], weights[:end], num_items, scale) for scale in scales]
            phi.append(np.concatenate(past))
            y.append(recency_row(items[end:][::-1], weights[end:][::-1], num_items, horizon))
    return np.array(phi), np.array(y)


def window_ridge(rows, num_items, scales, horizon, l2, stride):
    """[SI, I]."""
    phi, y = windows(rows, num_items, scales, horizon, stride)
    return np.linalg.solve(phi.T @ phi + l2 * np.eye(phi.shape[1]), phi.T @ y)


def normalised(x):
    """D_u^-1/2 R D_i^-1/2."""
    users, items = (np.maximum((x > 0).sum(axis), 1) for axis in (1, 0))
    return (x > 0) / np.sqrt(users)[:, None] / np.sqrt(items)


def gfcf(x, rank, alpha):
    """arXiv:2108.07567: the scores of x's own rows."""
    rows = normalised(x)
    roots = np.sqrt(np.maximum((x > 0).sum(0), 1))
    vectors = np.linalg.svd(rows)[2][:rank].T
    return x @ (rows.T @ rows + alpha * np.diag(1 / roots) @ vectors @ vectors.T @ np.diag(roots))


def giffcf_graph(x, ideal_weight, ideal_rank):
    """arXiv:2311.08744, section 3.1, for dense x [U, I]: the smoothing operator [I, I], of norm 1."""
    seen = x > 0
    factor = seen * np.maximum(seen.sum(1, keepdims=True), 1) ** -0.25 * np.maximum(seen.sum(0), 1) ** -0.5
    values, vectors = np.linalg.eigh(factor.T @ factor)
    leading = vectors[:, ::-1][:, :ideal_rank]
    return (factor.T @ factor / values[-1] + ideal_weight * leading @ leading.T) / (1 + ideal_weight)


def giffcf_denoise(params, z_t, known, smooth_known, t, latent_factors=1):
    """arXiv:2311.08744, section 4: a prediction [B, I]; the latent values of the network times factors."""

    def silu(values):
        return values / (1 + np.exp(-values))

    def mix(layer, *values):
        hidden = silu(np.stack(np.broadcast_arrays(*values), axis=-1) @ layer["kernel"] + layer["bias"])
        return hidden @ layer["out"] + layer["out_bias"]

    def dense(name, values):
        return values @ params[name]["kernel"] + params[name]["bias"]

    angles = t * 10_000.0 ** -(np.arange(10) / 10)
    time = np.concatenate([np.cos(angles), np.sin(angles)])[None]
    first, second = (dense(f"{name}_out", silu(dense(name, time))) for name in ("latent_time", "score_time"))
    vectors = params["item_vectors"]
    of_known = known @ vectors / np.maximum(np.abs(known).sum(1, keepdims=True), 1)
    latent = mix(params["latent_mixer"], z_t @ vectors / known.shape[1], of_known, first)
    of_items = [values[None] for values in params.get("item_statistics", ())]
    return mix(params["score_mixer"], (latent_factors * latent) @ vectors.T, known, smooth_known, second, *of_items)


def giffcf_scores(params, graph, x, num_timesteps, strength, decay):
    """The whole way back from the smoothed rows x."""

    def smoothed(rows, t):
        return rows + strength * t / num_timesteps * (rows @ graph - rows)

    z = smoothed(x, num_timesteps)
    for t in range(num_timesteps, 0, -1):
        x_hat = giffcf_denoise(params, z, x, x @ graph, t)
        z = smoothed(x_hat, t - 1) + decay * (z - smoothed(x_hat, t))
    return z


def keep_largest(similarities, k):
    """Each row's k largest, its own item left out."""
    similarities = similarities.copy()
    np.fill_diagonal(similarities, 0)
    kept = np.zeros_like(similarities)
    for row, values in enumerate(similarities):
        chosen = np.argsort(-values)[:k]
        kept[row, chosen] = values[chosen]
    return kept


def item_knn(x, k, shrink):
    """Cosine with shrinkage in the denominator."""
    norms = np.linalg.norm(x, axis=0)
    return keep_largest(x.T @ x / np.maximum(np.outer(norms, norms) + shrink, 1e-12), k)


def rp3beta(x, k, alpha, beta):
    """Three steps from an item to users to items, the last divided by popularity."""
    items, users = np.maximum(x.sum(0), 1), np.maximum(x.sum(1), 1)
    walk = (x.T / items[:, None]) ** alpha @ (x / users[:, None]) ** alpha
    return keep_largest(walk / items**beta, k)


def ials_row(row, stored, table, l2, unobserved_weight, exponent):
    """The vector of one row by solving its normal equations; arXiv:2110.14037."""
    strength = l2 * (stored.sum() + unobserved_weight * len(table)) ** exponent
    left = (table.T * row) @ table + unobserved_weight * table.T @ table + strength * np.eye(table.shape[1])
    return np.linalg.solve(left, table.T @ row)


def propagate(x, users, items, num_layers):
    """LightGCN on the dense adjacency of the bipartite graph; arXiv:2002.02126, eq. 8."""
    rows = normalised(x)
    num_users = len(users)
    adjacency = np.zeros((sum(x.shape),) * 2)
    adjacency[:num_users, num_users:], adjacency[num_users:, :num_users] = rows, rows.T
    layer = np.concatenate([users, items])
    total = layer.copy()
    for _ in range(num_layers):
        layer = adjacency @ layer
        total += layer
    return np.split(total / (num_layers + 1), [num_users])


def autoencoder(params, row, user_vector=0.0, *, activation=np.tanh, variational=False):
    """Logits of dense rows [B, I] through the parameters of models.autoencoder.Autoencoder, latent means."""

    def layer(name, hidden):
        own = params[name]
        kernel = own["kernel"] if "kernel" in own else own["table"].T
        return hidden @ np.asarray(kernel, np.float64) + np.asarray(own["bias"], np.float64)

    hidden = row @ np.asarray(params["input_kernel"], np.float64) + np.asarray(params["input_bias"]) + user_vector
    for number in range(sum(name.startswith("encoder_layers") for name in params)):
        hidden = layer(f"encoder_layers_{number}", activation(hidden))
    hidden = hidden[:, : hidden.shape[1] // 2] if variational else activation(hidden)
    for number in range(sum(name.startswith("decoder_layers") for name in params)):
        hidden = activation(layer(f"decoder_layers_{number}", hidden))
    return layer("output_layer", hidden)
