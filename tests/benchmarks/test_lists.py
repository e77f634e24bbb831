"""The benchmark of lists for many users, small."""

import json
import subprocess
import sys

import pytest

from experiments.timings import timings_table
from tests.experiments.scripts import ROOT, environment

pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'diffrec-jax[bench]'")
pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'diffrec-jax[data]'")


def test_lists_of_several_numbers_of_users_are_written_and_told(tmp_path):
    out = tmp_path / "lists.jsonl"
    command = [sys.executable, "-m", "benchmarks.lists", "--shape=small", "--users=30,90", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["users"] for record in records] == [30, 90]
    assert all(record["ours_s"][0] > 0 and record["file_bytes"] > 20 * record["users"] for record in records)
    row = [cell.text for cell in timings_table(out, ["lists small"]).rows[1]]
    assert row[0].startswith("lists of 90 users") and row[-1].endswith("--shape=small --users=30,90`")
