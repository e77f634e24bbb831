"""Other ways to measure a run, which change what papers conclude: files of users' metrics beside the run's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.assembly import HOW
from diffrec_jax.files import UNREADABLE
from diffrec_jax.training.run_directory import CONFIG_DIGEST

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


def of_protocol(path: Path, name: str, results: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The users' metrics of a run by a protocol; None where they are not there whole, or are of other results."""
    try:
        with np.load(path / FILES[name], allow_pickle=False) as archive:
            found = dict(archive)
        how = json.loads(str(found.pop(HOW)))
    except UNREADABLE:
        return None
    return found if how.get("config_sha256") == results.get(CONFIG_DIGEST) else None


def by_protocol(path: Path, results: dict[str, Any], per_user: dict[str, np.ndarray], metric: str) -> dict[str, float]:
    """A test metric of a run by each protocol that it was measured by.

    Args:
      path: of the run.
      results: of the run.
      per_user: its own users' metrics, and ``num_relevant``.
      metric: such as recall@20.
    """

    measured = {
        "official": per_user[metric],
        "relevant users": per_user[metric][per_user["num_relevant"] > 0],
        "capped": per_user.get(f"capped_{metric}"),
        **{name: (of_protocol(path, name, results) or {}).get(metric) for name in PROTOCOLS},
    }
    return {
        name: float(np.mean(values, dtype=np.float64))
        for name, values in measured.items()
        if values is not None and len(values)
    }
