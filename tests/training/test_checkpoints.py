import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.training import checkpoints as module
from diffrec_jax.training.checkpoints import CheckpointError, Checkpoints, all_finite


def state(value):
    return {"weights": jnp.full((4, 3), value, jnp.float32), "step": jnp.int32(value)}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", on_warning=lambda text: None)


def test_a_state_comes_back_as_it_was(checkpoints):
    checkpoints.save(3, state(3), best_steps=(3,))
    restored = checkpoints.restore(3, state(0))
    np.testing.assert_array_equal(restored["weights"], state(3)["weights"])
    assert restored["step"].dtype == jnp.int32


def test_the_newest_two_and_the_best_are_kept(checkpoints):
    for step in range(1, 7):
        checkpoints.save(step, state(step), best_steps=(min(step, 2),))
    assert checkpoints.steps() == [2, 5, 6]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["2", "5", "6"]


def test_damage_is_found_and_passed_over(checkpoints):
    said = []
    checkpoints.on_warning = said.append
    for step in (1, 2):
        checkpoints.save(step, state(step), best_steps=(1,))
    files = [path for path in (checkpoints.folder / "2" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    assert checkpoints.newest_whole() == 1
    assert "passed over" in said[0] and "is damaged" in said[0]
    with pytest.raises(CheckpointError, match="cannot be used"):
        checkpoints.restore(2, state(0))
    largest.unlink()
    assert "is missing" in str(checkpoints.damage(2))


def test_what_a_kill_left_does_not_count(checkpoints):
    checkpoints.save(1, state(1), best_steps=(1,))
    (checkpoints.folder / "2").mkdir()  # killed before anything was written
    (checkpoints.folder / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert checkpoints.newest_whole() == 1
    checkpoints.save(2, state(2), best_steps=(1,))
    assert checkpoints.steps() == [1, 2]
    assert not (checkpoints.folder / "3").exists()


def test_another_structure_is_refused(checkpoints):
    checkpoints.save(1, state(1), best_steps=(1,))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoints.restore(1, {"weights": jnp.zeros((4, 3))})
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoints.restore(1, {"weights": jnp.zeros((5, 3)), "step": jnp.int32(0)})


def test_finiteness():
    assert all_finite(state(1))
    assert not all_finite({"weights": jnp.array([1.0, jnp.nan])})
    assert not all_finite({"weights": jnp.array([1.0, jnp.inf]), "step": jnp.int32(1)})


def test_only_what_was_written_here_is_removed(checkpoints):
    """Whatever else lies in the folder stays: copies of a step, folders of other programs, files."""
    foreign = [checkpoints.folder / name for name in ("8.bak", "best", "007", "5", "notes.txt")]
    for path in foreign[:4]:
        path.mkdir(parents=True)
        (path / "precious.txt").write_text("mine")
    foreign[4].write_text("mine")
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state(step), best_steps=(0,))
    assert checkpoints.steps() == [3, 4]
    for path in foreign[:4]:
        assert (path / "precious.txt").read_text() == "mine"
    assert foreign[4].read_text() == "mine"
    with pytest.raises(CheckpointError, match="5 is in the way and no checkpoint of this project"):
        checkpoints.save(5, state(5), best_steps=(0,))
    assert (checkpoints.folder / "5" / "precious.txt").exists()


def test_a_disk_that_fills_up_costs_the_new_checkpoint_alone(checkpoints, monkeypatch):
    checkpoints.save(1, state(1), best_steps=(1,))

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(
        CheckpointError, match=r"2 cannot be written \(the disk is full\): it takes about 52 bytes, and .* are free"
    ):
        checkpoints.save(2, state(2), best_steps=(1,))
    assert checkpoints.newest_whole() == 1
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]


def test_a_folder_may_be_called_like_a_pattern(tmp_path):
    checkpoints = Checkpoints(tmp_path / "[x] *", on_warning=lambda text: None)
    checkpoints.save(1, state(1), best_steps=(1,))
    np.testing.assert_array_equal(checkpoints.restore(1, state(0))["weights"], state(1)["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["[x] *"]
