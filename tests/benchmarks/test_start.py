"""The benchmark of the start, small."""

import sys

import pytest

from benchmarks import start
from diffrec_jax.config import ConfigError

pytestmark = pytest.mark.once
SMALL = ["--synthetic_users=60", "--synthetic_items=40", "--synthetic_interactions=900", "--dims=8"]


def test_a_run_ends_with_its_first_step(tmp_path):
    command = [sys.executable, "-c", start.FIRST_STEP, f"--run_dir={tmp_path / 'run'}", *SMALL]
    assert start.seconds_of(command, tmp_path) > 0
    assert (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "results.json").exists()


def test_what_does_not_start_is_said(tmp_path):
    with pytest.raises(ConfigError, match="ended with 3: oh"):
        start.seconds_of([sys.executable, "-c", "import sys; sys.stderr.write('oh'); sys.exit(3)"], tmp_path)
