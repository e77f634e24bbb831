"""A trained or fitted model, ready to score: its functions, its parameters and the interactions it knows."""

import contextlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.assembly import score_fn_for
from diffrec_jax.config import RunConfig
from diffrec_jax.data import Dataset
from diffrec_jax.data.batching import RowBatch
from diffrec_jax.devices import DeviceStrategy, make_strategy
from diffrec_jax.recommenders import FittedRecommender, Recommender
from diffrec_jax.registry import MODELS, Context, ModelFamily
from diffrec_jax.rows import mask_scores, row_keys


@dataclass(frozen=True)
class Model:
    """A trained or fitted model and the interactions it knows. Made by ``fit`` and ``load``."""

    config: RunConfig
    dataset: Dataset
    """Its training rows are what known users are recommended from."""
    parameters: Any
    """Host arrays: parameters of a trained model, the scoring state of a fitted one."""
    item_groups: np.ndarray | None = None

    @property
    def family(self) -> ModelFamily:
        """What the registry knows of it."""
        return MODELS[self.config.model]

    @cached_property
    def functions(self) -> Recommender | FittedRecommender:
        """The model's functions; a linear part is among the parameters already."""
        context = Context(self.dataset.learnt, self.item_groups, fit_linear=_is_fitted_already)
        return (
            self.config.make_recommender(context) if self.family.is_trained else self.config.make_fitted(self.dataset)
        )

    @cached_property
    def devices(self) -> DeviceStrategy:
        """All local devices."""
        return make_strategy(num_items=self.dataset.num_items)

    @cached_property
    def numbers(self) -> dict[str, dict[Any, int]]:
        """Number by original id, of every ``user`` and ``item``."""
        ids = {"user": self.dataset.original_user_ids, "item": self.dataset.original_item_ids}
        return {kind: {value: number for number, value in enumerate(own.tolist())} for kind, own in ids.items()}

    @cached_property
    def known_rows(self) -> sparse.csr_array:
        """What known users are scored from, [U, I]: their training rows, as the model sees them."""
        weighting = self.config.recency.make()
        return weighting.rows(self.dataset, "train", weighting.infer)

    @cached_property
    def scoring_state(self) -> Any:
        """What it scores with, placed."""
        placed = self.devices.place(self.parameters)
        functions = self.functions
        if isinstance(functions, FittedRecommender):
            return placed
        with self.precision():
            return self.devices.compile(functions.prepare_scoring)(placed)

    @cached_property
    def rank(self) -> Any:
        """(k, of new users) -> compiled (scoring state, inputs, seen, allowed items [I]) -> the k best.

        Whether each row's scores can be ranked, the best scores and their places.
        """
        devices, functions = self.devices, self.functions

        @cache
        def rank_of(k: int, of_new_users: bool) -> Any:
            score_fn = functions.score_new_fn if of_new_users else None
            score_fn = score_fn or score_fn_for(functions, self.dataset, self.family)

            def rank(state: Any, inputs: RowBatch, seen: RowBatch, allowed: jax.Array):
                # What a new user is drawn must not depend on who else is asked for.
                drawn_by = inputs._replace(user_ids=jnp.zeros_like(inputs.user_ids)) if of_new_users else inputs
                scores = score_fn(state, inputs, row_keys(self.config.make_key(), drawn_by))
                can_be_ranked = jnp.all(scores < jnp.inf, axis=1)
                masked = mask_scores(jnp.where(allowed[None], scores, -jnp.inf), seen)
                return can_be_ranked, *devices.top_k(masked, k)

            return devices.compile(rank, gives_rows=True)

        return rank_of

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """Products within are as the configuration says."""
        return jax.default_matmul_precision(self.config.matmul_precision)


def _is_fitted_already(*_: Any) -> Any:
    raise AssertionError("a saved linear part is not fitted again")
