"""The queue that does studies: each part, then all of them at toy size, killed in the middle."""

import dataclasses
import html
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffrec_jax.config import ConfigError
from experiments import kept
from experiments.findings import CONFIRMED, UNCONFIRMED
from experiments.plan import plan, variants_of
from experiments.protocols import PROTOCOLS
from experiments.reproduce import chosen_studies, missing_protocols, submit, write_job_array
from experiments.runs import STARTED, execute, failure, parse_train_flags, shares_of_cores
from experiments.studies import STUDIES
from experiments.study import DATA, QUICK
from tests.experiments.scripts import ROOT, environment, run

pytestmark = pytest.mark.once

TOY = ("--dataset=synthetic", "--synthetic_users=50", "--synthetic_items=30", "--synthetic_interactions=600")


def test_studies_name_what_there_is():
    assert len({study.name for study in STUDIES}) == len(STUDIES)
    for study in STUDIES:
        assert study.against in study.variants and set(study.data) <= set(DATA)
        assert set(variants_of(study, quick=True)) <= set(study.variants) and len(study.variants) > 1
        for claim in study.claims:
            assert {claim.better, claim.worse} <= set(study.variants) and claim.data in study.data
        for flags in study.variants.values():
            parse_train_flags([flag.format(seed=1) for flag in flags])
    with pytest.raises(ConfigError, match="nothing is unknown: choose among published, models, "):
        chosen_studies(["nothing"])


def test_a_run_is_planned_once_for_all_studies():
    """The plain DiffRec is the reference of many studies, at toy size as at full."""
    planned, missing = plan(STUDIES, quick=True)
    assert not missing and {one.data for one in planned} == {QUICK}
    same = [one for one in planned if one.identity == planned[0].identity]
    assert len({one.study.name for one in same}) > 5
    assert {one.study.name for one in planned} == {study.name for study in STUDIES}


def test_a_flag_may_follow_the_seed(monkeypatch):
    monkeypatch.setattr("experiments.plan.QUICK_SEEDS", (1, 2))
    planned, _ = plan(chosen_studies(["grouping"]), quick=True)
    drawn = [flag for one in planned for flag in one.flags if "groups_seed" in flag or flag.startswith("--seed=")]
    assert drawn == ["--groups_seed=1", "--seed=1", "--groups_seed=2", "--seed=2"] * 2
    assert len({one.identity for one in planned}) == 4


def test_other_protocols_are_for_the_first_seed_alone(tmp_path):
    planned, _ = plan(chosen_studies(["models"]), quick=True)
    first = planned[0]
    second = dataclasses.replace(first, identity="of seed 2")
    store = SimpleNamespace(finished=lambda identity: tmp_path if identity == "of seed 2" else None)
    assert missing_protocols([first, second], store) == {}
    assert len(missing_protocols([second, first], store)) == len(PROTOCOLS)


def test_data_that_are_not_there_are_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_DATA_DIR", str(tmp_path))
    planned, missing = plan(chosen_studies(["steps"]), quick=False)
    assert planned == [] and "is not" in missing["ml-1m clean"] and "--name=ml-1m" in missing["ml-1m clean"]


def test_commands_are_done_side_by_side_until_the_time_is_over(tmp_path):
    def sleep(seconds, code):
        return [sys.executable, "-c", f"import time; time.sleep({seconds}); print('said'); raise SystemExit({code})"]

    commands = {tmp_path / "a": sleep(0, 0), tmp_path / "b": sleep(0, 3)}
    assert dict(execute(commands, jobs=2)) == {tmp_path / "a": 0, tmp_path / "b": 3}
    assert (tmp_path / "b.log").read_text().splitlines()[1:] == ["said"]
    list(execute({tmp_path / "b": sleep(0, 0)}))
    assert (tmp_path / "b.log").read_text().count("\nsaid\n") == 2  # what was told before stays
    (tmp_path / "b.log").write_bytes(f"error: older\n{STARTED}x\nerror: this\nlater ".encode() + b"\x94")
    assert "exit code 3: this (" in str(failure(tmp_path / "b", 3))
    started = time.monotonic()
    assert list(execute({tmp_path / "c": sleep(600, 0)}, ends_at=started + 0.5)) == []
    assert list(execute({tmp_path / "d": sleep(0, 0)}, ends_at=started)) == []
    assert not (tmp_path / "d.log").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity of processes to cores on this system")
