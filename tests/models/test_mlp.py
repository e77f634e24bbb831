import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffrec_jax.models import MLPDenoiser, timestep_embedding
from diffrec_jax.models.dropout import row_dropout
from tests.reference import assert_close, random_params
from tests.reference import diffrec_numpy as reference

B, D = 7, 11

dropout = functools.partial(jax.jit, static_argnums=2)(row_dropout)


def random_rows(seed=0):
    return np.random.default_rng(seed).standard_normal((B, D), dtype=np.float32)


STEPS = np.array([0, 1, 2, 4, 39, 99, 3], np.int32)


def shapes_of(model):
    x_t, t = jnp.zeros((1, model.width)), jnp.zeros(1, jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), x_t, t)


@pytest.mark.parametrize("dims", [(8,), (6, 12), (3, 5, 4)], ids=str)
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "normalized"])
def test_output_agrees_with_reference(dims, normalize):
    model = MLPDenoiser(width=D, dims=dims, normalize=normalize)
    params, x_t = random_params(model), random_rows()
    x_t[0] *= 1e-6  # a short row is normalized like any other
    actual = jax.jit(model.apply)(params, x_t, STEPS)
    assert_close(actual, reference.mlp_denoiser(params, x_t, STEPS, normalize=normalize))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("identity", lambda x: x),
    ],
)
def test_activations_agree_with_reference(name, function):
    model = MLPDenoiser(width=D, dims=(4, 6), activation=name, time_embedding_size=5)
    params, x_t = random_params(model), random_rows()
    expected = reference.mlp_denoiser(params, x_t, STEPS, activation=function, time_embedding_size=5)
    assert_close(jax.jit(model.apply)(params, x_t, STEPS), expected)


def test_an_empty_row_can_be_normalized():
    model = MLPDenoiser(width=D, dims=(4,), normalize=True)
    params, x_t = random_params(model), np.zeros((B, D), np.float32)
    assert_close(jax.jit(model.apply)(params, x_t, STEPS), reference.mlp_denoiser(params, x_t, STEPS, normalize=True))


def test_stages_make_the_whole():
    model = MLPDenoiser(width=D, dims=(6, 12))
    params, x_t = random_params(model), random_rows()
    u_t = model.apply(params, x_t, method="project")
    hidden = model.apply(params, u_t, STEPS, method="transform")
    assert u_t.shape == (B, 12) and hidden.shape == (B, 12)
    np.testing.assert_allclose(
        model.apply(params, hidden, method="decode"), model.apply(params, x_t, STEPS), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("dims", "sizes"), [((1000,), (1000,)), ((200, 600), (600, 200, 600)), ((1, 2, 3), (3, 2, 1, 2, 3))]
)
def test_layer_sizes(dims, sizes):
    model = MLPDenoiser(width=20, dims=dims)
    assert model.layer_sizes == sizes
    tree = shapes_of(model)["params"]
    assert tree["input_kernel"].shape == (20, sizes[0]) and tree["time_kernel"].shape == (10, sizes[0])
    for layer, shape in enumerate(zip(sizes[:-1], sizes[1:])):
        assert tree[f"hidden_layers_{layer}"]["kernel"].shape == shape
    assert f"hidden_layers_{len(sizes) - 1}" not in tree
    assert tree["output_layer"]["table"].shape == (20, sizes[-1])


@pytest.mark.parametrize(
    ("num_items", "dims", "count"),
    # The counts of the released models: Amazon-book, Yelp and ML-1M, clean.
    [(94_949, (1000,), 190_004_059), (34_395, (1000,), 68_835_505), (2_810, (200, 600), 3_622_320)],
)
def test_golden_parameter_counts(num_items, dims, count):
    shapes = shapes_of(MLPDenoiser(width=num_items, dims=dims))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_initial_weights_have_their_law():
    model = MLPDenoiser(width=60, dims=(40, 50))
    key = jax.random.key(0, impl="unsafe_rbg")  # compiles in a fraction of the time
    tree = jax.jit(model.init)(key, jnp.zeros((1, 60)), jnp.zeros(1, jnp.int32))["params"]
    layers = ("time_layer", "hidden_layers_0", "hidden_layers_1", "output_layer")
    kernels = {name: np.asarray(tree[name]["kernel"]) for name in layers[:-1]}
    kernels["output_layer"] = np.asarray(tree["output_layer"]["table"])
    fans = {"time_layer": 10 + 10, "hidden_layers_0": 50 + 40, "hidden_layers_1": 40 + 50, "output_layer": 50 + 60}
    for name in ("input_kernel", "time_kernel"):
        # Both parts of the first layer have the fan-in of the whole of it.
        kernels[name], fans[name] = np.asarray(tree[name]), 60 + 10 + 50
    scaled = {name: kernel.ravel() / np.sqrt(2 / fans[name]) for name, kernel in kernels.items()}
    scaled["biases"] = np.concatenate([tree["input_bias"], *(tree[name]["bias"] for name in layers)]) / 0.001
    for name, values in scaled.items():
        assert 0.002 < stats.chi2.cdf(np.sum(values**2), values.size) < 0.998, name
    assert stats.kstest(np.concatenate(list(scaled.values())), "norm").pvalue > 0.01


