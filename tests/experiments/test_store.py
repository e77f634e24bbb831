"""Runs are known by what they do, and found by it."""

import dataclasses
import json

import pytest

from diffrec_jax.config import DataConfig, EvaluationConfig, RunConfig
from diffrec_jax.registry import MODELS
from diffrec_jax.training.train_config import TrainConfig
from experiments.config import new_run_config
from experiments.runs import parse_train_flags
from experiments.store import Store, identity
from tests.experiments.scripts import run

pytestmark = pytest.mark.once

TOY = ("--dataset=synthetic", "--synthetic_users=50", "--synthetic_items=30", "--synthetic_interactions=600")


def config_of(*flags):
    config = new_run_config(parse_train_flags([*TOY, *flags]))
    return config, config.to_dict(config.data.load())


def test_a_run_is_known_by_what_it_does():
    stored = config_of("--model=diffrec", "--seed=1")[1]
    told = json.loads(json.dumps(stored))  # as a file has it
    assert identity(told) == identity(stored)
    assert identity(told | {"version": "0.0.1", "preset": "other", "location": {}}) == identity(stored)
    for flags in (("--seed=2",), ("--seed=1", "--dims=7"), ("--seed=1", "--synthetic_seed=3")):
        assert identity(config_of("--model=diffrec", *flags)[1]) != identity(stored)


def test_finished_runs_are_found_wherever_they_lie(tmp_path):
    config, stored = config_of("--model=popularity")
    of = identity(stored)
    assert Store(tmp_path).finished(of) is None
    place = Store(tmp_path).place(of, config)
    assert place.parent == tmp_path and of[:12] in place.name
    run(tmp_path, "train", *TOY, "--model=popularity", "--per_user", f"--run_dir={tmp_path / 'old' / 'a run'}")
    assert Store(tmp_path).finished(of) == tmp_path / "old" / "a run" == Store(tmp_path).place(of, config)
    users = tmp_path / "old" / "a run" / "per_user_test.npz"
    users.write_bytes(users.read_bytes()[:100])
    assert Store(tmp_path).finished(of) is None
    (tmp_path / "old" / "a run" / "config.json").write_text('{"torn')
    assert Store(tmp_path).place(of, config) == place


def digests(*models):
    """Of models with their default settings."""
    for model in models:
        data, of = DataConfig("synthetic", "clean", None, {}), MODELS[model].config_class()
        config = RunConfig(model, "none", data, EvaluationConfig(), of, TrainConfig(prng_impl="threefry2x32"))
        yield identity(dataclasses.asdict(config) | {"data_sha256": "", "item_embeddings_sha256": None})[:8]


def test_a_new_setting_does_not_make_other_runs_of_kept_ones():
    """What docs/results keeps is known by such digests: give a setting that is added ``newer=True``."""
    assert list(digests("diffrec", "sasrec", "giffcf")) == ["6a6b3a0a", "46ffa9c3", "88fd06b1"]
    old = config_of("--model=giffcf", "--seed=1")[1]
    new = config_of("--model=giffcf", "--seed=1", "--item_statistics")[1]
    assert identity(new) != identity(old)
    for name in ("item_statistics", "smooth_shown", "user_weight_power", "latent_dropout"):
        del old["recommender"][name]
    del old["training"]["lr_decay_epochs"]
    assert identity(old) == identity(config_of("--model=giffcf", "--seed=1")[1])
