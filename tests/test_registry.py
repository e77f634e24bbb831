import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.assembly import evaluate_fitted, make_trainer
from diffrec_jax.config import DataConfig, EvaluationConfig, RunConfig
from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.devices import DeviceStrategy
from diffrec_jax.recommenders import DiffRecConfig, FittedRecommender, StepContext, make_diffrec
from diffrec_jax.registry import MODELS, Context, register_model
from diffrec_jax.rows import row_keys
from diffrec_jax.training.run_directory import RunDirectory
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import make_train_step
from diffrec_jax.training.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
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


def small_settings(model):
    settings = {name: value for name, value in SMALL.items() if name in MODELS[model].fields}
    if "num_neighbors" in settings:
        settings.pop("rank", None)  # another way to the same end
    return settings


def small(model):
    return MODELS[model].config_class(**small_settings(model))


EVERYWHERE = ("diffrec", "l_diffrec", "s_diffrec", "lightgcn", "multivae", "ease", "window_ridge", "biases")
"""Models that stand for the others where another interpreter is tried."""


def each(models):
    """As parameters of a test: those that stand for the others, and the others once."""
    return [name if name in EVERYWHERE else pytest.param(name, marks=pytest.mark.once) for name in models]


@pytest.mark.parametrize("model", each(name for name, family in MODELS.items() if family.is_trained))
def test_training_lowers_the_loss_of_every_model(model):
    """The loss of the same users with the same draws, before and after 40 steps."""
    recommender = MODELS[model].make(small(model), Context(DATASET, GROUPS))
    optimizer = TrainConfig(lr=0.02, weight_decay=0.0).make_optimizer()
    step = jax.jit(make_train_step(recommender, optimizer, steps_per_epoch=1))
    batch = make_row_batch(DATASET.train, np.arange(40))

    @jax.jit
    def loss(state):
        context = StepContext(step=np.int32(10_000), epoch=np.int32(0), key=jax.random.key(0))
        losses, _ = recommender.loss_fn(
            state.params, recommender.init_model_state(), batch, row_keys(jax.random.key(1), batch), context
        )
        return losses.mean()

    state = init_train_state(recommender, optimizer, jax.random.key(0))
    before = loss(state)
    for _ in range(40):
        state, _ = step(state, batch, jax.random.key(0))
    assert loss(state) < 0.95 * before
    scores = recommender.score_fn(recommender.prepare_scoring(state.params), batch, row_keys(jax.random.key(0), batch))
    assert scores.shape == (40, 50) and np.all(np.isfinite(scores))


RATED = tuple(name for name, family in MODELS.items() if family.needs_ratings)


@pytest.mark.parametrize(
    "model", [name for name, family in MODELS.items() if not family.is_trained and name not in RATED]
)
def test_every_fitted_model_scores_a_users_items_above_others(model):
    recommender = MODELS[model].make(small(model), Context(DATASET))
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
        "popularity", "itemknn", "rp3beta", "ease", "t_ease", "slim", *RATED,
    }  # fmt: skip
    for family in MODELS.values():
        assert dataclasses.is_dataclass(family.config_class)


DATA = DataConfig("synthetic", "clean", None, {"num_users": 60, "num_items": 40, "num_interactions": 800, "seed": 0})


@dataclasses.dataclass(frozen=True)
class NewestConfig:
    """A model from outside: an item's score is how late in the rows it comes."""

    power: float = 1.0


def make_newest(config, context):
    def fit(train):
        place = np.arange(train.nnz) - np.repeat(train.indptr[:-1], np.diff(train.indptr))
        return np.bincount(train.indices, place**config.power, minlength=context.dataset.num_items).astype(np.float32)

    def score_fn(state, batch, row_keys):
        return jnp.broadcast_to(state, (batch.user_ids.shape[0], state.shape[0]))

    return FittedRecommender(fit=fit, score_fn=score_fn, fit_bytes=lambda train: 8 * train.shape[1])


@pytest.fixture
def registered():
    added = []

    def register(name, *arguments, **options):
        register_model(name, *arguments, **options)
        added.append(name)

    yield register
    for name in added:
        del MODELS[name]


def test_a_model_from_outside_is_fitted_and_evaluated_like_ours(registered):
    registered("newest", NewestConfig, make_newest, title="Newest", is_trained=False, weighs_rows=False)
    config = RunConfig("newest", "none", DATA, EvaluationConfig(ks=(5,)), NewestConfig(power=2.0))
    dataset = DATA.load()
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict(dataset)))) == config
    results = evaluate_fitted(config, config.make_fitted(dataset), dataset, DeviceStrategy())
    expected = np.argsort(-make_newest(config.recommender, Context(dataset)).fit(dataset.train), kind="stable")
    user = 3
    seen = set(dataset.train_and_valid[[user]].indices.tolist())
    assert results["test"].top_items[user].tolist() == [item for item in expected if item not in seen][:5]


@pytest.mark.once
def test_a_trained_model_from_outside_is_trained_like_ours(registered, tmp_path):
    registered("other", DiffRecConfig, lambda config, context: make_diffrec(config, context.dataset.num_items))
    own = DiffRecConfig(dims=(8,), num_timesteps=3, noise_scale=0.1, noise_min=0.01, noise_max=0.1)
    training = TrainConfig(lr=1e-2, batch_size=20, epochs=2, eval_every=1, metric="recall@5")
    states = []
    for model in ("other", "diffrec"):
        config = RunConfig(model, "none", DATA, EvaluationConfig(ks=(5,)), own, training)
        directory = RunDirectory(tmp_path / model)
        directory.create({})
        states.append(make_trainer(config, DATA.load(), directory, DeviceStrategy()).run())
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)


def test_names_are_taken_once_and_configurations_are_frozen(registered):
    with pytest.raises(ValueError, match="there is a model 'ease' already"):
        registered("ease", NewestConfig, make_newest)
    with pytest.raises(ValueError, match="has to be a frozen dataclass"):
        registered("thawed", dict, make_newest)


@pytest.mark.once
def test_models_of_other_packages_are_found_by_their_entry_points(tmp_path, monkeypatch):
    """An installed package declares a module, the module registers a model: the scripts train it."""
    (tmp_path / "other_models.py").write_text(
        "from dataclasses import dataclass\n"
        "from diffrec_jax import register_model\n"
        "from diffrec_jax.recommenders import EaseConfig, make_ease\n\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    strength: float = 3.0\n\n"
        "register_model('other', Config, lambda config, context: make_ease(EaseConfig(l2=config.strength)),\n"
        "               title='Other', is_trained=False)\n"
    )
    information = tmp_path / "other_models-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other-models\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[diffrec_jax.models]\nother = other_models\n")
    command = [
        sys.executable, "-m", "experiments.train", "--model=other", "--strength=9", "--dataset=synthetic",
        "--synthetic_users=50", "--synthetic_items=40", "--synthetic_interactions=900", f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0 and "│ Other" in done.stdout, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recommender"] == {"strength": 9.0}
