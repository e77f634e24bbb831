import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffrec_jax.data import group_items, make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders import (
    DiffRecConfig,
    LDiffRecConfig,
    StepContext,
    fit_linear_denoiser,
    fit_linear_factors,
    make_diffrec,
    make_l_diffrec,
)
from diffrec_jax.recommenders.l_diffrec import ENCODER_DROPOUT_PLACE, mix_losses
from diffrec_jax.rows import dropout_entries, fold_each, row_keys
from diffrec_jax.training.checkpoints import Checkpoints
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import make_train_step
from diffrec_jax.training.train_config import TrainConfig
from tests.reference import assert_close
from tests.reference import l_diffrec_numpy as reference

pytestmark = pytest.mark.once

CONFIG = LDiffRecConfig(
    dims=(6,), num_timesteps=3, noise_scale=0.1, noise_min=0.01, noise_max=0.1, in_dims=(10,), kl_weight_steps=20
)
LINEAR = {
    "autoencoder": "linear",
    "encoder_activation": "identity",
    "reparameterize": False,
    "likelihood": "gaussian",
    "residual": True,
    "encoder_dropout": 0.5,
    "reconstruct_dropped": False,
    "linear_l2": 5.0,
}
TRAIN = make_synthetic(SyntheticSpec(num_users=40, num_items=50, num_interactions=600, num_clusters=4)).train
NUM_ITEMS = TRAIN.shape[1]
CLOCK = StepContext(step=jnp.int32(7), epoch=jnp.int32(3), key=jax.random.key(0))


def num_params(recommender):
    return sum(
        np.prod(leaf.shape, dtype=np.int64)
        for leaf in jax.tree.leaves(jax.eval_shape(recommender.init_params, jax.random.key(0)))
    )


def expected_num_params(group_sizes, latent_size=300, hidden=300, time_size=10):
    """The formula of docs/math.md, for one-layer encoders, one decoder and a denoiser of one hidden layer."""
    num_items = sum(group_sizes)
    latent_sizes = reference.split_layer(latent_size, group_sizes)
    encoders = sum(2 * latent * (size + 1) for size, latent in zip(group_sizes, latent_sizes))
    decoder = num_items * (latent_size + 1)
    denoiser = time_size * (time_size + 1) + (latent_size + time_size + 1) * hidden + (hidden + 1) * latent_size
    return encoders + decoder + denoiser


@pytest.mark.parametrize(
    ("group_sizes", "published"),
    # The published group sizes are not known; of all sizes these alone give the published counts.
    [((1850, 960), 1_956_780), ((9_495, 85_454), 75_478_819), ((2810,), None), ((3, 2, 1), None)],
)
def test_parameter_counts_follow_the_formula(group_sizes, published):
    groups = np.repeat(np.arange(len(group_sizes)), group_sizes)
    count = num_params(make_l_diffrec(LDiffRecConfig(), groups))
    assert count == expected_num_params(group_sizes)
    if published:
        assert count == published


def test_amazon_book_needs_less_than_40_percent_of_diffrecs_parameters():
    groups = np.repeat([0, 1], [85_000, 9_949])
    assert num_params(make_l_diffrec(LDiffRecConfig(), groups)) < 0.4 * num_params(
        make_diffrec(DiffRecConfig(), 94_949)
    )


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (3, 7), (49, 19), (60, 1000)])
def test_the_mixed_loss_agrees_with_reference(reweight, epoch, step):
    config = dataclasses.replace(
        CONFIG,
        reweight=reweight,
        diffusion_loss_weight=0.4,
        diffusion_loss_weight_min=0.05,
        diffusion_loss_weight_epochs=60,
        kl_weight=0.3,
        kl_weight_steps=20,
    )
    diffusion, nll, kl = np.random.default_rng(0).gamma(1.0, 5.0, (3, 6))
    context = StepContext(step=jnp.int32(step), epoch=jnp.int32(epoch), key=jax.random.key(0))
    mixed = mix_losses(config, *(jnp.float32(term) for term in (diffusion, nll, kl)), context)
    expected = reference.mixed_loss(
        diffusion, nll, kl, reweight=reweight, lamda=0.4, lamda_min=0.05, lamda_epochs=60, gamma=0.3, gamma_steps=20,
        epoch=epoch, step=step,
    )  # fmt: skip
    assert_close(mixed, expected)


