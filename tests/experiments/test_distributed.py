"""Two processes of two CPU devices each, as a user starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.once

FLAGS = [
    "--model=diffrec", "--dataset=synthetic", "--synthetic_users=120", "--synthetic_items=90",
    "--synthetic_interactions=2400", "--dims=8", "--steps=3", "--batch_size=40", "--eval_every=1", "--lr=1e-2",
    "--patience=0", "--nobaseline", "--ks=10,20",
]  # fmt: skip


def start(run_dir, *flags, process=None, port=None, num_devices=2):
    command = [sys.executable, "-m", "experiments.train", f"--run_dir={run_dir}", *FLAGS, *flags]
    if process is not None:
        command += ["--distributed", f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"]
        command += [f"--process_id={process}", "--heartbeat_seconds=12"]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_pair(run_dir, *flags):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(run_dir, *flags, process=process, port=port) for process in (0, 1)]


def finish(processes):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def results(run_dir):
    return json.loads((run_dir / "results.json").read_text())


def evaluations(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {record["epoch"]: record["valid"] for record in records if record["event"] == "evaluation"}


def assert_same_results(run_dir, undisturbed):
    found, expected = evaluations(run_dir), evaluations(undisturbed)
    assert found.keys() == expected.keys()
    for epoch in expected:
        np.testing.assert_allclose(list(found[epoch].values()), list(expected[epoch].values()), atol=1e-4)
    for split in ("valid", "test"):
        values = [list(results(path)[split].values()) for path in (run_dir, undisturbed)]
        np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "number"),
    [([], signal.SIGKILL), (["--parallel=mesh", "--item_shards=4"], signal.SIGTERM)],
    ids=["pmap", "mesh 1x4"],
)
def test_two_processes_stopped_and_restarted_end_as_one_undisturbed(tmp_path, flags, number):
    """The second one is killed, and the first does not wait for it; or it is told to stop, and both do."""
    run_dir = tmp_path / "run"
    first = start_pair(run_dir, "--epochs=5000", *flags)
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() or '"evaluation"' not in metrics.read_text() or len(checkpoints(run_dir)) < 2:
        assert time.monotonic() < deadline and first[0].poll() is None, first[0].communicate()[0]
        time.sleep(0.1)
    first[1].send_signal(number)
    outputs = [process.communicate(timeout=150)[0] for process in first]
    assert [process.returncode for process in first] == [75, 75 if number == signal.SIGTERM else -signal.SIGKILL]
    assert ("saved: go on with --resume" if number == signal.SIGTERM else "another process of the job") in outputs[0]
    done = max(checkpoints(run_dir))
    whole = done // 3 + 2
    outputs = finish(start_pair(run_dir, f"--epochs={whole}", "--resume", *flags))
    assert "resuming from the checkpoint" in outputs[0]
    assert outputs[1].count("epoch") == 0  # one of them talks
    again = tmp_path / "again"
    finish([start(again, f"--epochs={whole}", num_devices=1)])
    assert_same_results(run_dir, again)


def checkpoints(run_dir):
    return [int(path.parent.name) for path in run_dir.glob("checkpoints/*[0-9]/manifest.json")]


def test_a_process_without_a_sign_of_life_ends_with_its_stacks():
    code = (
        "import time; from experiments.machines import Watchdog; dog = Watchdog(0.01); dog.alive(); time.sleep(0.3); "
        "dog.alive(); time.sleep(0.3); dog.stop(); time.sleep(1); print('lives'); dog.alive(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == "lives\n"
    assert "Timeout" in done.stderr and "most recent call first" in done.stderr


def test_a_job_alone_says_what_it_needs(tmp_path):
    process = start(tmp_path / "run", "--distributed", "--num_processes=2")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "error: --coordinator_address, --num_processes and --process_id go together" in output
    assert not (tmp_path / "run").exists()
