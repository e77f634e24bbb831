import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models import GroupedVAE, split_size
from diffrec_jax.rows import to_dense
from tests.reference import assert_close
from tests.reference import l_diffrec_numpy as reference

I = 40  # noqa: E741
TRAIN = make_synthetic(SyntheticSpec(num_users=30, num_items=I, num_interactions=300, num_clusters=3)).train
ACTIVATIONS = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "identity": lambda x: x}


def groups_of(num_groups):
    """Unequal groups, their items spread over all ids."""
    sizes = 2.0 ** -np.arange(num_groups)
    return np.random.default_rng(num_groups).permutation(
        np.searchsorted(np.cumsum(sizes / sizes.sum()), (np.arange(I) + 0.5) / I).astype(np.int32)
    )


def random_autoencoder(num_groups, **layers):
    model = GroupedVAE(item_groups=groups_of(num_groups), **layers)
    batch = make_row_batch(TRAIN, np.arange(6))
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes), batch


def layers_of(params, name):
    """(kernel, bias) of every layer in float64."""
    found = []
    while f"{name}_{len(found)}_kernel" in params:
        found.append(tuple(np.float64(params[f"{name}_{len(found)}_{part}"]) for part in ("kernel", "bias")))
    return found


@pytest.mark.parametrize(
    ("out_dims", "activation"),
    [((), "tanh"), ((9,), "relu"), ((12, 9), "identity")],
    ids=["one decoder", "group decoders", "deep decoders"],
)
@pytest.mark.parametrize("in_dims", [(10,), (16, 10)], ids=["one layer", "two layers"])
@pytest.mark.parametrize("num_groups", [1, 2, 5])
def test_encoder_and_decoder_agree_with_reference(num_groups, in_dims, out_dims, activation):
    model, variables, batch = random_autoencoder(num_groups, in_dims=in_dims, out_dims=out_dims, activation=activation)
    params, groups, act = variables["params"], model.item_groups, ACTIVATIONS[activation]
    mean, log_variance = model.apply(variables, batch, method="encode")
    encoders = [layers_of(params, f"encoder_{group}") for group in range(num_groups)]
    expected = reference.encode(np.asarray(to_dense(batch, I), np.float64), groups, encoders, act)
    assert_close(mean, expected[0])
    assert_close(log_variance, expected[1])
    decoders = [layers_of(params, f"decoder_{group}") for group in range(num_groups)] if out_dims else []
    latent_sizes = reference.split_layer(in_dims[-1], np.bincount(groups))
    outputs = [
        [np.float64(params[f"output_{group}_{part}"]) for part in ("table", "bias")] for group in range(num_groups)
    ]
    z = np.random.default_rng(2).normal(size=(6, in_dims[-1]))
    assert_close(
        model.apply(variables, jnp.float32(z), method="decode"),
        reference.decode(z, groups, decoders, outputs, latent_sizes, act),
    )


@given(st.integers(1, 400), st.lists(st.integers(1, 1000), min_size=1, max_size=10))
def test_layers_split_as_the_reference_does(total, group_sizes):
    expected = reference.split_layer(total, group_sizes)
    if expected[-1] < 1:
        with pytest.raises(ValueError, match=r"cannot be split over .* item groups"):
            split_size(total, tuple(group_sizes))
    else:
        assert split_size(total, tuple(group_sizes)) == tuple(expected)


def test_no_group_sees_the_items_of_another():
    model, variables, _ = random_autoencoder(2, in_dims=(8,), out_dims=(8,))
    first = np.flatnonzero(model.item_groups == 0)
    matrix = TRAIN.copy()
    matrix.data = np.where(np.isin(matrix.indices, first), 5 * matrix.data, matrix.data)
    before, after = (
        model.apply(variables, make_row_batch(m, np.arange(6)), method="encode")[0] for m in (TRAIN, matrix)
    )
    first_latents = split_size(8, tuple(np.bincount(model.item_groups)))[0]
    assert not np.allclose(before[:, :first_latents], after[:, :first_latents])
    # Up to the order of sums, which a GPU leaves open; a leak would be of the size of the change above.
    np.testing.assert_allclose(before[:, first_latents:], after[:, first_latents:], rtol=0, atol=1e-6)

    gradient = jax.grad(lambda z: model.apply(variables, z, method="decode")[:, first].sum())(jnp.ones((1, 8)))
    np.testing.assert_array_equal(gradient[:, first_latents:], 0)
    assert np.abs(gradient[:, :first_latents]).min() > 0


def test_initial_weights_are_xavier_normal_with_zero_biases():
    model = GroupedVAE(item_groups=np.arange(2000) % 2, in_dims=(100,))
    params = model.init(jax.random.key(0), make_row_batch(TRAIN, np.arange(1)))["params"]
    for name, fan_in, fan_out in (("encoder_0_0_kernel", 1000, 100), ("output_0_table", 100, 2000)):
        np.testing.assert_allclose(np.std(params[name]), np.sqrt(2 / (fan_in + fan_out)), rtol=0.02)
    np.testing.assert_array_equal(params["output_0_bias"], 0)
    np.testing.assert_array_equal(params["encoder_1_0_bias"], 0)