@pytest.mark.parametrize("epochs", [0, 60])
def test_the_diffusions_weight_is_never_above_what_was_asked_for(epochs):
    """The least weight that annealing goes down to may be larger."""
    context = StepContext(step=jnp.int32(0), epoch=jnp.int32(5), key=jax.random.key(0))
    for weight in (0.0, 0.001):
        config = dataclasses.replace(
            CONFIG, reweight=True, diffusion_loss_weight=weight, diffusion_loss_weight_min=0.05,
            diffusion_loss_weight_epochs=epochs,
        )  # fmt: skip
        assert_close(mix_losses(config, jnp.ones(3), jnp.zeros(3), jnp.zeros(3), context), np.full(3, weight))


def test_annealing_can_be_switched_off():
    config = dataclasses.replace(CONFIG, diffusion_loss_weight_epochs=0, kl_weight_steps=0, kl_weight=0.2)
    one = jnp.ones(1)
    np.testing.assert_allclose(mix_losses(config, one, 0 * one, 0 * one, CLOCK), config.diffusion_loss_weight)
    np.testing.assert_allclose(mix_losses(config, 0 * one, 0 * one, one, CLOCK), 0.2)


def test_losses_do_not_depend_on_the_other_rows():
    recommender = make_l_diffrec(CONFIG, np.arange(NUM_ITEMS) % 3)
    params = recommender.init_params(jax.random.key(0))

    @jax.jit
    def loss_of(batch):
        keys = row_keys(jax.random.key(7), batch)
        return recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)[0]

    together, alone = loss_of(make_row_batch(TRAIN, np.array([3, 5, 9]))), loss_of(make_row_batch(TRAIN, np.array([5])))
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5)
    assert np.all(np.isfinite(together))


@pytest.mark.parametrize("reweight", [True, False])
def test_targets_change_the_reconstruction_and_not_the_input(reweight):
    config = dataclasses.replace(CONFIG, encoder_dropout=0.0, reweight=reweight)
    recommender = make_l_diffrec(config, np.arange(NUM_ITEMS) % 3)
    params = recommender.init_params(jax.random.key(0))

    def info(targets):
        batch = make_row_batch(TRAIN, np.arange(4), targets=targets)
        keys = row_keys(jax.random.key(7), batch)
        return recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)

    (loss, (_, diffusion)), (halved, (_, same)) = info(None), info(0.5 * TRAIN.data)
    assert_close(same, diffusion)  # a GPU leaves the order of the encoders' sums open
    assert np.all(halved < 0.9 * loss)


@pytest.mark.parametrize("reconstruct_dropped", [True, False])
def test_normalised_encoders_take_no_notice_of_a_rows_scale_and_reconstruct_the_row_itself(reconstruct_dropped):
    config = dataclasses.replace(CONFIG, reconstruct_dropped=reconstruct_dropped, encoder_normalize=True)
    recommender = make_l_diffrec(config, np.arange(NUM_ITEMS) % 3)
    params = recommender.init_params(jax.random.key(0))

    def losses_and_scores(scale, targets):
        batch = make_row_batch(scale * TRAIN, np.arange(4), targets=targets)
        keys = row_keys(jax.random.key(7), batch)
        losses, _ = recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)
        return losses, recommender.score_fn(recommender.prepare_scoring(params), batch, keys)

    losses, scores = losses_and_scores(1, None)
    for found, expected in zip(losses_and_scores(3, TRAIN.data), (losses, scores)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.all(losses_and_scores(1, 2 * TRAIN.data)[0] > losses)


# One group, some and many, with and without out_dims, and every activation: few, because each case is compiled.
CASES = list(zip([1, 5, 3], [(), (10,), (10,)], zip(list(ACTIVATIONS)[::2], list(ACTIVATIONS)[1::2])))


def test_the_cases_have_every_activation():
    assert {activation for _, _, activations in CASES for activation in activations} == set(ACTIVATIONS)


@pytest.mark.parametrize(("num_groups", "out_dims", "activations"), CASES, ids=str)
def test_a_step_is_trained_saved_restored_and_scores_the_same(tmp_path, num_groups, out_dims, activations):
    activation, encoder_activation = activations
    config = dataclasses.replace(
        CONFIG, out_dims=out_dims, activation=activation, encoder_activation=encoder_activation
    )
    recommender = make_l_diffrec(config, group_items("random", num_groups, train=TRAIN))
    training = TrainConfig(lr=1e-2, denoiser_lr=1e-3)
    optimizer = training.make_optimizer(recommender.denoiser_params)
    batch = make_row_batch(TRAIN, np.arange(8))
    state = init_train_state(recommender, optimizer, training.make_key())
    before = state.params
    state, _ = jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=5))(state, batch, training.make_key())
    for part in ("autoencoder", "denoiser"):
        assert optax.tree.norm(jax.tree.map(jnp.subtract, state.params[part], before[part])) > 0
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, best_steps=(1,))
    restored = checkpoints.restore(1, jax.eval_shape(lambda: state)).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)

    @jax.jit
    def score(params):
        scoring_state = recommender.prepare_scoring(params)
        return recommender.score_fn(scoring_state, batch, row_keys(jax.random.key(0), batch))

    scores = score(state.params)
    assert scores.shape == (8, NUM_ITEMS) and np.all(np.isfinite(scores))
    assert_close(score(restored.params), scores)  # a GPU leaves the order of the encoders' sums open


