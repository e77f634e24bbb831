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
      metric: such as recall@20.
    """

    measured = {
        "official": per_user[metric],
        "relevant users": per_user[metric][per_user["num_relevant"] > 0],
        "capped": per_user.get(f"capped_{metric}"),
        **{name: _read(path, name, metric) for name in PROTOCOLS},
    }
    return {
        name: float(np.mean(values, dtype=np.float64))
        for name, values in measured.items()
        if values is not None and len(values)
    }


def _read(path: Path, name: str, metric: str) -> np.ndarray | None:
    """Each user's metric by a protocol; None where it was not measured so."""
    file = protocol_file(path, name)
    if file is None:
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            return archive[metric]
    except UNREADABLE:
        return None
