import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models.dropout import row_bernoulli
from diffrec_jax.recommenders import DiffRecConfig, StepContext, fit_linear_denoiser, fit_linear_factors, make_diffrec
from diffrec_jax.recommenders.diffusing import DROPOUT_PLACE
from diffrec_jax.rows import fold_each, row_keys
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import make_train_step
from diffrec_jax.training.train_config import TrainConfig

pytestmark = pytest.mark.once

CONFIG = DiffRecConfig(dims=(6, 12), num_timesteps=4, noise_scale=0.1, noise_min=0.01, noise_max=0.1)
CLOCK = StepContext(step=jnp.int32(0), epoch=jnp.int32(0), key=jax.random.key(5))
SPEC = SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)


@pytest.fixture(scope="module")
def train():
    return make_synthetic(SPEC).train


def num_params(config, num_items):
    params = jax.eval_shape(make_diffrec(config, num_items).init_params, jax.random.key(0))
    return sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("dims", "num_items", "published"),
    [((1000,), 94_949, 190_004_059), ((1000,), 34_395, 68_835_505), ((200, 600), 2_810, 3_622_320)],
)
def test_parameter_counts_are_the_published_ones(dims, num_items, published):
    assert num_params(dataclasses.replace(CONFIG, dims=dims), num_items) == published


@pytest.mark.parametrize("sampling", ["importance", "uniform"])
@pytest.mark.parametrize("prediction_type", ["x0", "epsilon"])
@pytest.mark.parametrize("reweight", [True, False])
def test_losses_do_not_depend_on_the_other_rows(train, sampling, prediction_type, reweight):
    config = dataclasses.replace(CONFIG, timestep_sampling=sampling, prediction_type=prediction_type, reweight=reweight)
    recommender = make_diffrec(config, train.shape[1])
    params = recommender.init_params(jax.random.key(0))
    key = jax.random.key(7)

    def losses(users):
        batch = make_row_batch(train, np.array(users))
        history = recommender.init_model_state()
        return recommender.loss_fn(params, history, batch, row_keys(key, batch), CLOCK)[0]

    together, swapped, alone = losses([3, 5, 9]), losses([9, 3, 5]), losses([5])
    np.testing.assert_allclose(swapped, together[jnp.array([2, 0, 1])], rtol=1e-5)
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)
    assert np.all(np.isfinite(together)) and np.all(together > 0)


