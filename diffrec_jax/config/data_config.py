"""Which data a run is of, and how they are read."""

import dataclasses
import os
from dataclasses import dataclass
from numbers import Real
from typing import Any

from diffrec_jax.data import NAMED_SPECS, DataError, Dataset, add_random_noise, make_synthetic, read_official
from diffrec_jax.seeds import check_seed


@dataclass(frozen=True)
class DataConfig:
    """Which data."""

    dataset: str
    setting: str
    folder: str | None
    """Where it was found; None for synthetic data."""
    synthetic: dict[str, Any] | None
    tuning_holdout: float = 0.0
    """Newest share of the training rows that is validated with, the test left alone; 0 for the dataset's own splits."""
    random_noise: float = 0.0
    """Random items for each interaction of train and valid."""
    random_noise_seed: int = 0
    """Of the random items; the run's seed does not change them."""
    ratings: bool = False
    """Whether its ratings are read."""
    min_relevant_rating: float | None = None
    """Least rating in valid and test that is relevant to a ranking; None: all that is there is."""

    def __post_init__(self) -> None:
        """Checks the types, which come from config.json."""
        types: dict[str, Any] = {"dataset": str, "setting": str, "folder": str | None, "synthetic": dict | None}
        types |= {"tuning_holdout": Real, "random_noise": Real, "random_noise_seed": int, "ratings": bool}
        for name, kind in (types | {"min_relevant_rating": Real | None}).items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")
        check_seed(self.random_noise_seed, "random_noise_seed")

    def load(self, *, strict_ids: bool = False) -> Dataset:
        """Reads or makes the dataset; then the tuning holdout, and last the noise, so that what is the test has none.

        Raises:
          DataError: it is missing or malformed, its ids have gaps and ``strict_ids``, or there is no such holdout or
            noise; or it has no ratings, or none that is relevant, and they are asked for.
        """
        dataset = self._load(strict_ids=strict_ids)
        if self.tuning_holdout:
            dataset = dataset.tuning_holdout(self.tuning_holdout)
        if self.min_relevant_rating is not None:
            dataset = dataclasses.replace(dataset, min_relevant_rating=self.min_relevant_rating)
        return add_random_noise(dataset, self.random_noise, seed=self.random_noise_seed)

    def _load(self, *, strict_ids: bool) -> Dataset:
        if self.synthetic is not None:
            if self.ratings:
                raise DataError(f"{self.dataset} data have no ratings: take a dataset that was made of a log with them")
            spec = {key: value for key, value in self.synthetic.items() if key != "seed"}
            base = dataclasses.replace(NAMED_SPECS[self.dataset], **spec)
            return make_synthetic(base, seed=self.synthetic["seed"], name=self.dataset)
        assert self.folder is not None
        return read_official(self.folder, strict_ids=strict_ids, ratings=self.ratings)


def default_data_dir() -> str:
    """$DIFFREC_DATA_DIR, then data."""
    return os.environ.get("DIFFREC_DATA_DIR") or "data"
