"""What a user reads where the machine refuses."""

import errno
import subprocess
import sys

import pytest

from experiments.cli import USER_ERROR, run_main
from tests.experiments.scripts import ROOT


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


def test_help_lists_what_a_program_defines_itself():
    program = """
from absl import flags
from experiments.cli import start
flags.DEFINE_integer("cats", 3, "How many.")
start(lambda: None, "Counts cats.")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[:4] == ["Counts cats.", "", "Own flags:", "  --cats: How many. (default: 3)"]
