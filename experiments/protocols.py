"""Other ways to measure a run, which change what papers conclude: files of users' metrics beside the run's own."""

from pathlib import Path

import numpy as np

from diffrec_jax.files import UNREADABLE

PROTOCOLS = {
    "valid-in-input": ("--test_with_valid_input",),
    "sampled": ("--sampled_negatives=100",),
}
"""Flags of experiments.evaluate, by name."""
FILES = {
    "valid-in-input": "per_user_test.test_with_valid_input=True.npz",
    "sampled": "per_user_test.num_negatives=100.seed=0.npz",
}
SWITCHES = {
    "official": "all users, hits / relevant items, the training row as input, all items ranked",
    "relevant users": "users without relevant items left out",
    "capped": "hits / min(K, relevant items)",
    "valid-in-input": "training and validation items as input",
    "sampled": "relevant items ranked among 100 sampled unseen ones",
}
"""What is changed in each, from the official protocol."""


def protocol_file(path: Path, name: str) -> Path | None:
    """The users' metrics of a run by a protocol, where they were measured."""
    return path / FILES[name] if (path / FILES[name]).exists() else None


def by_protocol(path: Path, per_user: dict[str, np.ndarray], metric: str) -> dict[str, float]:
    """A test metric of a run by each protocol that it was measured by.

    Args:
      path: of the run.
      per_user: its own users' metrics, and ``num_relevant``.
      metric: recall at some K.
    """

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values, dtype=np.float64))

    found = {
        "official": mean(per_user[metric]),
        "relevant users": mean(per_user[metric][per_user["num_relevant"] > 0]),
        "capped": mean(per_user[f"capped_{metric}"]),
    }
    for name in PROTOCOLS:
        file = protocol_file(path, name)
        if file is not None:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    found[name] = mean(archive[metric])
            except UNREADABLE:
                continue  # measured again by the next experiments.reproduce
    return found
