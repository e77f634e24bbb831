"""How long does a request take that recommends 20 items to one user, and to 256, beside plain PyTorch?

From the users' ids to their lists: rows made on the host, the whole reverse chain, seen items masked, top 20. Both
sides are asked again and again, as a service is; what is compiled or folded once is not counted. Each timing is the
50th or the 99th percentile of some requests in a row.

python -m benchmarks.latency --shape=ml-1m
"""

import time

import numpy as np

from benchmarks.harness import Benchmark, Measurement, Row, Shape, Work, init_rankable_params, run, time_interleaved
from benchmarks.sampling import OurSampling, PeerSampling, check_agreement
from diffrec_jax.data import Dataset

K = 20
REQUESTS = {1: 100, 256: 10}
"""By number of users: so many in a row for one timing."""
PERCENTILES = (50, 99)


class Requests:
    """So many requests, one after the other; the seconds of each are kept, by round."""

    def __init__(self, side: OurSampling | PeerSampling, number: int):
        self.side, self.number = side, number
        self.rounds: list[list[float]] = []

    def __call__(self) -> None:
        """Asks."""
        seconds = []
        for _ in range(self.number):
            started = time.perf_counter()
            self.side.recommend()
            seconds.append(time.perf_counter() - started)
        self.rounds.append(seconds)

    def percentile(self, q: int) -> list[float]:
        """Of each round but the first, which compiles."""
        return [float(np.percentile(seconds, q)) for seconds in self.rounds[1:]]


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """Requests of the largest number of users."""
    params, largest = init_rankable_params(shape, dataset), max(REQUESTS)
    make = PeerSampling if side == "peer" else OurSampling
    return Requests(make(shape, dataset, params, num_users=largest, k=K), REQUESTS[largest])


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that the sides agree, and times them."""
    params, rows, notes = init_rankable_params(shape, dataset), [], []
    for num_users, number in REQUESTS.items():
        ours = OurSampling(shape, dataset, params, num_users=num_users, k=K)
        peer = PeerSampling(shape, dataset, params, num_users=num_users, k=K)
        notes.append(f"{num_users} users: {check_agreement(ours, peer)}")
        works = {"ours": Requests(ours, number), "peer": Requests(peer, number)}
        time_interleaved(works, repeats, warm_up=True)
        flops, is_largest = num_users * shape.folded_flops, num_users == max(REQUESTS)
        for q in PERCENTILES:
            title = f"a request of {num_users} user{'s' * (num_users > 1)}, p{q}"
            of_ours, of_peer = (works[side].percentile(q) for side in ("ours", "peer"))
            rows.append(Row(title, of_ours, of_peer, flops, has_memory=is_largest and q == PERCENTILES[0]))
    return Measurement(rows=rows, notes=notes)


BENCHMARK = Benchmark("latency", make_side, measure, repeats=5)

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
