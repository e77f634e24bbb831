"""Checkpoints of earlier formats are read: their fixtures lie in fixtures/ and are never made again."""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.recommenders import LDiffRecConfig, make_l_diffrec
from diffrec_jax.training.checkpoints import FORMAT, MANIFEST, CheckpointError, Checkpoints, bit_sums, layout
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.train_config import TrainConfig

FIXTURES = Path(__file__).parent / "fixtures"


def known_state():
    """Of a small L-DiffRec with two optimizers, a loss history and averaged parameters: all parts that exist."""
    config = LDiffRecConfig(in_dims=(6, 4), out_dims=(), dims=(5,), num_timesteps=3, noise_scale=0.1)
    recommender = make_l_diffrec(config, np.array([0, 1, 0, 1, 1, 0, 0]))
    optimizer = TrainConfig(denoiser_lr=1e-3).make_optimizer(recommender.denoiser_params)
    state = init_train_state(recommender, optimizer, jax.random.key(0), keep_average=True)
    leaves, structure = jax.tree.flatten(state)
    numbered = [
        jnp.asarray(1 + place + np.arange(leaf.size).reshape(leaf.shape) / 100, leaf.dtype)
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, numbered)


def unpacked(tmp_path, number):
    with zipfile.ZipFile(FIXTURES / f"checkpoint-format-{number}.zip") as archive:
        archive.extractall(tmp_path)
    return Checkpoints(tmp_path)


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_checkpoint_of_every_format_so_far_is_read(tmp_path, number):
    state = known_state()
    assert unpacked(tmp_path, number).damage(7) is None
    found = Checkpoints(tmp_path).restore(7, jax.eval_shape(lambda: state))
    jax.tree.map(np.testing.assert_array_equal, found.state, state)
    assert found.evaluated
    sums = [int(value) for value in bit_sums(state)]
    assert found.bits == ([None] * len(sums) if number == 1 else sums)


def test_the_fixture_of_this_format_has_its_names(tmp_path):
    """If this fails, states have other names now: count FORMAT up, and translate the old names when they are read."""
    manifest = json.loads((unpacked(tmp_path, FORMAT).folder / "7" / MANIFEST).read_text())
    assert manifest["format"] == FORMAT
    assert [array["name"] for array in manifest["arrays"]] == list(layout(known_state()))


def test_what_a_later_version_wrote_is_named(tmp_path):
    checkpoints = unpacked(tmp_path, FORMAT)
    manifest = checkpoints.folder / "7" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": FORMAT + 1, "version": "9.9"}))
    with pytest.raises(CheckpointError, match=r"written by diffrec-jax 9.9, in format 3: .* install that version"):
        checkpoints.restore(7, jax.eval_shape(known_state))
