"""A run small enough for tests, shared by the tests of the training layer."""

import dataclasses

from diffrec_jax.data.recency import NO_WEIGHTING
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.devices import SINGLE_DEVICE
from diffrec_jax.evaluation import Evaluator
from diffrec_jax.recommenders import DiffRecConfig, make_diffrec
from diffrec_jax.training.loop import Progress, Trainer
from diffrec_jax.training.run_directory import RunDirectory
from diffrec_jax.training.train_config import TrainConfig

DATASET = make_synthetic(SyntheticSpec(num_users=60, num_items=40, num_interactions=900, num_clusters=4))
MODEL = DiffRecConfig(dims=(8,), num_timesteps=3, noise_scale=0.1, noise_min=0.01, noise_max=0.1)
CONFIG = TrainConfig(lr=1e-2, batch_size=16, epochs=6, eval_every=2, patience=0, prng_impl="threefry2x32")


def make_trainer(
    path,
    *,
    devices=SINGLE_DEVICE,
    progress: Progress | None = None,
    recommender=None,
    weighting=NO_WEIGHTING,
    dataset=DATASET,
    should_stop=lambda: False,
    **changes,
) -> Trainer:
    run_directory = RunDirectory(path)
    if not run_directory.exists():
        run_directory.create({})
    recommender = recommender or make_diffrec(MODEL, dataset.num_items)
    return Trainer(
        recommender=recommender,
        dataset=dataset,
        evaluator=Evaluator(recommender.score_fn, ks=(5, 20), batch_size=32, devices=devices),
        config=dataclasses.replace(CONFIG, **changes),
        run_directory=run_directory,
        devices=devices,
        weighting=weighting,
        progress=progress,
        should_stop=should_stop,
    )
