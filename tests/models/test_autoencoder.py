import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.models.autoencoder import Autoencoder
from diffrec_jax.rows import to_dense
from tests.reference import assert_close
from tests.reference import comparators_numpy as reference

TRAIN = make_synthetic(SyntheticSpec(num_users=20, num_items=30, num_interactions=200, num_clusters=4)).train
BATCH = make_row_batch(TRAIN, np.array([3, 0, 7]))


def random_params(model, seed=0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH, BATCH.user_ids)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("num_users", [0, 20])
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("dims", [(5,), (4, 9), (3, 5, 8)])
def test_logits_agree_with_the_reference(dims, variational, num_users):
    model = Autoencoder(num_items=30, dims=dims, variational=variational, num_users=num_users)
    params = random_params(model)
    user_vectors = np.float64(params["params"]["user_vectors"])[BATCH.user_ids] if num_users else 0.0
    rows = TRAIN.toarray()[BATCH.user_ids].astype(np.float64)
    expected = reference.autoencoder(params["params"], rows, user_vectors, variational=variational)
    assert_close(model.apply(params, BATCH, BATCH.user_ids), expected)
    assert_close(model.apply(params, to_dense(BATCH, 30), BATCH.user_ids), expected)
    mean, log_variance = model.apply(params, BATCH, BATCH.user_ids, method="encode")
    assert mean.shape == (3, dims[0]) and log_variance.shape == (3, dims[0] if variational else 0)
