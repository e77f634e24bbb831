import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffrec_jax.files import atomic_file, naming, read_signed_json, safe_name, signed_json, write_atomically


def test_atomic_writing_leaves_no_second_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_file_are_apart_and_what_killed_ones_left_goes(tmp_path):
    path, left, fresh, other = (
        tmp_path / name for name in ("a.json", "a.json.7-0a.tmp", "a.json.8-0b.tmp", "b.7-0a.tmp")
    )
    for unfinished in (left, fresh, other):
        unfinished.touch()
    for unfinished in (left, other):
        os.utime(unfinished, (0, 0))
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_text() == "first"  # the last to end
    assert sorted(tmp_path.iterdir()) == [path, fresh, other]


def test_what_fails_leaves_the_old_content_and_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with pytest.raises(OSError, match="No space left") as found, atomic_file(path) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert found.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_that_names_a_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as found, naming(tmp_path):
        (tmp_path / "nothing").open()
    assert found.value.filename == str(tmp_path / "nothing")


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_names_are_files_and_differ_where_the_texts_do(first, second):
    names = [safe_name(text) for text in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        assert "/" not in name and len(name.encode()) < 250


def test_readable_names_stay_as_they_are():
    assert safe_name("lr=1e-4_dims=200,600_seed=1") == "lr=1e-4_dims=200,600_seed=1"
    assert safe_name("exp:5@0.8") != safe_name("exp:5:0.8")


def test_a_signed_text_shows_any_change():
    content = {"a": [1, 2.5, None, float("inf")], "b": {"c": "é\n"}}
    text = signed_json(content)
    assert read_signed_json(text) == content
    for place in range(len(text)):
        for changed in (text[:place] + text[place + 1 :], text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]):
            with pytest.raises(ValueError):
                read_signed_json(changed)
    for other in ("[]", "1", "{}", '{"a": 1}'):
        with pytest.raises(ValueError, match="not what was written"):
            read_signed_json(other)
