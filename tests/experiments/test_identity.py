"""What is shown is what was asked for: results, files and runs are known by what made them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diffrec_jax.api import load_run
from diffrec_jax.config import ConfigError, default_k
from diffrec_jax.data import SyntheticSpec, add_random_noise, make_synthetic, read_official
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.training.run_directory import RunDirectory
from experiments.config import new_run_config, resumed_run_config
from experiments.flag_parsers import IntListParser
from experiments.runs import check_existing, parse_train_flags
from experiments.sweep import default_metrics, run_name
from tests.experiments.scripts import ROOT, TINY, environment, run

pytestmark = pytest.mark.once


def save(folder, num_users=120, seed=0):
    """A dataset in the released layout."""
    dataset = make_synthetic(SyntheticSpec(num_users, 80, 20 * num_users, num_clusters=4), seed=seed)
    folder.mkdir(parents=True)
    for split in SPLITS:
        matrix = getattr(dataset, split).tocoo()
        np.save(folder / f"{split}_list.npy", np.stack([matrix.row, matrix.col], axis=1).astype(np.int64))
    return folder


def results(path):
    return json.loads((path / "results.json").read_text())


def test_a_comparison_takes_no_run_of_other_data_or_settings(tmp_path):
    """Each of these once printed the first run's figures."""
    a, b = save(tmp_path / "a"), save(tmp_path / "b", 200, seed=9)
    flags = ["--models=ease", "--seeds=1", f"--compare_dir={tmp_path / 'c'}", "--"]
    run(tmp_path, "compare", *flags, f"--dataset={a}")
    assert "running" not in run(tmp_path, "compare", *flags, f"--dataset={a}").stdout
    for other, message in (
        ([f"--dataset={b}"], "data_sha256 ("),
        ([f"--dataset={a}", "--l2=5"], "recommender.l2 (500.0 there, 5.0 asked for)"),
    ):
        (line,) = run(tmp_path, "compare", *flags, *other, expect=2).stderr.splitlines()
        assert "ease_seed=1 holds a run of another configuration" in line and message in line
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert json.loads((tmp_path / "c" / "ease_seed=1" / "config.json").read_text())["data_sha256"] in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--lr=0.5"], "training.lr"),
        (["--synthetic_seed=3"], "data_sha256"),
        (["--prng_impl=rbg"], "training.prng_impl"),
        (["--ks=5,20"], "evaluation.ks"),
        (["--matmul_precision=float32"], "matmul_precision"),
        (["--tuning_holdout=0.3"], "data.tuning_holdout"),
        (["--random_noise=0.3"], "data.random_noise"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_part_of_a_configuration_counts(tmp_path, other, message):
    config = new_run_config(parse_train_flags(TINY))
    RunDirectory(tmp_path / "r").create(config.to_dict(config.data.load()))
    check_existing({tmp_path / "r": TINY})
    with pytest.raises(ConfigError, match=f"another configuration: .*{message}"):
        check_existing({tmp_path / "r": [*TINY, *other]})


def test_the_version_of_the_project_counts(tmp_path, monkeypatch):
    config = new_run_config(parse_train_flags(TINY))
    RunDirectory(tmp_path / "r").create(config.to_dict(config.data.load()))
    monkeypatch.setattr("diffrec_jax.config.run_config.__version__", "99.0")
    with pytest.raises(ConfigError, match=r"version \(.* there, 99.0 asked for\)"):
        check_existing({tmp_path / "r": TINY})


def test_the_content_of_an_embeddings_file_counts(tmp_path):
    file = tmp_path / "vectors.npy"
    np.save(file, np.random.default_rng(0).normal(size=(100, 4)))
    flags = ["--model=l_diffrec", *(flag for flag in TINY if "dims" not in flag), f"--item_embeddings={file}"]
    config = new_run_config(parse_train_flags(flags))
    RunDirectory(tmp_path / "r").create(config.to_dict(config.data.load()))
    check_existing({tmp_path / "r": flags})
    np.save(file, np.random.default_rng(1).normal(size=(100, 4)))
    with pytest.raises(ConfigError, match="item_embeddings_sha256"):
        check_existing({tmp_path / "r": flags})


def test_a_run_goes_on_with_its_own_generator():
    """Whatever the default is where it is resumed; flags that are given count."""
    stored = new_run_config(parse_train_flags([*TINY, "--prng_impl=rbg"]))
    assert resumed_run_config(stored, parse_train_flags([])).training.prng_impl == "rbg"
    assert resumed_run_config(stored, parse_train_flags(["--epochs=9"])).training.epochs == 9
    unknown = dataclasses.replace(stored, training=dataclasses.replace(stored.training, prng_impl="dice"))
    with pytest.raises(ConfigError, match="dice"):
        resumed_run_config(unknown, parse_train_flags([]))


def test_wrong_flags_of_a_run_are_told_before_any_run():
    with pytest.raises(ConfigError, match="after --: flags of experiments.train"):
        parse_train_flags(["--no_such_flag=1"])
    with pytest.raises(ConfigError, match="unexpected argument 'ml-1m'"):
        parse_train_flags(["ml-1m"])


def test_names_of_runs_in_a_sweep_do_not_meet():
    names = {run_name({"infer_recency": value}, 1) for value in ("exp:5@0.8", "exp:5:0.8", "exp_5_0.8", "exp 5 0.8")}
    assert len(names) == 4
    assert run_name({"lr": "1e-4", "dims": "200,600"}, 2) == "lr=1e-4_dims=200,600_seed=2"


def test_the_default_metric_follows_the_list_lengths():
    for ks, k in (("5", 5), ("5,10", 10), ("10,20,50", 20), ("50,100", 100)):
        config = new_run_config(parse_train_flags([*TINY, f"--ks={ks}"]))
        assert config.training.metric == f"recall@{k}" == f"recall@{default_k(config.evaluation.ks)}"
    assert default_metrics({"evaluation": {"ks": [5, 7]}}) == ["recall@7", "ndcg@7"]
    with pytest.raises(ConfigError, match="metric 'recall@20' is not evaluated"):
        new_run_config(parse_train_flags([*TINY, "--ks=5", "--metric=recall@20"]))


def test_seeds_of_the_scripts():
    assert IntListParser(least=0).parse("0,9223372036854775807") == (0, 2**63 - 1)
    with pytest.raises(ValueError, match="no list of integers from 0"):
        IntListParser(least=0).parse("9223372036854775808")
    with pytest.raises(ValueError, match="no list of positive integers"):
        IntListParser().parse("0")
    for seed in ("-1", "9223372036854775808", "99999999999999999999"):
        with pytest.raises(ConfigError, match="seed"):
            parse_train_flags([f"--seed={seed}"])
    assert new_run_config(parse_train_flags([*TINY, f"--seed={2**32 + 1}"])).training.seed == 2**32 + 1


def test_a_run_finds_its_data_by_what_they_are(tmp_path):
    """Wherever they lie and wherever the scripts are started; other data in their place are refused."""
    first, moved, other = save(tmp_path / "x" / "a"), tmp_path / "y" / "b", save(tmp_path / "other", seed=5)
    path = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.train", "--model=ease", "--dataset=a", f"--run_dir={path}"]
    env = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=first.parent, env=env, check=True, capture_output=True, timeout=100)
    before = results(path)
    assert before["dataset"] == str(first)
    expected = f"{before['test']['recall@20']:.4f}"
    assert expected in run(tmp_path, "evaluate", f"--run_dir={path}").stdout  # from another directory
    moved.parent.mkdir()
    shutil.move(first, moved)
    (line,) = run(tmp_path, "evaluate", f"--run_dir={path}", expect=2).stderr.splitlines()
    assert f"the run's data were in {first}, which is no longer there" in line and "--dataset=FOLDER" in line
    (line,) = run(tmp_path, "evaluate", f"--run_dir={path}", f"--dataset={other}", expect=2).stderr.splitlines()
    assert "is not the data that" in line
    assert expected in run(tmp_path, "evaluate", f"--run_dir={path}", f"--dataset={moved}").stdout
    assert "is finished" in run(tmp_path, "train", f"--run_dir={path}", "--resume", f"--dataset={moved}").stdout
    (path / "results.json").unlink()  # as an interrupted run leaves it
    assert expected in run(tmp_path, "train", f"--run_dir={path}", "--resume").stdout  # the new place is known
    (line,) = run(
        tmp_path, "train", f"--run_dir={path}", "--resume", f"--dataset={other}", expect=2
    ).stderr.splitlines()
    assert "data_sha256" in line


