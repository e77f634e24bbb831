"""How long does a request take that recommends 20 items to one user, and to 256, beside plain PyTorch?

From the users' ids to their lists: rows made on the host, the whole reverse chain, seen items masked, top 20. Both
sides are asked again and again, as a service is; what is compiled or folded once is not counted. The table has means of
several requests; below it are the 50th and the 99th percentile of all of ours and of the peer's.

python -m benchmarks.latency --shape=ml-1m
"""

import time

import numpy as np

from benchmarks.harness import Benchmark, Measurement, Row, Shape, Work, init_rankable_params, run, time_interleaved
from benchmarks.sampling import OurSampling, PeerSampling, check_agreement
from diffrec_jax.data import Dataset

K = 20
REQUESTS = {1: 100, 256: 10}
"""By number of users: so many in a row for one timing, as a single request of one user is too short."""


class Requests:
    """So many requests, one after the other; the seconds of each are kept."""

    def __init__(self, side: OurSampling | PeerSampling, number: int):
        self.side, self.number = side, number
        self.seconds: list[float] = []

    def __call__(self) -> None:
        """Asks."""
        for _ in range(self.number):
            started = time.perf_counter()
            self.side.recommend()
            self.seconds.append(time.perf_counter() - started)

    def percentiles(self) -> str:
        """Of all but the first round, which compiles."""
        median, high = np.percentile(self.seconds[self.number :], (50, 99))
        return f"p50 {1000 * median:.2f} ms, p99 {1000 * high:.2f} ms"


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
        seconds = time_interleaved(works, repeats, warm_up=True)
        notes += [f"{num_users} users, {name}: {work.percentiles()}" for name, work in works.items()]
        one = {name: [value / number for value in values] for name, values in seconds.items()}
        flops, is_largest = num_users * shape.folded_flops, num_users == max(REQUESTS)
        title = f"a request of {num_users} user{'s' * (num_users > 1)}"
        rows.append(Row(title, one["ours"], one["peer"], flops, has_memory=is_largest))
    return Measurement(rows=rows, notes=notes)


BENCHMARK = Benchmark("latency", make_side, measure, repeats=5)

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
