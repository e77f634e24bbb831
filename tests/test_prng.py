import jax
import numpy as np
import pytest

from diffrec_jax.prng import default_prng_impl, make_key
from diffrec_jax.seeds import MAX_SEED
from diffrec_jax.training.train_config import TrainConfig

SEEDS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33 + 1, 2**62, MAX_SEED]


@pytest.mark.parametrize("impl", ["threefry2x32", None])
def test_every_seed_has_a_key_of_its_own(impl):
    drawn = {tuple(np.asarray(jax.random.bits(make_key(seed, impl), (4,))).tolist()) for seed in SEEDS}
    assert len(drawn) == len(SEEDS)


def test_small_seeds_are_those_of_jax():
    for seed in (0, 1, 2**32 - 1):
        np.testing.assert_array_equal(
            jax.random.key_data(make_key(seed, "threefry2x32")),
            jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
        )


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**20])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be between 0 and 2\^63 - 1"):
        make_key(seed)
    with pytest.raises(ValueError, match=r"seed must be between 0 and 2\^63 - 1"):
        TrainConfig(seed=seed)


def test_library_and_runs_share_the_default_generator():
    assert TrainConfig().prng_impl == default_prng_impl()
    assert jax.random.key_impl(make_key(1)) == jax.random.key_impl(TrainConfig().make_key())


def test_newer_jax_does_not_get_the_generator_that_it_compiles_for_minutes(monkeypatch):
    for version, expected in (((0, 10, 2), "threefry4x32"), ((0, 11, 0), "threefry2x32"), ((0, 12, 0), "threefry2x32")):
        monkeypatch.setattr(jax, "__version_info__", version)
        assert default_prng_impl() == expected


@pytest.mark.parametrize("setting", ["accumulate_steps", "steps_at_once"])
def test_what_jax_would_compile_for_ever_is_refused(setting):
    stored = TrainConfig(prng_impl="threefry4x32", **{setting: 2})  # of a run that is there: it can be evaluated
    with pytest.raises(ValueError, match="set prng_impl to threefry2x32"):
        stored.check_compiles()
    TrainConfig(prng_impl="threefry2x32", **{setting: 2}).check_compiles()
    TrainConfig(prng_impl="threefry4x32").check_compiles()
