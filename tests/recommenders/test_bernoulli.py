"""DiffRec over rows of 0 and 1 whose entries are drawn anew, and the cross-entropy of a row."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from diffrec_jax.assembly import check_data
from diffrec_jax.config import ConfigError, DataConfig, make_run_config, with_settings
from diffrec_jax.data import item_shares, make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.diffusion import register_noise_law
from diffrec_jax.recommenders import DiffRecConfig, LDiffRecConfig, StepContext, fit_linear_factors, make_diffrec
from diffrec_jax.recommenders.diffusing import NOISE_PLACE, denoise
from diffrec_jax.registry import Context
from diffrec_jax.rows import fold_each, row_keys, to_dense
from tests.reference import assert_close, bernoulli_numpy, diffrec_numpy, random_params
from tests.training import small_run

pytestmark = pytest.mark.once

DATASET = make_synthetic(SyntheticSpec(num_users=20, num_items=30, num_interactions=200, num_clusters=3))
TRAIN, SHARES = DATASET.train, item_shares(DATASET.train)
NOISE = {"num_timesteps": 3, "noise_scale": 0.5, "noise_min": 0.1, "noise_max": 0.6, "beta_fixed": False}
CONFIG = DiffRecConfig(dims=(8,), dropout=0.0, noise_law="bernoulli", **NOISE)
CLOCK = StepContext(step=np.int32(0), epoch=np.int32(0), key=jax.random.key(0))
BATCH = make_row_batch(TRAIN, np.arange(20))
KEYS = row_keys(jax.random.key(2), BATCH)
MEMORY = DataConfig("memory", "", None, None)
ROWS = TRAIN.toarray().astype(np.float64)
BETAS = diffrec_numpy.make_betas("linear-var", **NOISE)
KEPT = np.cumprod(1 - BETAS)

as_stationary_rate = pytest.mark.parametrize(
    ("name", "rates"),
    [("popularity", SHARES), ("density", np.full(30, SHARES.mean())), ("zero", np.zeros(30))],
    ids=["popularity", "density", "zero"],
)


def make(config):
    recommender = make_diffrec(config, 30, item_shares=SHARES)
    return recommender, random_params(config.make_denoiser(30))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def cross_entropy(logits, x_0):
    return -x_0 * np.log(sigmoid(logits)) - (1 - x_0) * np.log(1 - sigmoid(logits))


def test_shares_are_of_the_users():
    np.testing.assert_allclose(SHARES, (ROWS != 0).mean(axis=0), rtol=1e-6)


@as_stationary_rate
@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, lambda output, x_0: (output - x_0) ** 2),
        ({"loss_impl": "blocked", "loss_block_size": 7}, lambda output, x_0: (output - x_0) ** 2),
        ({"loss_impl": "gram"}, lambda output, x_0: (output - x_0) ** 2),
        ({"likelihood": "bernoulli"}, cross_entropy),
    ],
    ids=["dense", "blocked", "gram", "cross-entropy"],
)
def test_the_loss_is_the_weighed_error_from_entries_that_were_drawn_anew(name, rates, form, error):
    config = dataclasses.replace(CONFIG, stationary_rate=name, **form)
    recommender, params = make(config)
    losses, (t, _) = recommender.loss_fn(params, recommender.init_model_state(), BATCH, KEYS, CLOCK)
    t, process = np.asarray(t), config.make_process(SHARES)
    uniform = np.asarray(config.draw_noise(process, fold_each(KEYS, NOISE_PLACE), 30), np.float64)
    x_t = (uniform < KEPT[t][:, None] * ROWS + (1 - KEPT[t])[:, None] * rates).astype(np.float64)
    assert np.any(x_t < ROWS) and np.any(x_t > ROWS) == (name != "zero")
    before = np.concatenate([[1.0], KEPT[:-1]])
    weights = (before - KEPT)[t] / (1 - KEPT)[t]
    assert_close(losses, weights * np.mean(error(diffrec_numpy.mlp_denoiser(params, x_t, t), ROWS), axis=1))


@as_stationary_rate
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_scores_are_those_of_the_chain_of_probabilities_from_the_rows(name, rates, likelihood):
    recommender, params = make(dataclasses.replace(CONFIG, stationary_rate=name, likelihood=likelihood))
    assert recommender.prepare_scoring(params)[1] is None  # not folded: the chain is not linear
    expected = bernoulli_numpy.p_sample_loop(
        BETAS,
        lambda x, t: diffrec_numpy.mlp_denoiser(params, x, np.array(t)),
        ROWS,
        np.maximum(rates, 1e-12),  # the limit for a rate of 0
        sigmoid if likelihood == "bernoulli" else lambda output: output,
    )
    assert_close(recommender.score_fn(recommender.prepare_scoring(params), BATCH, KEYS), expected, rtol=1e-4)


def test_what_is_drawn_at_inference_are_states():
    """With T' = T and draws in each step the network sees nothing but 0 and 1."""
    seen = []

    def denoise_fn(x_t, t):
        jax.debug.callback(lambda x: seen.append(np.unique(x).tolist()), x_t)
        return 0.3 + 0.5 * x_t

    config = dataclasses.replace(CONFIG, num_inference_noise_steps=3, sampling_noise=True)
    process = config.make_process(SHARES)
    denoise(
        config,
        config.make_schedule(),
        process,
        denoise_fn,
        to_dense(BATCH, 30),
        lambda t: config.draw_noise(process, fold_each(KEYS, t), 30),
    )
    jax.effects_barrier()
    assert seen == [[0, 1]] * 3