def test_the_history_holds_the_weighted_losses_before_importance(train):
    recommender = make_diffrec(CONFIG, train.shape[1])
    params = recommender.init_params(jax.random.key(0))
    batch = make_row_batch(train, np.arange(30), batch_size=32)
    history = recommender.init_model_state()._replace(
        losses=jnp.asarray(np.arange(40.0).reshape(4, 10) + 1, jnp.float32), counts=jnp.full(4, 10)
    )
    losses, (t, weighted) = recommender.loss_fn(params, history, batch, row_keys(jax.random.key(1), batch), CLOCK)
    mean_squares = np.sqrt(np.mean(np.square(np.arange(40.0).reshape(4, 10) + 1), axis=1))
    probabilities = 0.999 * mean_squares / mean_squares.sum() + 0.001 / 4
    np.testing.assert_allclose(losses, weighted / (4 * probabilities[t]), rtol=1e-5)
    updated = recommender.update_model_state(history, (t, weighted), batch.row_mask)
    newest = [float(weighted[np.flatnonzero(np.asarray(t)[:30] == step)[-1]]) for step in range(4)]
    np.testing.assert_allclose(updated.losses[:, -1], newest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_min": 0.2}, "noise_min <= noise_max"),
        ({"noise_scale": 100.0}, "below 1, the variance of pure noise"),
        ({"num_inference_noise_steps": 5}, "T' must be between 0 and T = 4, got 5"),
        ({"dims": ()}, "dims must be one or more"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"activation": "step"}, "activation is 'step'"),
        ({"prediction_type": "v"}, "prediction_type is 'v'"),
        ({"noise_schedule": "square"}, "noise_schedule is 'square'"),
        ({"num_timesteps": 0}, "must be"),
        ({"observed_error_weight": -0.1}, "observed_error_weight must be at least 0"),
        ({"observed_error_weight": 0.0, "prediction_type": "epsilon"}, "observed_error_weight needs x_0 prediction"),
        ({"unobserved_error_weight": 0.5, "prediction_type": "epsilon"}, "observed_error_weight needs x_0 prediction"),
        ({"unobserved_error_weight": 0.5, "loss_impl": "gram"}, "observed_error_weight need loss_impl dense"),
        ({"linear_rank": 3, "normalize": True}, "linear_rank needs x_0 prediction from rows that are not normalised"),
        ({"linear_rank": 3, "loss_impl": "gram"}, "linear_rank and .*observed_error_weight need loss_impl dense"),
        ({"linear_l2": 0.0}, "linear_l2 must be above 0"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def loss_and_gradient(config, train, targets=None):
    recommender = make_diffrec(config, train.shape[1])
    params = recommender.init_params(jax.random.key(0))
    batch = make_row_batch(train, np.arange(30), batch_size=32, targets=targets)
    keys = row_keys(jax.random.key(1), batch)

    def total(params):
        losses, _ = recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)
        return jnp.sum(jnp.where(batch.row_mask, losses, 0.0)), losses

    (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return losses, gradients


@pytest.mark.parametrize("has_targets", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", [{"loss_impl": "blocked", "loss_block_size": 16}, {"loss_impl": "gram"}], ids=str)
def test_another_form_of_the_error_changes_nothing_but_the_cost(train, has_targets, normalize, form):
    targets = np.random.default_rng(0).random(train.nnz).astype(np.float32) if has_targets else None
    config = dataclasses.replace(CONFIG, normalize=normalize)
    whole = loss_and_gradient(config, train, targets)
    other = loss_and_gradient(dataclasses.replace(config, **form), train, targets)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(whole)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_a_sketch_without_noise_and_dropout_is_the_plain_loss(train):
    config = dataclasses.replace(CONFIG, num_timesteps=1, noise_scale=1e-27, dropout=0.0, beta_fixed=False)
    whole = loss_and_gradient(config, train)
    with_forms = (
        {"noise_sketch": 50, "loss_impl": "blocked", "loss_block_size": 7},
        {"noise_sketch": 9, "loss_impl": "gram"},
    )
    for changes in ({"noise_sketch": 20}, *with_forms):
        sketched = loss_and_gradient(dataclasses.replace(config, **changes), train)
        for ours, theirs in zip(jax.tree.leaves(sketched), jax.tree.leaves(whole)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_sketched_noise_gives_the_loss_of_noise_on_average(train):
    """The first layer's output is linear in the noise, so that its mean and variance decide; many keys, one history."""
    config = dataclasses.replace(CONFIG, noise_scale=5.0, timestep_sampling="uniform")

    def mean_loss(config):
        recommender = make_diffrec(config, train.shape[1])
        params = recommender.init_params(jax.random.key(0))
        batch = make_row_batch(train, np.arange(32))

        def loss(key):
            context = CLOCK._replace(key=key)
            return recommender.loss_fn(params, recommender.init_model_state(), batch, row_keys(key, batch), context)[0]

        losses = jax.lax.map(lambda key: loss(key).mean(), jax.random.split(jax.random.key(3), 600))
        return losses.mean(), losses.std() / np.sqrt(600)

    (plain, plain_error), (sketched, sketched_error) = (
        mean_loss(given) for given in (config, dataclasses.replace(config, noise_sketch=25))
    )
    assert abs(plain - sketched) < 4 * np.hypot(plain_error, sketched_error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_sketch": 8, "prediction_type": "epsilon"}, "need x_0 prediction"),
        ({"loss_impl": "blocked", "prediction_type": "epsilon"}, "need x_0 prediction"),
        ({"loss_impl": "gram", "prediction_type": "epsilon"}, "need x_0 prediction"),
        ({"loss_impl": "sparse"}, "loss_impl is 'sparse': choose one of dense, blocked, gram"),
        ({"loss_block_size": 0}, "loss_block_size must be at least 1"),
        ({"noise_sketch": 8, "normalize": True}, "cannot be normalised"),
        ({"noise_sketch": -1}, "noise_sketch must be at least 0"),
        ({"noise_sketch": 51}, "at most the 50 items, got 51"),
    ],
)
def test_what_a_lean_loss_cannot_do_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        make_diffrec(dataclasses.replace(CONFIG, **changes), 50)


def test_a_linear_part_is_where_training_starts_from_and_stays_as_fitted(train):
    num_items = train.shape[1]
    # One step whose chain goes all the way: the scores are the network's prediction from the row.
    config = dataclasses.replace(CONFIG, num_timesteps=1, linear_rank=num_items, linear_l2=5.0, user_weight_power=0.25)
    recommender = make_diffrec(config, num_items, functools.partial(fit_linear_factors, train))
    optimizer = TrainConfig(lr=1e-2).make_optimizer()
    state = init_train_state(recommender, optimizer, jax.random.key(0))
    state = state._replace(params=jax.device_put(recommender.warm_start(jax.device_get(state.params))))
    batch = make_row_batch(train, np.arange(30))

    def scores(params):
        return recommender.score_fn(recommender.prepare_scoring(params), batch, row_keys(jax.random.key(0), batch))

    expected = train.toarray()[:30] @ fit_linear_denoiser(train, config.linear_fit(config.dropout))
    bias = state.params["params"]["output_layer"]["bias"]
    np.testing.assert_allclose(scores(state.params) - bias[None], expected, atol=1e-4)
    step = jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=5))
    trained = step(step(state, batch, jax.random.key(0))[0], batch, jax.random.key(0))[0].params["params"]
    started = state.params["params"]
    for table, before in (
        (trained["input_kernel"], started["input_kernel"]),
        (trained["output_layer"]["table"], started["output_layer"]["table"]),
    ):
        np.testing.assert_array_equal(table[:, 12:], before[:, 12:])
        assert np.all(np.any(table[:, :12] != before[:, :12], axis=0))


