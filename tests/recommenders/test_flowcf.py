import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import SyntheticSpec, make_row_batch, make_synthetic
from diffrec_jax.diffusion import follow_flow
from diffrec_jax.models import MLPDenoiser
from diffrec_jax.recommenders import FlowCFConfig, StepContext, flowcf, make_flowcf
from diffrec_jax.rows import row_keys
from tests.reference import random_params

pytestmark = pytest.mark.once

TRAIN = make_synthetic(SyntheticSpec(num_users=30, num_items=18, num_interactions=200, num_clusters=3)).train
BATCH = make_row_batch(TRAIN, np.arange(6), batch_size=7)
KEYS = row_keys(jax.random.key(0), BATCH)
CLOCK = StepContext(step=np.int32(0), epoch=np.int32(0), key=jax.random.key(0))


def make(**settings):
    return make_flowcf(FlowCFConfig(dims=(8,), **settings), TRAIN), random_params(MLPDenoiser(18, (8,)))


def test_scores_are_those_of_the_flow_from_the_rows():
    recommender, params = make(num_timesteps=4, num_steps_followed=3)
    network = MLPDenoiser(18, (8,))
    rows = jnp.float32(TRAIN[:6].toarray())
    expected = follow_flow(lambda x, t: network.apply(params, x, t), rows, num_steps=4, num_steps_followed=3)
    np.testing.assert_allclose(recommender.score_fn(params, BATCH, KEYS)[:6], expected, rtol=1e-4, atol=1e-5)


def test_what_is_predicted_from_depends_on_the_time_alone_at_its_start():
    """With one step, at time 0, the network sees draws of the prior and nothing of the row: only the target differs."""
    recommender, params = make(num_timesteps=1, num_steps_followed=1, dropout=0.0)
    empty = BATCH._replace(weights=jnp.zeros_like(BATCH.weights), target_weights=BATCH.weights)
    np.testing.assert_allclose(
        recommender.loss_fn(params, (), empty, KEYS, CLOCK)[0],
        recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0],
        rtol=1e-5,
    )


def test_the_prior_is_how_many_users_have_an_item(monkeypatch):
    seen = []

    def sample(x, drawn, time, uniform):
        seen.append(drawn)
        return drawn

    monkeypatch.setattr(flowcf, "flow_sample", sample)
    recommender, params = make()
    batch = make_row_batch(TRAIN, np.arange(30))
    for seed in range(40):
        recommender.loss_fn(params, (), batch, row_keys(jax.random.key(seed), batch), CLOCK)
    counts, draws = np.sum(seen, axis=(0, 1)), 40 * 30
    assert set(np.unique(seen)) == {0, 1}
    share = np.bincount(TRAIN.indices, minlength=18) / 30
    deviation = np.sqrt(draws * share * (1 - share))
    assert np.all(np.abs(counts - draws * share) <= 4 * deviation)


def test_losses_do_not_depend_on_the_other_rows():
    recommender, params = make()
    together = recommender.loss_fn(params, (), BATCH, KEYS, CLOCK)[0]
    last = make_row_batch(TRAIN, np.array([4]))
    alone = recommender.loss_fn(params, (), last, row_keys(jax.random.key(0), last), CLOCK)[0]
    np.testing.assert_allclose(alone[0], together[4], rtol=1e-4)


def test_more_steps_than_there_are_cannot_be_followed():
    with pytest.raises(ValueError, match="num_steps_followed must be at most num_timesteps 2, got 3"):
        FlowCFConfig(num_timesteps=2, num_steps_followed=3)