def test_the_cross_entropy_of_rows_under_gaussian_noise_has_a_chain_of_probabilities():
    config = dataclasses.replace(CONFIG, noise_law="gaussian", likelihood="bernoulli")
    recommender, params = make(config)
    scores = recommender.score_fn(recommender.prepare_scoring(params), BATCH, KEYS)
    expected = diffrec_numpy.p_sample_loop(BETAS, lambda x, t: sigmoid(diffrec_numpy.mlp_denoiser(params, x, t)), ROWS)
    assert_close(scores, expected)


@pytest.mark.parametrize("form", [{}, {"loss_impl": "gram"}], ids=str)
def test_without_noise_every_law_is_the_same_autoencoder(form):
    found = []
    for law in ("gaussian", "bernoulli"):
        recommender, params = make(dataclasses.replace(CONFIG, noise_law=law, noise_scale=0.0, folded=False, **form))
        losses, _ = recommender.loss_fn(params, recommender.init_model_state(), BATCH, KEYS, CLOCK)
        clipped = recommender.score_fn((jax.tree.map(lambda leaf: 0.01 * leaf, params), None), BATCH, KEYS)
        found.append((losses, clipped))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert not np.allclose(found[0][1], found[1][1], rtol=1e-3)  # predictions below 0 are no probabilities


def test_it_starts_from_a_linear_part_too():
    config = dataclasses.replace(CONFIG, linear_rank=5, dropout=0.5, observed_error_weight=0.0)
    recommender = make_diffrec(config, 30, lambda *fit: fit_linear_factors(TRAIN, *fit), SHARES)
    params = recommender.warm_start(jax.device_get(recommender.init_params(jax.random.key(0))))
    assert np.isfinite(recommender.score_fn(recommender.prepare_scoring(params), BATCH, KEYS)).all()