def test_jobs_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 9, 10})
    assert shares_of_cores(1) == [None]
    assert shares_of_cores(2) == [{4, 6, 10}, {5, 9}]
    assert shares_of_cores(6)[4:] == [{10}, None]
    monkeypatch.undo()
    cores = os.sched_getaffinity(0)
    tell = [sys.executable, "-c", "import os, time; time.sleep(0.3); print(*sorted(os.sched_getaffinity(0)))"]
    paths = [tmp_path / name for name in "abc"]
    assert dict(execute(dict.fromkeys(paths, tell), jobs=2)) == dict.fromkeys(paths, 0)
    told = [{int(core) for core in path.with_suffix(".log").read_text().splitlines()[-1].split()} for path in paths]
    expected = shares_of_cores(2)
    assert all(share in [each or cores for each in expected] for share in told)
    assert told[0] | told[1] == cores


def do_task(script, number):
    own = os.environ | {"SLURM_ARRAY_TASK_ID": number}
    return subprocess.run(["sh", str(script)], env=own, capture_output=True, text=True, check=False)


def test_a_job_array_does_a_command_each(tmp_path):
    """Its own, whatever array is written later, in folders of any name."""
    folder = tmp_path / "it's 50% of #1"
    done = [folder / f"it's {name}" for name in "abc"]
    first, second = ([shlex.join(["touch", str(path)]) for path in paths] for paths in (done[:2], done[2:]))
    script, later = write_job_array(first, folder), write_job_array(second, folder)
    assert script != later and write_job_array(first, folder) == script
    options = [line.split(" ", 1)[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    logs = str(folder).replace("%", "%%")
    assert "--array=1-2" in options and shlex.split(options[1]) == [f"--output={logs}/slurm-%A_%a.log"]
    assert do_task(script, "2").returncode == 0
    assert [path.exists() for path in done] == [False, True, False]
    for wrong in ("3", "0", ""):
        task = do_task(script, wrong)
        assert task.returncode == 1 and f"no job '{wrong}' in this array: they are 1 to 2" in task.stderr


def test_a_job_array_that_cannot_be_handed_in_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    script = tmp_path / "a folder" / "jobs.sbatch"
    with pytest.raises(ConfigError, match=r"cannot be started: .* to hand in by: sbatch '.*/a folder/jobs\.sbatch'$"):
        submit(script)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho no such account >&2\nexit 3\n")
    sbatch.chmod(0o755)
    with pytest.raises(ConfigError, match=r"ended with exit code 3: no such account\. The job array is written"):
        submit(script)
    sbatch.write_text('#!/bin/sh\necho "Submitted $1"\n')
    assert submit(script) == f"Submitted {script}"


def test_what_is_missing_is_listed_for_others_to_run(tmp_path):
    """On the standard output are commands alone, and the folder need not be there."""
    given = ["--studies=timesteps", "--quick", f"--runs_dir={tmp_path / 'new'}"]
    told = run(tmp_path, "reproduce", *given, "--launch=list")
    listed = told.stdout.splitlines()
    assert len(listed) == 2 and all(" -m experiments.train " in line for line in listed)
    assert "other protocols" not in told.stderr
    run(tmp_path, "reproduce", *given, "--launch=slurm")
    (script,) = (tmp_path / "new").glob("jobs-*.sbatch")
    assert [line for line in script.read_text().splitlines() if " exec " in line] == [
        f"{number}) exec {line} ;;" for number, line in enumerate(listed, start=1)
    ]
    run(tmp_path, "reproduce", *given)
    done = run(tmp_path, "reproduce", *given, "--launch=list")
    assert done.stdout == "" and "nothing is missing" in done.stderr
    folder = next(tmp_path.glob("new/*/config.json")).parent
    (folder / "per_user_test.npz").unlink()
    assert " -m experiments.evaluate " in run(tmp_path, "reproduce", *given, "--launch=list").stdout
    (folder / "results.json").write_text("{")
    told = run(tmp_path, "reproduce", *given, expect=2)
    assert "1 of 1: " in told.stdout and "results.json is not valid JSON" in told.stderr


def test_measurements_that_need_finished_runs_are_told_of(tmp_path):
    told = run(tmp_path, "reproduce", "--studies=models", "--quick", f"--runs_dir={tmp_path}", "--launch=list")
    assert "the same command lists them then" in told.stderr and " -m experiments.evaluate " not in told.stdout


def wait_until(found, process, log):
    """What is found, at last, unless the process ends before."""
    deadline = time.monotonic() + 200
    while not (it := found()):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return it


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_a_queue_that_was_killed_alone_goes_on(tmp_path):
    """Its run is told to end, and saves what it has, for which the next queue waits."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    command = [sys.executable, "-m", "experiments.reproduce", "--studies=timesteps", "--quick", f"--runs_dir={runs}"]
    with log.open("w") as out:

        def start():
            return subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=out, stderr=out)

        first = start()
        lock = wait_until(
            lambda: next((path for path in runs.glob("*/run.lock") if path.read_text()), None), first, log
        )
        holder = json.loads(lock.read_text())["pid"]
        os.kill(holder, signal.SIGSTOP)  # as if saving took it long
        try:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            second, told = start(), lock.parent.with_name(lock.parent.name + ".log")
            wait_until(lambda: "waiting for at most 5 minutes: " in told.read_text(), second, log)
        finally:
            os.kill(holder, signal.SIGCONT)
        assert second.wait(timeout=200) == 0, log.read_text()
    assert "SIGTERM" in told.read_text() and len(list(runs.glob("*/results.json"))) == 2


def numbers(found):
    """What does not depend on how long it took, or where."""
    return {
        name: (
            {
                data: [(row.label, row.valid, row.test, row.p_value, row.protocols) for row in own.rows]
                for data, own in of.by_data.items()
            },
            [claim for claim in of.claims if claim.metric == "recall@20"],
        )
        for name, of in found.items()
    }


SOME = ["timesteps", "noise-scale", "ratings"]


def test_all_studies_at_toy_size_killed_in_the_middle(tmp_path):
    """The same command goes on, and the report is that of a queue which nothing happened to."""
    given = ["--quick", f"--runs_dir={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "experiments.reproduce", "--jobs=2", *given]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log, start_new_session=True
        )
        wait_until(lambda: len(list(tmp_path.glob("runs/*/results.json"))) >= 5, first, tmp_path / "log")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    done = {path.parent for path in tmp_path.glob("runs/*/results.json")}
    again = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not any(f"running {path}\n" in again.stdout for path in done)
    folder, out = tmp_path / "kept", tmp_path / "report"
    run(tmp_path, "report", *given, f"--findings={folder}", f"--out={out}")
    found = kept.read(folder, [study.name for study in STUDIES])
    assert sorted(found) == sorted(study.name for study in STUDIES)
    page = (out / "report.html").read_text()
    assert all(html.escape(study.title) in page for study in STUDIES)
    written = (out / "report.md").read_text()
    assert f"| {CONFIRMED} | {QUICK} |" in written and f"| {UNCONFIRMED} | {QUICK} |" in written
    shutil.rmtree(out)
    run(tmp_path, "report", "--noruns", f"--findings={folder}", f"--out={out}")
    assert (out / "report.md").read_text() == written

    undisturbed = tmp_path / "undisturbed"
    run(tmp_path, "reproduce", "--quick", "--jobs=2", f"--runs_dir={undisturbed}")
    own = [f"--findings={undisturbed / 'kept'}", f"--out={undisturbed / 'report'}"]
    run(tmp_path, "report", "--quick", f"--runs_dir={undisturbed}", *own)
    others = kept.read(undisturbed / "kept", sorted(found))
    expected = numbers(others)
    assert numbers(found) == expected

    some = [f"--studies={','.join(SOME)}", "--quick"]
    one = Path(others[SOME[0]].by_data[QUICK].rows[0].runs[0])  # as if each had been made on a machine of its own
    shutil.move(one, tmp_path / "elsewhere" / one.name)
    for place in ("elsewhere", "undisturbed"):
        into = [f"--findings={tmp_path / 'in turn'}", f"--out={out}"]
        run(tmp_path, "report", *some, f"--runs_dir={tmp_path / place}", *into)
    assert numbers(kept.read(tmp_path / "in turn", SOME)) == {name: expected[name] for name in SOME}
