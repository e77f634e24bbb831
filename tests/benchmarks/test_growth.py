"""The benchmark of growth, small."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from diffrec_jax.config import ConfigError
from experiments.timings import timings_table
from tests.experiments.scripts import ROOT, environment

pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'diffrec-jax[bench]'")

from benchmarks import cost_model, growth


@pytest.mark.parametrize("num_items", [200, 2000, 100_003])
def test_no_item_occurs_twice_for_a_user(num_items):
    splits = growth.splits_of(300, num_items)
    pairs = np.concatenate(list(splits.values()))
    assert {split: len(own) for split, own in splits.items()} == {"train": 12_000, "valid": 1500, "test": 1500}
    assert len(np.unique(pairs, axis=0)) == len(pairs) and 0 <= pairs.min() <= pairs[:, 1].max() < num_items
    assert all((np.diff(own[:, 0]) >= 0).all() for own in splits.values())


def test_steps_are_read():
    assert growth.parse_step("1000:20:40") == (1000, 20, 40, "one")
    assert growth.parse_step("1000:20:40:mesh:2").way == "mesh:2"
    for wrong in ("1000", "1000:20", "1000:0:4", "a:20:40", "1:2:-3"):
        with pytest.raises(ConfigError, match="write ITEMS:HIDDEN:BATCH"):
            growth.parse_step(wrong)


def test_reading_is_predicted_by_n_log_n_from_the_case_nearest_ten_million():
    read = [{"interactions": number, "ours_s": [seconds]} for number, seconds in ((10**5, 9.0), (10**7, 2.0))]
    small, known = growth.with_predicted_seconds(read)
    assert known["predicted_s"] == pytest.approx(2.0)
    assert small["predicted_s"] == pytest.approx(0.02 * math.log(10**5) / math.log(10**7))


def test_a_step_is_measured_and_predicted(monkeypatch):
    monkeypatch.setattr(cost_model, "LARGE", 1000)
    monkeypatch.setattr(cost_model, "SUMMED", 1000)
    one, mesh = growth.Step(3000, 16, 20, "one"), growth.Step(3000, 16, 20, "mesh:2")
    found = growth.measure_step_seconds(mesh, repeats=2)
    assert found["rates_s"].keys() == {"products", "draws", "pass", "pass anew", "sum"}
    assert len(found["ours_s"]) == 2 and found["predicted_s"] > 0
    numbers, block = 2 * 3000 * 16, 20 * 3000
    predicted = {case.way: growth.measure_step_bytes(case)["predicted_bytes"] for case in (one, mesh)}
    assert predicted["one"] == 4 * (3 * numbers + max(numbers / 2 + 2 * block, numbers + block))
    # Two of four devices split the items, so parameters are there twice; sums lie beside gradients.
    assert predicted["mesh:2"] == 4 * (3 * 2 * numbers + max(numbers + 2 * block, 4 * numbers + block))


def test_readings_are_measured_kept_and_told(tmp_path):
    out = tmp_path / "growth.jsonl"
    command = [sys.executable, "-m", "benchmarks.growth", "--steps=", "--interactions=5000,9000", "--repeats=2"]
    command.append(f"--out={out}")
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for row in map(json.loads, out.read_text().splitlines()):
        assert len(row["ours_s"]) == 2 and row["ours_peak_bytes"] > 0
        assert row["predicted_bytes"] == growth.READ_BYTES * row["interactions"]
    assert len(timings_table(out, ["growth default"]).rows) == 2
