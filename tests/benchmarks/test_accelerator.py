"""The accelerator script in its smallest form, on the CPU: what it writes, and that a step that fails stops nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Machine, Step, markdown, run_step

ROOT = Path(__file__).parents[2]


def test_the_whole_script(tmp_path):
    pytest.importorskip("torch", reason="the PyTorch peer needs the extra: pip install 'diffrec-jax[bench]'")
    command = [
        sys.executable, "-m", "benchmarks.accelerator", f"--out={tmp_path / 'out'}",
        "--test_paths=tests/test_files.py,tests/no_such_test.py",
    ]  # fmt: skip
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert "no accelerator here: small forms of the steps" in done.stdout
    assert done.returncode == 2 and "error: not passed: tests; see" in done.stderr, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "accelerator.jsonl").read_text().splitlines()]
    machine, tests, throughput, together, training, case, case_together, run = records
    assert (machine["platform"], machine["versions"]["diffrec-jax"]) == ("cpu", run["versions"]["diffrec-jax"])
    assert (tests["name"], tests["exit"] != 0) == ("tests", True) and "no_such_test" in tests["last_line"]
    assert [step["exit"] for step in (throughput, together, training)] == [0, 0, 0]
    assert (case["steps"], case_together["steps"]) == (1, 8)
    assert case["train_users_per_s"] > 0 and case["peer_train_users_per_s"] > 0
    assert 0 < run["test"]["recall@20"] < 1 and run["timings"]["total_s"] > 0
    report = (tmp_path / "out" / "accelerator.md").read_text()
    assert "| tests | failed (4) |" in report and "| training | passed |" in report
    assert f"test recall@20 {run['test']['recall@20']:.4f}" in report
    assert f"{case['train_users_per_s']:,.0f}" in report
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {
        "tests.log",
        "throughput.log",
        "steps at once.log",
        "training.log",
    }


def test_a_step_that_takes_too_long_is_stopped_and_said_so(tmp_path):
    step = Step("slow", [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"], 0.5)
    record = run_step(step, tmp_path / "slow.log")
    assert record["exit"] is None and record["seconds"] < 30
    assert (tmp_path / "slow.log").read_text().startswith("begun")
    assert "| slow | too slow |" in markdown(Machine("gpu", "H100", 1), [record])


def test_an_accelerator_gets_the_whole_form_within_six_minutes(tmp_path, monkeypatch):
    class Flags:
        test_paths, data_dir = (), None

    monkeypatch.setattr(accelerator, "FLAGS", Flags)
    monkeypatch.setenv("DIFFREC_DATA_DIR", str(tmp_path))
    steps = accelerator.make_steps(Machine("gpu", "H100", 1), tmp_path)
    assert sum(step.limit_s for step in steps) <= 360
    commands = {step.name: " ".join(step.command) for step in steps}
    assert "--shapes=ml-1m,yelp,amazon-book" in commands["throughput"]
    assert "--dataset=synthetic-ml-1m" in commands["training"]
    for path in accelerator.DEVICE_TESTS:
        assert (ROOT / path).exists() and path in commands["tests"]
    (tmp_path / "ml-1m_clean").mkdir()
    (tmp_path / "ml-1m_clean" / "train_list.npy").write_bytes(b"")
    whole = accelerator.make_steps(Machine("gpu", "H100", 1), tmp_path)
    assert f"--dataset=ml-1m --data_dir={tmp_path}" in " ".join(whole[-1].command)


def test_what_the_tests_set_for_themselves_is_not_measured(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    assert not {*accelerator.OF_TESTS} & accelerator.environment().keys()
    assert "JAX_DISABLE_MOST_OPTIMIZATIONS" in accelerator.environment(measures=False)
    assert "PYTEST_CURRENT_TEST" not in accelerator.environment()