@pytest.mark.parametrize(("shown_weight", "unobserved_weight"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0), (0.5, 0.3)])
def test_errors_of_single_items_count_as_they_should(train, shown_weight, unobserved_weight):
    """The difference to the plain loss is theirs, by dropout's draws and the network's own prediction."""
    config = dataclasses.replace(CONFIG, num_timesteps=1, noise_scale=1e-27, beta_fixed=False)
    num_items = train.shape[1]
    batch = make_row_batch(train, np.arange(30))
    keys = row_keys(jax.random.key(1), batch)

    def losses(**changes):
        recommender = make_diffrec(dataclasses.replace(config, **changes), num_items)
        return recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)[0]

    model = config.make_denoiser(num_items)
    params = make_diffrec(config, num_items).init_params(jax.random.key(0))
    x_0 = jnp.asarray(train.toarray()[:30])
    prediction = model.apply(params, x_0, jnp.zeros(30, jnp.int32), fold_each(keys, DROPOUT_PLACE))
    shown = (x_0 > 0) & row_bernoulli(fold_each(keys, DROPOUT_PLACE), 1 - config.dropout, num_items)
    assert 0.3 < shown.sum() / x_0.sum() < 0.7
    left_out = jnp.where(shown, 1 - shown_weight, jnp.where(x_0 > 0, 0, 1 - unobserved_weight))
    theirs = (left_out * jnp.square(prediction - x_0)).sum(axis=1) / num_items
    weighted = losses(observed_error_weight=shown_weight, unobserved_error_weight=unobserved_weight)
    np.testing.assert_allclose(losses() - weighted, theirs, rtol=1e-4)


@pytest.mark.parametrize("form", [{}, {"loss_impl": "gram"}], ids=str)
def test_users_weigh_their_number_of_items_to_the_power(train, form):
    plain = loss_and_gradient(dataclasses.replace(CONFIG, **form), train)[0][:30]
    weighted = loss_and_gradient(dataclasses.replace(CONFIG, user_weight_power=0.5, **form), train)[0][:30]
    np.testing.assert_allclose(weighted, plain * np.sqrt(np.diff(train.indptr)[:30]), rtol=1e-5)


def test_a_linear_part_needs_its_fit_and_fewer_columns_than_items(train):
    config = dataclasses.replace(CONFIG, linear_rank=60)
    with pytest.raises(ValueError, match="linear_rank needs fit_linear"):
        make_diffrec(config, 50)
    with pytest.raises(ValueError, match="linear_rank must be at most the 50 items, got 60"):
        make_diffrec(config, 50, functools.partial(fit_linear_factors, train))
