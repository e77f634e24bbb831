"""DiffRec in plain PyTorch, the way the released scripts work: what the library is measured against.

Written from the paper and from the description of the released experiments. Nothing here is slow on purpose: rows are
dense, every reverse step runs at full width, and histories and metrics are Python loops, because that is the plain way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from diffrec_jax.recommenders import DiffRecConfig

HISTORY_LENGTH = 10
UNIFORM_MIX = 0.001
FIXED_FIRST_BETA = 1e-5
METRICS = ("precision", "recall", "ndcg", "mrr")
MAX_DENSE_BYTES = 2 * 2**30


class DenseRows(Dataset):
    """Users' rows as dense float blocks.

    The released loader holds the whole matrix dense in memory. That takes 41 GB for amazon-book and 7.5 GB for yelp,
    more than this benchmark may ask for, so above ``MAX_DENSE_BYTES`` the rows of a batch are densified when they are
    asked for: a favour to the peer's memory, and some 50 ms a batch in its time.
    """

    def __init__(self, matrix: sparse.csr_array):
        self.matrix = matrix
        fits = 4 * matrix.shape[0] * matrix.shape[1] <= MAX_DENSE_BYTES
        self.dense = torch.from_numpy(matrix.toarray()) if fits else None

    def __len__(self) -> int:
        """Number of users."""
        return self.matrix.shape[0]

    def __getitems__(self, user_ids: list[int]) -> Tensor:
        """The rows of some users as one block, [B, I]."""
        if self.dense is not None:
            return self.dense[user_ids]
        return torch.from_numpy(self.matrix[user_ids].toarray())


def make_loader(matrix: sparse.csr_array, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Batches of dense rows [B, I]; the block is made in one go rather than collated from rows."""
    return DataLoader(DenseRows(matrix), batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(block: Any) -> Any:
    return block


def endless(loader: DataLoader) -> Iterator[Tensor]:
    """Batch after batch, epoch after epoch."""
    while True:
        yield from loader


class DeviceRows:
    """All rows as CSR arrays on a device; those of a batch are made dense there."""

    def __init__(self, matrix: sparse.csr_array, device: str):
        self.num_items = matrix.shape[1]
        self.indptr = torch.from_numpy(matrix.indptr.astype(np.int64)).to(device)
        self.indices = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)

    def batch(self, user_ids: Tensor) -> Tensor:
        """Rows [B, I] of users [B]."""
        starts, lengths = self.indptr[user_ids], self.indptr[user_ids + 1] - self.indptr[user_ids]
        rows = torch.repeat_interleave(torch.arange(len(user_ids), device=user_ids.device), lengths)
        within = torch.arange(len(rows), device=rows.device) - (torch.cumsum(lengths, 0) - lengths)[rows]
        dense = torch.zeros(len(user_ids), self.num_items, device=user_ids.device)
        dense[rows, self.indices[starts[rows] + within]] = 1.0
        return dense

    def endless(self, batch_size: int) -> Iterator[Tensor]:
        """Batch after batch of shuffled users, epoch after epoch."""
        num_users, device = len(self.indptr) - 1, self.indptr.device
        while True:
            for user_ids in torch.randperm(num_users, device=device).split(batch_size):
                yield self.batch(user_ids)


def timestep_embedding(t: Tensor, size: int) -> Tensor:
    """Sinusoidal embedding, cosines then sines, [B, size]."""
    half = size // 2
    places = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10_000.0) * places / half)
    angles = t[:, None].float() * frequencies[None]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return nn.functional.pad(embedding, (0, size - 2 * half))


