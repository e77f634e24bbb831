import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.training.train_config import TrainConfig


def test_learning_rates_fall_as_half_a_cosine_and_stay_at_zero():
    """By epochs of ceil(10 / 4) steps: Adam's steps of a constant gradient are of the length of the rate."""
    config = TrainConfig(lr=0.1, denoiser_lr=0.02, batch_size=4, lr_decay_epochs=2)
    optimizer = config.make_optimizer("denoiser", num_users=10)
    params = {"autoencoder": jnp.zeros(3), "denoiser": jnp.zeros(3)}
    state, found = optimizer.init(params), []
    for _ in range(8):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        found.append([-float(updates[key][0]) for key in ("autoencoder", "denoiser")])
    falling = (1 + np.cos(np.pi * np.arange(7) / 6)) / 2
    expected = np.outer([*falling, 0.0], [0.1, 0.02])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
