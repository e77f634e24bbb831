import jax
import numpy as np
import pytest

from diffrec_jax.training.parallel import Parallel
from tests.training.small_run import make_trainer


def test_four_devices_give_the_run_of_one(tmp_path):
    """Every draw belongs to a user and a step, so that only rounding differs."""
    if jax.local_device_count() < 4:
        pytest.skip(f"needs 4 local devices, here are {jax.local_device_count()}")
    one, four = (make_trainer(tmp_path / str(n), num_devices=n, epochs=4, eval_every=1) for n in (1, 4))
    states = one.run(), four.run()
    for left, right in zip(jax.tree.leaves(states[0].params), jax.tree.leaves(states[1].params)):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(states[0].model_state.losses, states[1].model_state.losses, rtol=1e-3)
    for left, right in zip(one.run_directory.records(), four.run_directory.records(), strict=True):
        if left["event"] == "epoch":
            np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-4)
        else:
            np.testing.assert_allclose(
                list(left["valid"].values()), list(right["valid"].values()), rtol=1e-2, atol=5e-3
            )


def test_a_checkpoint_of_four_devices_goes_on_with_one(tmp_path):
    four = make_trainer(tmp_path / "run", num_devices=4, epochs=2)
    four.run()
    one = make_trainer(tmp_path / "run", num_devices=1, epochs=4)
    one.run()
    assert one.timings.steps == 8  # two epochs more, not four


def test_replicating_and_back_keeps_values():
    parallel = Parallel(4)
    tree = {"a": np.arange(3.0, dtype=np.float32), "b": np.int32(2)}
    copies = parallel.replicate(tree)
    assert copies["a"].shape == (4, 3)
    jax.tree.map(np.testing.assert_array_equal, parallel.unreplicate(copies), tree)