class Denoiser(nn.Module):
    """An MLP with tanh on [dropout(x_t), Linear(embedding of t)] that predicts x_0."""

    def __init__(self, num_items: int, dims: Sequence[int], time_embedding_size: int, dropout: float):
        super().__init__()
        self.time_embedding_size = time_embedding_size
        self.time_layer = nn.Linear(time_embedding_size, time_embedding_size)
        sizes = [num_items + time_embedding_size, *reversed(dims), *dims[1:], num_items]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)
        for layer in [self.time_layer, *self.layers]:
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (layer.in_features + layer.out_features)))
            nn.init.normal_(layer.bias, 0.0, 0.001)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B, I] and t [B] to x_0 [B, I]."""
        embedding = self.time_layer(timestep_embedding(t, self.time_embedding_size))
        hidden = torch.cat([self.dropout(x_t), embedding], dim=-1)
        for layer in self.layers[:-1]:
            hidden = torch.tanh(layer(hidden))
        return self.layers[-1](hidden)


class Diffusion:
    """Tables of a linear-variance schedule, the training loss with importance sampling of t, and the reverse chain."""

    def __init__(self, num_timesteps: int, noise_scale: float, noise_min: float, noise_max: float, beta_fixed: bool):
        self.num_timesteps = num_timesteps
        variances = noise_scale * np.linspace(noise_min, noise_max, num_timesteps)
        previous = np.concatenate([[0.0], variances[:-1]])
        betas = np.minimum((variances - previous) / (1.0 - previous), 0.999)
        if beta_fixed:
            betas[0] = FIXED_FIRST_BETA
        abar = np.cumprod(1.0 - betas)
        previous_abar = np.concatenate([[1.0], abar[:-1]])
        # 1 - abar as a sum of positive terms: float64 would lose digits of the smallest ones by subtracting.
        one_minus = np.cumsum(previous_abar * betas)
        previous_one_minus = np.concatenate([[0.0], one_minus[:-1]])
        weights = np.ones_like(betas)
        weights[1:] = previous_abar[1:] / previous_one_minus[1:] - abar[1:] / one_minus[1:]
        self.sqrt_abar = torch.from_numpy(np.sqrt(abar))
        self.sqrt_one_minus = torch.from_numpy(np.sqrt(one_minus))
        self.mean_x0 = torch.from_numpy(betas * np.sqrt(previous_abar) / one_minus)
        self.mean_xt = torch.from_numpy(np.sqrt(1.0 - betas) * previous_one_minus / one_minus)
        self.loss_weights = torch.from_numpy(weights)
        self.history = torch.zeros(num_timesteps, HISTORY_LENGTH, dtype=torch.float64)
        self.counts = torch.zeros(num_timesteps, dtype=torch.int64)

    def to(self, device: str) -> "Diffusion":
        """Moves every table to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    @staticmethod
    def _at(table: Tensor, t: Tensor) -> Tensor:
        return table[t].float()[:, None]

    def sample_timesteps(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """t [B] and T p_t [B], by which the losses are divided."""
        if not bool((self.counts == HISTORY_LENGTH).all()):
            where = self.counts.device
            return torch.randint(0, self.num_timesteps, (batch_size,), device=where), torch.ones(
                batch_size, device=where
            )
        weights = torch.sqrt(torch.mean(self.history**2, dim=-1))
        probabilities = weights / weights.sum() * (1 - UNIFORM_MIX) + UNIFORM_MIX / self.num_timesteps
        t = torch.multinomial(probabilities, num_samples=batch_size, replacement=True)
        return t, (probabilities[t] * self.num_timesteps).float()

    def update_history(self, t: Tensor, losses: Tensor) -> None:
        """Appends each row's loss to the list of its timestep, a row at a time."""
        for step, loss in zip(t, losses):
            if self.counts[step] == HISTORY_LENGTH:
                self.history[step, :-1] = self.history[step, 1:].clone()
                self.history[step, -1] = loss
            else:
                self.history[step, self.counts[step]] = loss
                self.counts[step] += 1

    def losses(self, model: nn.Module, x_0: Tensor, t: Tensor) -> Tensor:
        """Each row's weighted loss at its timestep, [B]."""
        x_t = self._at(self.sqrt_abar, t) * x_0 + self._at(self.sqrt_one_minus, t) * torch.randn_like(x_0)
        return self.loss_weights[t].float() * torch.mean((model(x_t, t) - x_0) ** 2, dim=1)

    def training_loss(self, model: nn.Module, x_0: Tensor) -> Tensor:
        """The batch's loss, a scalar; updates the loss history."""
        t, divisor = self.sample_timesteps(len(x_0))
        losses = self.losses(model, x_0, t)
        self.update_history(t, losses.detach())
        return (losses / divisor).mean()

    @torch.no_grad()
    def sample(self, model: nn.Module, x_0: Tensor) -> Tensor:
        """Scores [B, I]: all T reverse steps from x_0 (T' = 0, no sampling noise), each at full width."""
        x_t = x_0
        for step in reversed(range(self.num_timesteps)):
            t = torch.full((len(x_t),), step, device=x_t.device)
            x_t = self._at(self.mean_x0, t) * model(x_t, t) + self._at(self.mean_xt, t) * x_t
        return x_t


class LoopFreeDiffusion(Diffusion):
    """The same with a loss history that is kept by array operations, and nothing that waits for the device.

    The history is that of the loop: the last ten losses of each timestep, the newest at the end.
    """

    def sample_timesteps(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """t [B] and T p_t [B]: uniform until every timestep has its history."""
        weights = torch.sqrt(torch.mean(self.history**2, dim=-1))
        uniform = torch.full_like(weights, 1.0 / self.num_timesteps)
        known = weights / weights.sum() * (1 - UNIFORM_MIX) + UNIFORM_MIX / self.num_timesteps
        probabilities = torch.where((self.counts == HISTORY_LENGTH).all(), known, uniform)
        t = torch.multinomial(probabilities, num_samples=batch_size, replacement=True)
        return t, (probabilities[t] * self.num_timesteps).float()

    def update_history(self, t: Tensor, losses: Tensor) -> None:
        """Appends each row's loss to the list of its timestep."""
        fresh = torch.bincount(t, minlength=self.num_timesteps)
        places = torch.arange(HISTORY_LENGTH, device=t.device) + fresh[:, None]
        old = self.history.gather(1, places.clamp(max=HISTORY_LENGTH - 1))
        shifted = torch.where(places < HISTORY_LENGTH, old, 0.0)
        order = torch.argsort(t, stable=True)
        of = t[order]
        rank = torch.arange(len(t), device=t.device) - (torch.cumsum(fresh, 0) - fresh)[of]
        # Column 0 takes what is older than the list is long.
        place = (HISTORY_LENGTH - fresh[of] + rank + 1).clamp(min=0)
        padded = nn.functional.pad(shifted, (1, 0))
        padded[of, place] = losses[order].double()
        self.history = padded[:, 1:].contiguous()
        self.counts = (self.counts + fresh).clamp(max=HISTORY_LENGTH)


def make_peer(
    config: DiffRecConfig, num_items: int, device: str = "cpu", of: type[Diffusion] = Diffusion
) -> tuple[Diffusion, Denoiser]:
    """The peer of a DiffRec over ``num_items`` items, on a PyTorch device.

    Raises:
      ValueError: the configuration is none of those of the released runs, which are all that the peer knows.
    """
    known = DiffRecConfig(
        dims=config.dims,
        num_timesteps=config.num_timesteps,
        noise_scale=config.noise_scale,
        noise_min=config.noise_min,
        noise_max=config.noise_max,
        beta_fixed=config.beta_fixed,
        time_embedding_size=config.time_embedding_size,
        dropout=config.dropout,
        folded=config.folded,
    )
    if config != known:
        raise ValueError(f"the peer has no such model: {config}")
    diffusion = of(config.num_timesteps, config.noise_scale, config.noise_min, config.noise_max, config.beta_fixed)
    model = Denoiser(num_items, config.dims, config.time_embedding_size, config.dropout)
    return diffusion.to(device), model.to(device)


@torch.no_grad()
def load_weights(model: Denoiser, params: Mapping[str, Any]) -> None:
    """Copies the parameters of a ``diffrec_jax.MLPDenoiser`` into the peer's network."""

    def copy(layer: Any, kernel: Any, bias: Any) -> None:
        layer.weight.copy_(torch.from_numpy(np.array(kernel)).T)
        layer.bias.copy_(torch.from_numpy(np.array(bias)))

    tree = params["params"]
    copy(model.time_layer, **tree["time_layer"])
    copy(model.layers[0], np.concatenate([tree["input_kernel"], tree["time_kernel"]]), tree["input_bias"])
    for place, layer in enumerate(model.layers[1:-1]):
        copy(layer, **tree[f"hidden_layers_{place}"])
    copy(model.layers[-1], tree["output_layer"]["table"].T, tree["output_layer"]["bias"])


def mask_seen(scores: Tensor, seen: sparse.csr_array) -> Tensor:
    """Scores [B, I] with -inf, in place, at the nonzeros of ``seen`` [B, I]."""
    rows, items = seen.nonzero()
    scores[rows, items] = -torch.inf
    return scores


@torch.no_grad()
def recommend(diffusion: Diffusion, model: nn.Module, x_0: Tensor, seen: sparse.csr_array, k: int) -> Tensor:
    """Ids of the k best unseen items of each row, [B, k]."""
    return torch.topk(mask_seen(diffusion.sample(model, x_0), seen), k).indices


def ranking_metrics(ranked: list[list[int]], relevant: list[set[int]], ks: Sequence[int]) -> dict[str, float]:
    """Averages over all users, those without relevant items counting 0, by name (``recall@20``)."""
    means = {}
    for k in ks:
        precision = recall = ndcg = mrr = 0.0
        for items, truth in zip(ranked, relevant):
            if not truth:
                continue
            hits, gain, ideal_gain, reciprocal_rank = 0, 0.0, 0.0, 0.0
            for rank in range(k):
                if rank < len(truth):
                    ideal_gain += 1.0 / math.log2(rank + 2)
                if items[rank] in truth:
                    hits += 1
                    gain += 1.0 / math.log2(rank + 2)
                    reciprocal_rank = reciprocal_rank or 1.0 / (rank + 1)
            precision += hits / k
            recall += hits / len(truth)
            ndcg += gain / ideal_gain
            mrr += reciprocal_rank
        for name, total in zip(METRICS, (precision, recall, ndcg, mrr)):
            means[f"{name}@{k}"] = total / len(ranked)
    return means


def evaluate(
    diffusion: Diffusion,
    model: nn.Module,
    loader: DataLoader,
    seen: sparse.csr_array,
    relevant: sparse.csr_array,
    ks: Sequence[int],
) -> dict[str, float]:
    """One split: scores, masks and ranks every batch of ``loader``, whose users are the rows of ``seen`` in order."""
    model.eval()
    ranked: list[list[int]] = []
    for x_0 in loader:
        seen_rows = seen[len(ranked) : len(ranked) + len(x_0)]
        ranked.extend(recommend(diffusion, model, x_0, seen_rows, max(ks)).tolist())
    truth = [set(relevant.indices[start:end].tolist()) for start, end in zip(relevant.indptr, relevant.indptr[1:])]
    return ranking_metrics(ranked, truth, ks)