def test_a_run_on_random_noise_keeps_it_everywhere(tmp_path):
    data, path = save(tmp_path / "shop"), tmp_path / "run"
    flags = ["--model=ease", f"--dataset={data}", "--per_user", f"--run_dir={path}"]
    title = "shop, 30% random noise, test split, official mode"
    assert title in run(tmp_path, "train", *flags, "--random_noise=0.3").stdout
    found = results(path)
    assert found["random_noise"] == 0.3
    shown = run(tmp_path, "evaluate", f"--run_dir={path}").stdout
    assert "shop, 30% random noise, official mode" in shown and f"{found['test']['recall@20']:.4f}" in shown
    (line,) = run(tmp_path, "train", *flags, "--random_noise=0.2", "--resume", expect=2).stderr.splitlines()
    assert "data.random_noise (0.3 there, 0.2 asked for)" in line
    assert load_run(path).dataset.fingerprint == add_random_noise(read_official(data), 0.3).fingerprint
    compare = ("compare", f"--compare_dir={tmp_path / 'c'}", f"--runs={path}", "--metric=recall@7")
    assert title in run(tmp_path, *compare).stdout  # a metric that the run did not measure


def test_users_metrics_that_are_measured_otherwise_go_elsewhere(tmp_path):
    data = save(tmp_path / "a")
    flags = ["--models=ease,popularity", "--seeds=1", f"--compare_dir={tmp_path / 'c'}", "--", f"--dataset={data}"]
    run(tmp_path, "compare", *flags)
    path, table = tmp_path / "c" / "ease_seed=1", (tmp_path / "c" / "comparison.csv").read_text()
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    output = run(tmp_path, "evaluate", f"--run_dir={path}", "--test_with_valid_input", "--per_user").stdout
    assert str(path / "per_user_test.test_with_valid_input=True.npz") in output
    assert before == {file: file.read_bytes() for file in before}
    run(tmp_path, "compare", *flags)
    assert (tmp_path / "c" / "comparison.csv").read_text() == table
    shutil.copy(path / "per_user_test.test_with_valid_input=True.npz", path / "per_user_test.npz")
    (line,) = run(tmp_path, "compare", *flags, expect=2).stderr.splitlines()
    assert "per_user_test.npz is not of the results beside it" in line and "test_with_valid_input" in line
    assert "diffrec evaluate" in line
    run(tmp_path, "evaluate", f"--run_dir={path}", "--per_user")
    assert (path / "per_user_test.npz").read_bytes() == before[path / "per_user_test.npz"]