def test_autoencoder_and_denoiser_have_learning_rates_of_their_own():
    recommender = make_l_diffrec(CONFIG, np.arange(NUM_ITEMS) % 2)
    params = recommender.init_params(jax.random.key(0))
    optimizer = TrainConfig(lr=1e-2, denoiser_lr=1e-4).make_optimizer(recommender.denoiser_params)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    for part, rate in (("autoencoder", 1e-2), ("denoiser", 1e-4)):
        for leaf in jax.tree.leaves(updates[part]):  # Adam's first step is the rate, whatever the gradient's size
            np.testing.assert_allclose(leaf, -rate, rtol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator's products have work space of their own")
def test_scoring_makes_one_block_of_all_items():
    """The compiled program holds no more than the scores it returns, of what has the size of [batch, items]."""
    num_items, batch_size = 5000, 64
    train = make_synthetic(SyntheticSpec(num_users=100, num_items=num_items, num_interactions=2000)).train
    for out_dims in ((), (20,)):
        config = dataclasses.replace(CONFIG, in_dims=(20,), out_dims=out_dims)
        recommender = make_l_diffrec(config, np.arange(num_items) % 4)
        batch = make_row_batch(train, np.arange(batch_size))
        scoring_state = recommender.prepare_scoring(recommender.init_params(jax.random.key(0)))
        compiled = (
            jax.jit(lambda state, batch, r=recommender: r.score_fn(state, batch, row_keys(jax.random.key(0), batch)))
            .lower(scoring_state, batch)
            .compile()
        )
        memory = compiled.memory_analysis()
        block = 4 * batch_size * num_items
        assert memory.output_size_in_bytes == block
        assert memory.temp_size_in_bytes < 0.5 * block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_dims": ()}, "in_dims must be one or more"),
        ({"out_dims": (0,)}, "out_dims must be one or more positive"),
        ({"encoder_dropout": 1.0}, "encoder_dropout must be in"),
        ({"encoder_activation": "step"}, "encoder_activation is 'step'"),
        ({"kl_weight": -1.0}, "kl_weight must be at least 0"),
        ({"num_timesteps": 0}, "must be"),
        ({"autoencoder": "fixed"}, "autoencoder is 'fixed'"),
        ({"autoencoder": "linear"}, "the linear autoencoder has one layer each way"),
        ({**LINEAR, "in_dims": (20, 10)}, "give one size as in_dims"),
        ({**LINEAR, "reparameterize": True}, "leave reparameterize"),
        ({"likelihood": "bernoulli"}, "likelihood is 'bernoulli'"),
        ({"observed_error_weight": 0.0}, "observed_error_weight weighs squared errors of whole rows"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_too_many_groups_for_a_layer_are_refused_when_the_model_is_made():
    with pytest.raises(ValueError, match="a layer of 10 units cannot be split over 25 item groups"):
        make_l_diffrec(CONFIG, np.arange(50) % 25)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_a_linear_autoencoder_is_where_training_starts_from_and_stays_as_fitted(num_groups):
    # No diffusion to speak of: the residual denoiser gives what it is given, and scores are the autoencoder's.
    config = dataclasses.replace(CONFIG, **LINEAR, in_dims=(NUM_ITEMS,), num_timesteps=1, noise_scale=1e-27)
    groups = np.arange(NUM_ITEMS) % num_groups
    recommender = make_l_diffrec(config, groups, functools.partial(fit_linear_factors, TRAIN))
    optimizer = TrainConfig(lr=1e-2).make_optimizer(recommender.denoiser_params)
    state = init_train_state(recommender, optimizer, jax.random.key(0))
    state = state._replace(params=jax.device_put(recommender.warm_start(jax.device_get(state.params))))
    batch = make_row_batch(TRAIN, np.arange(8))

    def scores(params):
        return recommender.score_fn(recommender.prepare_scoring(params), batch, row_keys(jax.random.key(0), batch))

    expected = np.float64(TRAIN.toarray()[:8]) @ fit_linear_denoiser(TRAIN, config.linear_fit(config.encoder_dropout))
    # A group's part has its share of the latent size: whole rank for one group, what matters most for several.
    error = np.abs(scores(state.params) - expected).max()
    assert error < (1e-4 if num_groups == 1 else 0.2 * np.abs(expected).max())
    step = jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=5))
    trained = step(step(state, batch, jax.random.key(0))[0], batch, jax.random.key(0))[0].params
    jax.tree.map(np.testing.assert_array_equal, trained["autoencoder"], state.params["autoencoder"])
    assert optax.tree.norm(jax.tree.map(jnp.subtract, trained["denoiser"], state.params["denoiser"])) > 0


