"""The parts of a configuration but for the model's own: what rows hold, item groups, how results are measured."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.data import (
    EMBEDDING_GROUPINGS,
    NO_WEIGHTING,
    RECENCY_FORMS,
    Dataset,
    GroupingMethod,
    RowWeighting,
    group_items,
    parse_recency,
    read_item_embeddings,
    svd_item_embeddings,
)
from diffrec_jax.evaluation import DEFAULT_KS, AveragingMode
from diffrec_jax.recommenders import RowValues
from diffrec_jax.registry import ModelFamily
from diffrec_jax.settings import check_settings, seed_setting, setting
from diffrec_jax.training.train_config import TrainConfig


class ConfigError(ValueError):
    """A configuration that is not valid; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class RecencyConfig:
    """What rows hold, and recency weights, as ``parse_recency`` reads them.

    Raises:
      ValueError: one is not understood, or ratings are to be weighed.
    """

    train_recency: str = setting("none", f"Weights of the training rows, in time order: {RECENCY_FORMS}.")
    target_recency: str | None = setting(None, "Weights of the target row (default: those of the training row).")
    infer_recency: str | None = setting(None, "Weights of the rows scored from (default: as in training).")
    row_values: RowValues = setting(
        "ones",
        "What rows hold, x_0. ones: 1 at each interaction; ratings: rating / largest rating; residuals: what the "
        "biases of users and items leave of the rating.",
    )

    def __post_init__(self) -> None:
        """Parses every text once."""
        check_settings(self)
        made = self.make()
        if self.hold_ratings and RowWeighting(made.train, made.target, made.infer) != NO_WEIGHTING:
            raise ValueError(
                f"row_values {self.row_values} and recency weights would change each other: leave one of them out"
            )

    @property
    def hold_ratings(self) -> bool:
        """Whether rows hold ratings, in one form or another."""
        return self.row_values != "ones"

    def make(self) -> RowWeighting:
        """The weights."""
        train, target, infer = self.train_recency, self.target_recency, self.infer_recency
        return RowWeighting(
            train=parse_recency(train),
            target=None if target is None else parse_recency(target),
            infer=parse_recency(train if infer is None else infer),
            of_ratings=self.hold_ratings,
        )


@dataclass(frozen=True)
class GroupsConfig:
    """How the item groups of a latent model are made."""

    num_groups: int = setting(2, "C, item groups, each with an encoder.", at_least=1, aliases=("n_cate",))
    grouping: GroupingMethod = setting(
        "kmeans",
        "How items are grouped: kmeans on item embeddings, or on their directions alone (spherical_kmeans), spectral "
        "co-clustering of interactions, leiden communities of the graph of nearest items, popularity strata, random.",
    )
    item_embeddings: str = setting(
        "svd",
        "What kmeans clusters: svd of the training split, lightgcn trained on it first, or a .npy file [items, size], "
        "looked for as given and in the dataset's folder.",
        is_path=True,
    )
    svd_size: int = setting(64, "Size of the svd item embeddings.", at_least=1)
    groups_seed: int = seed_setting(0, "Seed of the grouping; the run's seed does not change it.")

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)

    @property
    def needs_embeddings(self) -> bool:
        """Whether item embeddings are used."""
        return self.grouping in EMBEDDING_GROUPINGS and self.num_groups > 1

    def embeddings_file(self, folder: str | None) -> Path | None:
        """The file of item embeddings; None where they are made."""
        if not self.needs_embeddings or self.item_embeddings in ("svd", "lightgcn"):
            return None
        path = Path(self.item_embeddings)
        in_folder = Path(folder or ".") / path
        return in_folder if in_folder.exists() and not path.exists() else path

    def make(self, dataset: Dataset, folder: str | None, train_embeddings: Callable[[str], np.ndarray]) -> np.ndarray:
        """The group of each item, [I]; ``train_embeddings`` gives those of a --model trained for them.

        Raises:
          DataError: the embeddings are missing or wrong, or the items cannot be grouped so.
        """
        embeddings = None
        file = self.embeddings_file(folder)
        if file is not None:
            embeddings = read_item_embeddings(file, dataset.num_items, item_ids=dataset.item_ids)
        elif self.needs_embeddings and self.item_embeddings == "svd":
            embeddings = svd_item_embeddings(dataset.train, self.svd_size, seed=self.groups_seed)
        elif self.needs_embeddings:
            embeddings = train_embeddings("lightgcn")
        return group_items(
            self.grouping, self.num_groups, train=dataset.train, embeddings=embeddings, seed=self.groups_seed
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How results are measured."""

    ks: tuple[int, ...] = setting(DEFAULT_KS, "List lengths K of the metrics.", aliases=("topN",))
    mode: AveragingMode = setting(
        "official", "official: users without relevant items count as 0; relevant_users: they are left out."
    )
    test_with_valid_input: bool = setting(
        False, "Feed training and validation items for the test (costs a second pass).", aliases=("tst_w_val",)
    )
    eval_users: int = setting(0, "Evaluate a fixed random sample of so many users; 0: all.", at_least=0)
    eval_batch_size: int = setting(400, "Users scored at once.", at_least=1)

    def __post_init__(self) -> None:
        """Checks every value, and sorts the list lengths."""
        check_settings(self)
        object.__setattr__(self, "ks", tuple(sorted(set(self.ks))))

    def user_ids(self, dataset: Dataset) -> np.ndarray | None:
        """The users to evaluate, None for all: a fixed sample, the same for every seed of a run.

        Raises:
          ConfigError: more are asked for than there are.
        """
        users = dataset.evaluated_users
        if self.eval_users > len(users):
            raise ConfigError(f"eval_users is {self.eval_users}, but {dataset.name} has {len(users)} users to evaluate")
        if not self.eval_users:
            return None
        return np.sort(np.random.default_rng(0).permutation(users)[: self.eval_users])


PARTS = ("recommender", "training", "recency", "groups", "evaluation")
"""Of a configuration: fields of a RunConfig whose own fields are the settings."""


def part_classes(family: ModelFamily) -> dict[str, type]:
    """The class of each part that a model has."""
    classes = {"recommender": family.config_class}
    if family.is_trained:
        classes["training"] = TrainConfig
    if family.weighs_rows:
        classes["recency"] = RecencyConfig
    if family.has_item_groups:
        classes["groups"] = GroupsConfig
    return classes | {"evaluation": EvaluationConfig}


def settings_by_part(family: ModelFamily, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings sorted into the parts of a configuration that have them.

    Raises:
      ConfigError: the model has no such setting.
    """
    classes = part_classes(family)
    names = {part: {field.name for field in dataclasses.fields(classes[part])} for part in classes}
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in settings.items():
        part = next((part for part in names if name in names[part]), None)
        if part is None or (name == "target_recency" and not family.is_trained):
            own = set().union(*names.values()) - (set() if family.is_trained else {"target_recency"})
            known = ", ".join(sorted(own))
            raise ConfigError(f"{family.title} has no setting {name}: leave it out (its settings: {known})")
        found[part][name] = tuple(value) if isinstance(value, list) else value
    return found


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    """The values with lists, as JSON and TOML have them, as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
