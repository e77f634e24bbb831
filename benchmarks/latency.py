"""How long does a request take that recommends 20 items to one user, and to 256, beside plain PyTorch?

From the users' ids to their lists: rows made on the host, the whole reverse chain, seen items masked, top 20. Both
sides are asked again and again, as a service is; what is compiled or folded once is not counted.

python -m benchmarks.latency --shape=ml-1m
"""

from benchmarks.harness import Benchmark, Measurement, Row, Shape, Work, init_rankable_params, run, time_interleaved
from benchmarks.sampling import OurSampling, PeerSampling, check_agreement
from diffrec_jax.data import Dataset

NUM_USERS, K = (1, 256), 20
REQUESTS = 10
"""In a row, for one timing: a single request of one user is too short."""


def requests(side: OurSampling | PeerSampling) -> Work:
    """So many requests, one after the other."""

    def work() -> None:
        for _ in range(REQUESTS):
            side.recommend()

    return work


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """Requests of the largest number of users."""
    params, largest = init_rankable_params(shape, dataset), NUM_USERS[-1]
    if side == "peer":
        return requests(PeerSampling(shape, dataset, params, num_users=largest, k=K))
    return requests(OurSampling(shape, dataset, params, num_users=largest, k=K))


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that the sides agree, and times them."""
    params, rows, notes = init_rankable_params(shape, dataset), [], []
    for num_users in NUM_USERS:
        ours = OurSampling(shape, dataset, params, num_users=num_users, k=K)
        peer = PeerSampling(shape, dataset, params, num_users=num_users, k=K)
        notes.append(f"{num_users} users: {check_agreement(ours, peer)}")
        seconds = time_interleaved({"ours": requests(ours), "peer": requests(peer)}, repeats, warm_up=True)
        one = {name: [value / REQUESTS for value in values] for name, values in seconds.items()}
        flops, is_largest = num_users * shape.folded_flops, num_users == NUM_USERS[-1]
        title = f"a request of {num_users} user{'s' * (num_users > 1)}"
        rows.append(Row(title, one["ours"], one["peer"], flops, has_memory=is_largest))
    return Measurement(rows=rows, notes=notes)


BENCHMARK = Benchmark("latency", make_side, measure, repeats=5)

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
