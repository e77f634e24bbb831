"""How long does it take to recommend 100 items to each of 400 users, beside plain PyTorch?

The whole reverse chain (T steps from the training row, T' = 0), seen items masked, top 100. Ours runs the chain in the
hidden space and decodes once, after a product of the weights that is done once per parameter set and shown as a row of
its own; so is our plain chain, which runs at full width as the peer's does. Each row's floor counts its own products.
Our process keeps the memory that a batch frees, as ``experiments.recommend`` does; the peer's, another one, does not.

python -m benchmarks.sampling --shape=amazon-book
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from scipy import sparse
from torch import Tensor

from benchmarks.harness import (
    Benchmark,
    DisagreementError,
    Measurement,
    OwnProcess,
    Row,
    Shape,
    Work,
    init_rankable_params,
    run,
    time_interleaved,
)
from benchmarks.torch_peer import DenseRows, load_weights, make_peer, recommend
from diffrec_jax.data import Dataset, RowBatch, make_row_batch
from diffrec_jax.evaluation import top_k_items
from diffrec_jax.recommenders import make_diffrec
from diffrec_jax.rows import row_keys
from diffrec_jax.serving.recommend import LEAST_ROWS
from diffrec_jax.typing import Params

K = 100
MAX_SCORE_DIFFERENCE = 1e-4
MIN_OVERLAP = 0.99


class OurSampling:
    """The library's functions for one parameter set, the first users and lists of k items."""

    def __init__(
        self,
        shape: Shape,
        dataset: Dataset,
        params: Params,
        *,
        folded: bool = True,
        num_users: int | None = None,
        k: int = K,
    ):
        config = dataclasses.replace(shape.recommender, folded=folded)
        recommender = make_diffrec(config, dataset.num_items)
        self.dataset, self.params, self.make_key = dataset, params, shape.training.make_key
        self.users = np.arange(min(num_users or shape.training.batch_size, dataset.num_users))
        self._prepare_scoring = jax.jit(recommender.prepare_scoring)
        self._score_fn = recommender.score_fn
        self._score = jax.jit(self._score_batch)
        self._recommend = jax.jit(lambda state, inputs, seen: top_k_items(self._score_batch(state, inputs), seen, k)[0])
        self.prepare()

    def _score_batch(self, state: Any, inputs: RowBatch) -> jax.Array:
        return self._score_fn(state, inputs, row_keys(self.make_key(), inputs))

    def prepare(self) -> None:
        """What is done once per parameter set."""
        self.state = jax.block_until_ready(self._prepare_scoring(self.params))

    def scores(self) -> np.ndarray:
        """Scores of every item, [400, I]."""
        return np.asarray(self._score(self.state, self._rows(self.dataset.train)))[: len(self.users)]

    def recommend(self) -> np.ndarray:
        """Ids of the best unseen items, [users, k]."""
        inputs, seen = self._rows(self.dataset.train), self._rows(self.dataset.train_and_valid)
        return np.asarray(self._recommend(self.state, inputs, seen))[: len(self.users)]

    def _rows(self, matrix: sparse.csr_array) -> RowBatch:
        return make_row_batch(matrix, self.users, batch_size=max(len(self.users), LEAST_ROWS))


class PeerSampling:
    """The same by the peer; its own untrained weights unless ``params`` are given."""

    def __init__(
        self,
        shape: Shape,
        dataset: Dataset,
        params: Params | None = None,
        device: str = "cpu",
        *,
        num_users: int | None = None,
        k: int = K,
    ):
        self.device, self.k = device, k
        self.diffusion, self.model = make_peer(shape.recommender, dataset.num_items, device)
        if params is not None:
            load_weights(self.model, params)
        self.model.eval()
        self.users = list(range(min(num_users or shape.training.batch_size, dataset.num_users)))
        self.rows, self.seen = DenseRows(dataset.train), dataset.train_and_valid

    def _inputs(self) -> Tensor:
        return self.rows.__getitems__(self.users).to(self.device)

    def scores(self) -> Tensor:
        """Scores of every item, [400, I]."""
        return self.diffusion.sample(self.model, self._inputs())

    def recommend(self) -> np.ndarray:
        """Ids of the best unseen items, [users, k]."""
        return recommend(self.diffusion, self.model, self._inputs(), self.seen[self.users], self.k).cpu().numpy()


def check_agreement(ours: OurSampling, peer: PeerSampling) -> str:
    """Asserts that both sides score and recommend alike, ties aside, and says how much.

    Raises:
      DisagreementError: scores differ by more than 1e-4, or less than 99% of the recommendations are the same.
    """
    difference = float(np.abs(ours.scores() - peer.scores().numpy()).max())
    shared = [len(set(a) & set(b)) for a, b in zip(ours.recommend().tolist(), peer.recommend().tolist())]
    overlap = float(np.mean(shared)) / ours.recommend().shape[1]
    found = f"scores differ by at most {difference:.1e}, {overlap:.3%} of the top {peer.k} are the same"
    if not (difference <= MAX_SCORE_DIFFERENCE and overlap >= MIN_OVERLAP):
        raise DisagreementError(found)
    return found


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """The recommendations of either side."""
    if side == "peer":
        return PeerSampling(shape, dataset).recommend
    return OurSampling(shape, dataset, init_rankable_params(shape, dataset)).recommend


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that the sides agree, and times them."""
    params = init_rankable_params(shape, dataset)
    peer = PeerSampling(shape, dataset, params)
    folded, plain = (OurSampling(shape, dataset, params, folded=choice) for choice in (True, False))
    notes = [
        f"folded chain and peer: {check_agreement(folded, peer)}",
        f"plain chain and peer: {check_agreement(plain, peer)}",
    ]
    del peer
    alone = OwnProcess(BENCHMARK.name, "peer")
    works = {"folded": folded.recommend, "peer": alone, "plain": plain.recommend, "folding": folded.prepare}
    seconds = time_interleaved(works, repeats)
    alone.close()
    num_users = len(folded.users)
    folded_flops = num_users * shape.folded_flops
    plain_flops = num_users * shape.recommender.num_timesteps * shape.forward_flops
    return Measurement(
        rows=[
            Row("top 100, folded chain", seconds["folded"], seconds["peer"], folded_flops, has_memory=True),
            Row("top 100, plain chain", seconds["plain"], seconds["peer"], plain_flops),
            Row("once per parameter set: folding", seconds["folding"], flops=shape.folding_flops),
        ],
        notes=notes,
    )


BENCHMARK = Benchmark("sampling", make_side, measure, repeats=5)

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