def test_a_second_process_in_a_run_directory_says_who_is_there(tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.train", *TINY, "--epochs=100000", f"--run_dir={path}", "--resume"]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (path / "metrics.jsonl").exists():
                assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            for wait in ([], ["--wait_minutes=0.01"]):
                second = run(tmp_path, "train", f"--run_dir={path}", "--resume", *wait, expect=2)
                (line,) = second.stderr.splitlines()
                assert f"{path} is in use by process {first.pid} on " in line
                assert ("waiting for at most 0.01 minutes: " in second.stdout) == bool(wait)
            assert first.poll() is None
        finally:
            first.kill()
            first.wait()
    assert sum('"resume"' in text for text in (path / "metrics.jsonl").read_text().splitlines()) == 0


def test_names_are_shown_and_used_as_they_are(tmp_path):
    """~ is the home directory, [x] no markup and $ no formula, in paths as in pictures."""
    home = tmp_path / "home"
    data = save(home / "[red]ml$1$ [x]")
    flags = [*(flag for flag in TINY if "synthetic" not in flag), "--epochs=1", "--model=diffrec", "--nobaseline"]
    command = [sys.executable, "-m", "experiments.train", *flags, f"--dataset=~/{data.name}", "--run_dir=~/runs/[x]"]
    env = environment(tmp_path) | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(home / "runs" / "[x]")["dataset"] == str(data)
    assert "[red]ml$1$ [x]" in done.stdout and "runs/[x]/results.json" in done.stdout
    assert (home / "runs" / "[x]" / "learning_curve.png").stat().st_size > 1000
    assert not (tmp_path / "~").exists()


LIMIT_FILES = "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2); "


@pytest.mark.parametrize("limit", [4_000, 100_000])
def test_a_disk_that_fills_up_ends_in_one_line(tmp_path, limit):
    """A limit on the size of files stands for it: the first checkpoint, or its largest file, cannot be written."""
    code = LIMIT_FILES + "sys.argv[0] = 'train'; runpy.run_module('experiments.train', run_name='__main__')"
    command = [sys.executable, "-c", code, str(limit), *TINY, "--dims=2000", f"--run_dir={tmp_path / 'run'}"]
    env = environment(tmp_path) | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith(f"error: checkpoint {tmp_path / 'run' / 'checkpoints'}") and "are free there" in lines[0]


def test_a_directory_that_cannot_be_made_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = run(
        tmp_path, "train", "--model=popularity", *TINY[:4], f"--run_dir={tmp_path / 'file' / 'run'}", expect=2
    ).stderr.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "file") in line
    for script, flag in (("compare", "compare_dir"), ("sweep", "sweep_dir")):
        what = ["--models=popularity", "--seeds=1", "--"]
        if script == "sweep":
            what = ["--grid=ks=5", "--", "--model=popularity"]
        flags = [f"--{flag}={tmp_path / 'file' / 'x'}", *what, *TINY[:4]]
        (line,) = run(tmp_path, script, *flags, expect=2).stderr.splitlines()
        assert line.startswith("error: ") and str(tmp_path / "file") in line


def test_programs_are_kept_in_the_users_own_cache(tmp_path):
    code = (
        "import jax; from experiments.cache import keep_compiled_programs as keep; print(keep()); "
        "print(jax.config.jax_compilation_cache_dir)"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}

    def kept(**changes):
        command = [sys.executable, "-c", code]
        env_of_it = env | {"XDG_CACHE_HOME": str(tmp_path / "cache")} | changes
        return subprocess.run(
            command, cwd=ROOT, env=env_of_it, capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()

    complaint, folder = kept()
    assert complaint == "None" and folder.startswith(str(tmp_path / "cache" / "diffrec-jax"))
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    Path(folder).chmod(0o777)
    complaint, none = kept()
    assert "others may write to it" in complaint and none == "None"
    assert kept(JAX_COMPILATION_CACHE_DIR="/elsewhere") == ["None", "/elsewhere"]