@pytest.mark.parametrize("observed_error_weight", [0.0, 0.5])
def test_errors_at_shown_items_count_as_they_should(observed_error_weight):
    """The difference to the plain loss is theirs: half their squares, by dropout's draws and the decoded prediction."""
    config = dataclasses.replace(CONFIG, **LINEAR, num_timesteps=1, noise_scale=1e-27, user_weight_power=0.5)
    fit = functools.partial(fit_linear_factors, TRAIN)
    batch = make_row_batch(TRAIN, np.arange(8))
    keys = row_keys(jax.random.key(7), batch)

    def losses(**changes):
        recommender = make_l_diffrec(dataclasses.replace(config, **changes), np.arange(NUM_ITEMS) % 2, fit)
        return recommender.loss_fn(params, recommender.init_model_state(), batch, keys, CLOCK)[0]

    recommender = make_l_diffrec(config, np.arange(NUM_ITEMS) % 2, fit)
    params = jax.device_put(recommender.warm_start(jax.device_get(recommender.init_params(jax.random.key(0)))))
    dropped = dropout_entries(batch, fold_each(keys, ENCODER_DROPOUT_PLACE), config.encoder_dropout)
    prediction = recommender.score_fn(recommender.prepare_scoring(params), dropped, keys)
    kept = np.zeros((8, NUM_ITEMS))
    np.add.at(kept, (dropped.rows, np.minimum(dropped.item_ids, NUM_ITEMS - 1)), dropped.weights)
    theirs = np.where(kept > 0, np.square(prediction - 1) / 2, 0).sum(axis=1) * np.sqrt(np.diff(TRAIN.indptr)[:8])
    np.testing.assert_allclose(
        losses() - losses(observed_error_weight=observed_error_weight), (1 - observed_error_weight) * theirs, rtol=1e-3
    )


def test_a_linear_autoencoder_needs_its_fit():
    config = dataclasses.replace(CONFIG, **LINEAR)
    with pytest.raises(ValueError, match="the linear autoencoder needs fit_linear"):
        make_l_diffrec(config, np.arange(NUM_ITEMS) % 2)
    with pytest.raises(ValueError, match="a linear autoencoder of 50 items has no 51 dimensions"):
        make_l_diffrec(
            dataclasses.replace(config, in_dims=(51,)), np.arange(NUM_ITEMS) % 2, functools.partial(fit_linear_factors)
        )
