"""Runs the scripts in processes of their own, forked from one that has the slow imports behind it.

``python -m experiments.SCRIPT`` spends two seconds on importing before it does anything. A server, one for each worker
of the tests, imports the same once and forks a process for each run: with its own flags, environment, output and exit.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = [
    "--dataset=synthetic",
    "--synthetic_users=200",
    "--synthetic_items=100",
    "--synthetic_interactions=4000",
    "--dims=16",
    "--batch_size=40",
    "--epochs=6",
    "--eval_every=2",
    "--patience=0",
]


def environment(tmp_path):
    values = {key: value for key, value in os.environ.items() if key not in ("DIFFREC_DATA_DIR", "XLA_FLAGS")}
    return values | {"JAX_PLATFORMS": "cpu", "MPLCONFIGDIR": str(tmp_path / "mpl"), "COLUMNS": "200"}


@functools.cache
def server(optimised):
    """One that imported JAX with most optimisations of XLA, or with none: JAX reads that when it is imported."""
    own = environment(Path(tempfile.gettempdir()))
    if optimised:
        own.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.scripts"],
        cwd=ROOT, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    atexit.register(process.kill)
    return process


def run(tmp_path, script, *flags, expect=0):
    """A finished script: its exit code, which has to be ``expect``, and its output."""
    process = server("JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ)
    with tempfile.TemporaryDirectory() as folder:
        request = {"script": script, "flags": flags, "folder": folder, "env": environment(tmp_path)}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        output, errors = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    assert code == expect, output + errors
    return subprocess.CompletedProcess([script, *flags], code, output, errors)


def run_in_fork(request):
    """Becomes the script."""
    import runpy

    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ |= request["env"]
    sys.argv = [request["script"], *request["flags"]]
    runpy.run_module(f"experiments.{request['script']}", run_name="__main__", alter_sys=True)


def serve():
    """Forks for each line of the standard input, and answers with the exit code."""
    import matplotlib.figure  # noqa: F401

    import diffrec_jax  # noqa: F401
    import experiments.cli
    import experiments.config
    import experiments.console
    import experiments.runs  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run_in_fork(request)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
