"""What a user reads where the machine refuses."""

import errno

import pytest

from experiments.cli import USER_ERROR, run_main


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "another folder"), (errno.EACCES, "another folder")],
)
def test_a_folder_that_cannot_be_written_is_one_line_with_advice(capsys, number, advice):
    def main() -> None:
        raise OSError(number, "refused", "/runs/a")

    assert run_main(main) == USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: /runs/a: refused") and advice in said and said.count("\n") == 1