def test_dropout_zeroes_the_items_only():
    model = MLPDenoiser(width=D, dims=(6, 12), dropout=0.3)
    params, x_t = random_params(model), random_rows()
    row_keys = jax.random.split(jax.random.key(0), B)
    apply = jax.jit(model.apply)
    dropped = dropout(row_keys, x_t, 0.3)
    assert_close(apply(params, x_t, STEPS, row_keys), reference.mlp_denoiser(params, dropped, STEPS))
    # Nothing to drop but the time: it stays.
    nothing = np.zeros((B, D), np.float32)
    assert_close(apply(params, nothing, STEPS, row_keys), apply(params, nothing, STEPS))
    assert not np.allclose(apply(params, x_t, STEPS, row_keys), apply(params, x_t, STEPS))


def test_normalization_precedes_dropout():
    model = MLPDenoiser(width=D, dims=(6,), dropout=0.5, normalize=True)
    params, x_t = random_params(model), random_rows()
    row_keys = jax.random.split(jax.random.key(0), B)
    normalized = x_t / np.linalg.norm(x_t, axis=1, keepdims=True)
    dropped = dropout(row_keys, normalized, 0.5)
    assert_close(jax.jit(model.apply)(params, x_t, STEPS, row_keys), reference.mlp_denoiser(params, dropped, STEPS))


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_timestep_embedding_agrees_with_reference(size):
    t = np.array([0, 1, 7, 99], np.int32)
    actual = timestep_embedding(t, size)
    assert actual.shape == (4, size)
    # The angle itself is rounded to float32: 99 keeps five digits after the point.
    np.testing.assert_allclose(actual, reference.timestep_embedding(t, size), atol=2e-5)


def test_timestep_embedding_closed_form():
    # Size 5: frequencies 1 and 1/100, cosines, sines, a zero.
    embedding = timestep_embedding(jnp.array([0, 2]), 5)
    expected = [[1, 1, 0, 0, 0], [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02), 0]]
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": ()}, r"dims must be one or more positive layer sizes, got \(\)"),
        ({"dims": (5, 0)}, r"dims must be one or more positive layer sizes, got \(5, 0\)"),
        ({"activation": "swish"}, "'swish' is unknown: choose one of tanh, relu"),
        ({"width": D + 1}, "x_t has 11 columns, the denoiser was made for 12"),
    ],
)
def test_bad_models(changes, message):
    model = MLPDenoiser(**{"width": D, "dims": (4,), **changes})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, D)), jnp.zeros(1, jnp.int32))


def test_linear_units_add_a_linear_map_that_dropout_and_time_leave_alone():
    model = MLPDenoiser(width=D, dims=(8, 5), linear_units=3)
    params, x_t = random_params(model), random_rows()
    own = params["params"]
    encoder, decoder = own["input_kernel"][:, 5:], own["output_layer"]["table"][:, 5:].T
    without = own | {
        "input_kernel": own["input_kernel"][:, :5],
        "output_layer": own["output_layer"] | {"table": own["output_layer"]["table"][:, :5]},
    }
    expected = reference.mlp_denoiser({"params": without}, x_t, STEPS)
    expected = expected + np.float64(x_t) @ np.float64(encoder) @ np.float64(decoder)
    assert_close(jax.jit(model.apply)(params, x_t, STEPS), expected)


def test_a_residual_denoiser_starts_as_the_identity_and_adds_its_network():
    model, x_t = MLPDenoiser(width=D, dims=(8,), bias_stddev=0.0, residual=True), random_rows()
    np.testing.assert_array_equal(model.apply(model.init(jax.random.key(0), x_t, STEPS), x_t, STEPS), x_t)
    params = random_params(model)
    assert_close(model.apply(params, x_t, STEPS), x_t + reference.mlp_denoiser(params, x_t, STEPS))
