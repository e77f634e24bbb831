import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.training import checkpoints as module
from diffrec_jax.training.checkpoints import CheckpointError, Checkpoints, DamagedCheckpointError, all_finite, bit_sums


def state(value):
    return {"weights": jnp.full((4, 3), value, jnp.float32), "step": jnp.int32(value)}


def newest_whole(checkpoints):
    return next(step for step in reversed(checkpoints.steps()) if checkpoints.damage(step) is None)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_a_state_comes_back_as_it_was(checkpoints):
    checkpoints.save(3, state(3), best_steps=(3,))
    restored = checkpoints.restore(3, state(0)).state
    np.testing.assert_array_equal(restored["weights"], state(3)["weights"])
    assert restored["step"].dtype == jnp.int32


def test_the_newest_two_and_the_best_are_kept(checkpoints):
    for step in range(1, 7):
        checkpoints.save(step, state(step), best_steps=(min(step, 2),))
    assert checkpoints.steps() == [2, 5, 6]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["2", "5", "6"]


def test_damage_is_found(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, state(step), best_steps=(1,))
    files = [path for path in (checkpoints.folder / "2" / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    assert newest_whole(checkpoints) == 1
    with pytest.raises(DamagedCheckpointError, match="cannot be used: file .* is damaged"):
        checkpoints.restore(2, state(0))
    largest.unlink()
    assert "is missing" in str(checkpoints.damage(2))


def test_a_file_that_goes_while_it_is_read_is_missing(checkpoints, monkeypatch):
    """A running process removes an old step that another one looks at."""
    checkpoints.save(1, state(1), best_steps=())

    def read(path):
        path.unlink()
        return path.read_bytes()

    monkeypatch.setattr(module, "_sha256", read)
    assert "is missing" in checkpoints.damage(1)


def test_every_flipped_bit_is_found(checkpoints):
    """Of the arrays, of Orbax' own files and of the manifest."""
    checkpoints.save(1, state(1), best_steps=(1,), bits=[int(value) for value in bit_sums(state(1))])
    files = sorted(path for path in (checkpoints.folder / "1").rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    for path in [*files, *rng.choice(np.array(files), 100)]:
        content = path.read_bytes()
        if content:
            flipped = bytearray(content)
            flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(flipped))
            with pytest.raises(CheckpointError):
                checkpoints.restore(1, state(0))
            path.write_bytes(content)
    assert checkpoints.restore(1, state(0)).bits == [int(value) for value in bit_sums(state(1))]


def test_files_that_are_cut_added_or_swapped_are_found(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, state(step), best_steps=(1, 2))
    folders = [checkpoints.folder / str(step) for step in (1, 2)]
    manifests = [(folder / "manifest.json").read_bytes() for folder in folders]
    (folders[0] / "manifest.json").write_bytes(manifests[1])
    assert "is missing" in checkpoints.damage(1) or "is damaged" in checkpoints.damage(1)
    (folders[0] / "manifest.json").write_bytes(manifests[0][: len(manifests[0]) // 2])
    assert "its manifest cannot be read" in checkpoints.damage(1)
    (folders[0] / "manifest.json").write_bytes(b"\xff")
    assert "its manifest cannot be read" in checkpoints.damage(1)
    (folders[0] / "manifest.json").write_bytes(manifests[0])
    assert checkpoints.damage(1) is None
    (folders[0] / "state" / "more").write_text("x")
    assert checkpoints.damage(1) == "file more is unexpected"


def test_a_step_is_replaced_when_the_new_one_is_whole(checkpoints, monkeypatch):
    """Killed before, the old one counts; killed between removal and move, the new one is moved at the next start."""
    checkpoints.save(1, state(1), best_steps=(1,), evaluated=False)
    monkeypatch.setattr(module.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(1, state(5), best_steps=(1,))
    monkeypatch.undo()
    assert checkpoints.steps() == []
    checkpoints.finish_moves()
    found = checkpoints.restore(1, state(0))
    assert found.evaluated and found.state["step"] == 5
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]
    monkeypatch.setattr(Checkpoints, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(1, state(6), best_steps=(1,))
    assert checkpoints.restore(1, state(0)).state["step"] == 5


def test_bits_are_summed_whatever_the_padding_and_every_flip_shows():
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    (sum_of_bits,) = bit_sums(values)
    assert int(sum_of_bits) == int(values.view(np.uint32).astype(np.uint64).sum() % 2**32)
    assert bit_sums(np.pad(values, ((0, 2), (0, 1)))) == [sum_of_bits]
    for bit in range(32):
        flipped = values.copy()
        flipped.view(np.uint32)[3, 1] ^= np.uint32(1 << bit)
        assert bit_sums(flipped) != [sum_of_bits]
    assert [int(value) for value in bit_sums({"a": np.array([True, True]), "b": jnp.bfloat16([1.0])})] == [2, 0x3F80]


def test_what_a_kill_left_does_not_count(checkpoints):
    checkpoints.save(1, state(1), best_steps=(1,))
    (checkpoints.folder / "2").mkdir()  # killed before anything was written
    (checkpoints.folder / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert newest_whole(checkpoints) == 1
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


def test_a_process_that_is_lost_while_it_is_written_is_no_want_of_room(checkpoints, monkeypatch):
    checkpoints.save(1, state(1), best_steps=(1,))

    def lost(*arguments):
        raise jax.errors.JaxRuntimeError("ABORTED: a peer is gone")

    monkeypatch.setattr(module, "write_atomically", lost)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a peer is gone"):
        checkpoints.save(2, state(2), best_steps=(2,))
    assert checkpoints.steps() == [1] and [path.name for path in checkpoints.folder.iterdir()] == ["1"]


def test_a_disk_that_fills_up_costs_the_new_checkpoint_alone(checkpoints, monkeypatch):
    checkpoints.save(1, state(1), best_steps=(1,))

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(
        CheckpointError, match=r"2 cannot be written \(the disk is full\): it takes about 52 bytes, and .* are free"
    ):
        checkpoints.save(2, state(2), best_steps=(1,))
    assert newest_whole(checkpoints) == 1
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]


def test_a_folder_may_be_called_like_a_pattern(tmp_path):
    checkpoints = Checkpoints(tmp_path / "[x] *")
    checkpoints.save(1, state(1), best_steps=(1,))
    np.testing.assert_array_equal(checkpoints.restore(1, state(0)).state["weights"], state(1)["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["[x] *"]
