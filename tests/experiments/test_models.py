import dataclasses

import jax
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import Clock
from diffrec_jax.rows import row_keys
from diffrec_jax.training.loop import TrainConfig
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import make_train_step
from experiments.models import MODELS

DATASET = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=900, num_clusters=4))
SMALL = {
    "dims": (8,),
    "in_dims": (8,),
    "embedding_size": 8,
    "max_length": 10,
    "num_neighbors": 10,
    "num_candidates": 10,
    "rank": 8,
    "num_iterations": 3,
}
GROUPS = np.arange(50) % 2


def small(model):
    family = MODELS[model]
    return family.config_class(**{name: value for name, value in SMALL.items() if name in family.fields})


@pytest.mark.parametrize("model", [name for name, family in MODELS.items() if family.is_trained])
def test_training_lowers_the_loss_of_every_model(model):
    """The loss of the same users with the same draws, before and after 30 steps."""
    recommender = MODELS[model].make(small(model), DATASET, GROUPS, None)
    optimizer = TrainConfig(lr=0.02, weight_decay=0.0).make_optimizer()
    step = jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=1))
    batch = make_row_batch(DATASET.train, np.arange(40))

    @jax.jit
    def loss(state):
        clock = Clock(step=np.int32(10_000), epoch=np.int32(0), key=jax.random.key(0))
        losses, _ = recommender.loss_fn(
            state.params, recommender.init_model_state(), batch, row_keys(jax.random.key(1), batch), clock
        )
        return losses.mean()

    state = init_train_state(recommender, optimizer, jax.random.key(0))
    before = loss(state)
    for _ in range(30):
        state = step(state, batch, jax.random.key(0))
    assert loss(state) < 0.95 * before
    scores = recommender.score_fn(recommender.prepare_scoring(state.params), batch, row_keys(jax.random.key(0), batch))
    assert scores.shape == (40, 50) and np.all(np.isfinite(scores))


@pytest.mark.parametrize("model", [name for name, family in MODELS.items() if not family.is_trained])
def test_every_fitted_model_scores_a_users_items_above_others(model):
    recommender = MODELS[model].make(small(model))
    state = jax.device_put(recommender.fit(DATASET.train))
    batch = make_row_batch(DATASET.train, np.arange(40), batch_size=41)
    scores = np.asarray(jax.jit(recommender.score_fn)(state, batch, row_keys(jax.random.key(0), batch)))
    assert scores.shape == (41, 50) and np.all(np.isfinite(scores))
    held = DATASET.train.toarray() > 0
    assert scores[:40][held].mean() > scores[:40][~held].mean()
    assert recommender.fit_bytes(DATASET.train) > sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_titles_and_fields_are_unambiguous():
    titles = [family.title for family in MODELS.values()]
    assert len(set(titles)) == len(titles)
    assert {name for name, family in MODELS.items() if not family.is_seeded} == {
        "popularity", "itemknn", "rp3beta", "ease", "t_ease", "slim",
    }  # fmt: skip
    for family in MODELS.values():
        assert dataclasses.is_dataclass(family.config_class)
