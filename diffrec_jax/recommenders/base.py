"""What the trainer and the evaluation know of a model: a tuple of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.typing import Array, Key, Params, RowKeys, ScoreFn


class StepContext(NamedTuple):
    """How far the training is, for what is annealed, int32 scalars from 0; and what belongs to no row."""

    step: Array
    epoch: Array
    key: Key
    """Of the step: for draws that all rows, wherever they are, have in common."""


class Recommender(NamedTuple):
    """A model trained by gradients. B rows, I items; ``model_state`` is what the loss keeps beside the parameters."""

    init_params: Callable[[Key], Params]
    loss_fn: Callable[[Params, Any, RowBatch, RowKeys, StepContext], tuple[Array, Any]]
    """(params, model_state, batch, row_keys [B], context) -> (losses [B] to be averaged, info with leading axis B)."""
    score_fn: ScoreFn
    score_new_fn: ScoreFn | None = None
    """Scores rows of users who are not in the training data, where ``score_fn`` looks at the users' numbers."""
    prepare_scoring: Callable[[Params], Any] = lambda params: params
    """Work done once per parameter set: params -> scoring state."""
    init_model_state: Callable[[], Any] = lambda: ()
    update_model_state: Callable[[Any, Any, Array], Any] = lambda model_state, info, row_mask: model_state
    """(model_state, info of the whole batch, row_mask [B]) -> model_state."""
    warm_start: Callable[[Params], Params] | None = None
    """On the host, before the first step: the initial parameters with what is computed from the training split."""
    holds_params: bool = False
    """Whether some of the parameters are to stay as ``warm_start`` made them: weight decay would shrink them."""
    held_params: str | None = None
    """Key of those parameters that stay as ``warm_start`` made them, where they are whole arrays and params is a dict:
    the optimizer leaves them alone and keeps no moments of them."""
    denoiser_params: str | None = None
    """Key of those parameters that have a learning rate of their own, where params is a dict; None for none."""
    works_on_places: bool = False
    """Whether a step's time grows with the places of a batch: it then comes in more shapes, with less padding."""
    item_embeddings: Callable[[Any], Array] | None = None
    """Scoring state -> [I, D], where the model has vectors of items that are of use elsewhere."""


class FittedRecommender(NamedTuple):
    """A model that is computed, not trained."""

    fit: Callable[[sparse.csr_array], Any]
    """Training split [U, I], its values the training rows' weights -> scoring state."""
    score_fn: ScoreFn
    fit_bytes: Callable[[sparse.csr_array], int]
    """Training split -> memory that fitting and scoring take at their peak, beside the split itself: known before."""
    score_new_fn: ScoreFn | None = None
    """As that of a Recommender."""