def test_a_run_trains_resumes_and_scores(tmp_path):
    config = make_run_config("diffrec", MEMORY, noise_law="bernoulli", dims=(8,), **NOISE)
    recommender = config.make_recommender(Context(small_run.DATASET))
    train = functools.partial(small_run.make_trainer, recommender=recommender)
    train(tmp_path / "run", epochs=2).run()
    resumed = train(tmp_path / "run", epochs=4).run()
    at_once = train(tmp_path / "at_once", epochs=4).run()
    for ours, theirs in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(at_once.params)):
        np.testing.assert_array_equal(ours, theirs)
    rows = small_run.DATASET.train.toarray()
    batch = make_row_batch(small_run.DATASET.train, np.arange(len(rows)))
    state = recommender.prepare_scoring(resumed.params)
    scores = np.asarray(recommender.score_fn(state, batch, row_keys(jax.random.key(0), batch)))
    assert scores[rows == 1].mean() > 1.2 * scores[rows == 0].mean()
    # The registry makes it with the shares of the dataset's own users.
    direct = make_diffrec(config.recommender, 40, item_shares=item_shares(small_run.DATASET.train))
    np.testing.assert_array_equal(direct.score_fn(state, batch, row_keys(jax.random.key(0), batch)), scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "epsilon"}, "noise_law bernoulli adds no noise that could be predicted"),
        ({"noise_sketch": 4}, "noise_sketch draws Gaussian noise: leave it out, or noise_law 'bernoulli'"),
        ({"stationary_rate": "half"}, "stationary_rate is 'half': choose one of popularity, density, zero"),
        ({"likelihood": "multinomial"}, "likelihood is 'multinomial': choose one of gaussian, bernoulli"),
        (
            {"likelihood": "bernoulli", "loss_impl": "gram"},
            "needs x_0 prediction, loss_impl dense",
        ),
        ({"likelihood": "bernoulli", "linear_rank": 3}, "no noise_sketch or linear_rank"),
        (
            {"likelihood": "bernoulli", "noise_law": "laplace", "prediction_type": "epsilon"},
            "likelihood bernoulli needs x_0 prediction",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_latent_vectors_and_rows_without_shares_are_refused():
    with pytest.raises(ValueError, match="noise_law bernoulli is for rows of 0 and 1: take another, or DiffRec"):
        LDiffRecConfig(noise_law="bernoulli")
    with pytest.raises(ValueError, match="stationary_rate popularity needs item_shares"):
        make_diffrec(CONFIG, 30)
    make_diffrec(dataclasses.replace(CONFIG, stationary_rate="zero"), 30)
    with pytest.raises(ValueError, match="there is a noise law 'bernoulli' already"):
        register_noise_law("bernoulli", jax.random.normal)


@pytest.mark.parametrize("model", ["cdae", "multivae"])
def test_targets_above_1_are_refused(model):
    """A Bernoulli likelihood of them has no bound; soft ones, and the weights of what is read, are in order."""
    config = make_run_config(model, MEMORY, likelihood="bernoulli")
    for recency in ({"train_recency": "exp:5"}, {"infer_recency": "exp:5:3"}, {"target_recency": "none"}):
        check_data(with_settings(config, recency, trains=False), DATASET)
    above = with_settings(config, {"train_recency": "exp:5:3"}, trains=False)
    with pytest.raises(ConfigError, match="predicts rows of at most 1, and these hold 3: take another likelihood"):
        check_data(above, DATASET)
    check_data(with_settings(above, {"target_recency": "none"}, trains=False), DATASET)
    counted = dataclasses.replace(DATASET, train=2 * DATASET.train, weighted=True)
    with pytest.raises(ConfigError, match="and these hold 2"):
        check_data(config, counted)


@pytest.mark.parametrize(
    ("model", "of_rows"),
    [
        ("diffrec", {"noise_law": "bernoulli"}),
        ("diffrec", {"likelihood": "bernoulli"}),
        ("flowcf", {}),
    ],
    ids=str,
)
def test_rows_that_are_not_0_or_1_are_refused(model, of_rows):
    config = make_run_config(model, MEMORY, **of_rows)
    check_data(config, DATASET)
    for recency in ({"train_recency": "exp:5"}, {"target_recency": "exp:5"}, {"infer_recency": "linear:0:1"}):
        with pytest.raises(ConfigError, match="takes rows of 0 and 1 alone, and these are weighted"):
            check_data(with_settings(config, recency, trains=False), DATASET)
    with pytest.raises(ConfigError, match="takes rows of 0 and 1 alone"):
        check_data(config, dataclasses.replace(DATASET, weighted=True))
    if of_rows:
        check_data(with_settings(config, {**dict.fromkeys(of_rows, "gaussian"), **recency}), DATASET)
