"""How long does a whole evaluation take, validation and test of every user, beside plain PyTorch?

Ours scores each user once for both splits, in the hidden space, and counts on the device; folding the weights is part
of the time. The peer runs the reverse chain at full width once per split and computes the metrics in Python. Our
process keeps the memory that a batch frees, as the scripts do; the peer's, another one, does not. Yelp and amazon-book
take a sample of the users.

python -m benchmarks.evaluation --shape=ml-1m
"""

import dataclasses

import jax
import numpy as np
from absl import flags

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
from benchmarks.torch_peer import evaluate, load_weights, make_loader, make_peer
from diffrec_jax.data import Dataset
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.evaluation import DEFAULT_KS, Evaluator, evaluate_dataset
from diffrec_jax.recommenders import make_diffrec
from diffrec_jax.typing import Params
from experiments.flags import FLAGS

MAX_DIFFERENCE = 1e-4
SAMPLE_USERS = 2000
Means = dict[str, dict[str, float]]
"""Averages by split and metric."""


class OurEvaluation:
    """The library's evaluation of one parameter set."""

    def __init__(self, shape: Shape, dataset: Dataset, params: Params):
        recommender = make_diffrec(shape.recommender, dataset.num_items)
        self.dataset, self.params = dataset, params
        self._prepare_scoring = jax.jit(recommender.prepare_scoring)
        self._evaluator = Evaluator(recommender.score_fn, batch_size=shape.training.batch_size)

    def evaluate(self) -> Means:
        """Averages of both splits, from the parameters."""
        results = evaluate_dataset(self._evaluator, self._prepare_scoring(self.params), self.dataset)
        return {split: result.mean() for split, result in results.items()}


class PeerEvaluation:
    """The same by the peer; its own untrained weights unless ``params`` are given."""

    def __init__(self, shape: Shape, dataset: Dataset, params: Params | None = None):
        self.dataset = dataset
        self.diffusion, self.model = make_peer(shape.recommender, dataset.num_items)
        if params is not None:
            load_weights(self.model, params)
        self.rows = make_loader(dataset.train, shape.training.batch_size, shuffle=False)

    def evaluate(self) -> Means:
        """Averages of both splits, one pass each."""
        data = self.dataset
        splits = {"valid": (data.train, data.valid), "test": (data.train_and_valid, data.test)}
        return {
            split: evaluate(self.diffusion, self.model, self.rows, seen, relevant, DEFAULT_KS)
            for split, (seen, relevant) in splits.items()
        }


def check_agreement(ours: OurEvaluation, peer: PeerEvaluation) -> str:
    """Asserts that both sides find the same averages, and says how much they differ.

    Raises:
      DisagreementError: some average differs by more than 1e-4.
    """
    our_means, peer_means = ours.evaluate(), peer.evaluate()
    differences = {
        f"{split} {name}": abs(our_means[split][name] - value)
        for split, values in peer_means.items()
        for name, value in values.items()
    }
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= MAX_DIFFERENCE:
        raise DisagreementError(f"{worst} differs by {differences[worst]:.1e} between ours and the peer")
    return (
        f"{len(differences)} averages differ by at most {differences[worst]:.1e}; "
        f"test recall@20 is {our_means['test']['recall@20']:.4f}"
    )


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """The evaluation by either side."""
    if side == "peer":
        return PeerEvaluation(shape, dataset).evaluate
    return OurEvaluation(shape, dataset, init_rankable_params(shape, dataset)).evaluate


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that the sides agree, and times them."""
    params = init_rankable_params(shape, dataset)
    ours, peer = OurEvaluation(shape, dataset, params), PeerEvaluation(shape, dataset, params)
    found = check_agreement(ours, peer)
    del peer
    alone = OwnProcess(BENCHMARK.name, "peer")
    seconds = time_interleaved({"ours": ours.evaluate, "peer": alone}, repeats, warm_up=False)
    alone.close()
    flops = dataset.num_users * shape.folded_flops + shape.folding_flops
    title = f"valid and test, {dataset.num_users:,} users"
    return Measurement(
        rows=[Row(title, seconds["ours"], seconds["peer"], flops, has_memory=True)], notes=[f"ours and peer: {found}"]
    )


def select_users(shape: Shape, dataset: Dataset) -> Dataset:
    """All users of ml-1m, a fixed random sample of the others, or as many as --users says."""
    num_users = FLAGS.users or (dataset.num_users if shape.name == "ml-1m" else SAMPLE_USERS)
    users = np.sort(np.random.default_rng(0).permutation(dataset.num_users)[:num_users])
    splits = {split: getattr(dataset, split)[users] for split in SPLITS}
    return dataclasses.replace(dataset, **splits)


BENCHMARK = Benchmark("evaluation", make_side, measure, repeats=3, select_users=select_users)

if __name__ == "__main__":
    flags.DEFINE_integer(
        "users", 0, f"Users to evaluate; 0 for all of ml-1m and {SAMPLE_USERS} of the others.", lower_bound=0
    )
    run(BENCHMARK, __doc__)
