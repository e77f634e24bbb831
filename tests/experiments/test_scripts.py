"""The scripts as a user runs them: in processes of their own, with real signals and real exit codes."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import diffrec_jax as dr
from tests.experiments.scripts import ROOT, TINY, environment, run


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finished = run(folder, "train", *TINY, f"--run_dir={folder / 'run'}", "--per_user")
    return folder / "run", finished.stdout


def test_a_run_directory_holds_what_it_should(whole_run):
    path, output = whole_run
    assert {"config.json", "metrics.jsonl", "results.json", "checkpoints", "learning_curve.png"} <= {
        entry.name for entry in path.iterdir()
    }
    results = json.loads((path / "results.json").read_text())
    for key in ("model", "dataset", "setting", "seed", "preset", "best_epoch", "num_params", "versions"):
        assert results[key] is not None, key
    assert {"compile_s", "train_s_per_epoch", "eval_s", "total_s"} <= results["timings"].keys()
    time = results["time"]
    assert time["wall_s"] == pytest.approx(sum(value for kind, value in time.items() if kind != "wall_s"))
    assert time["wall_s"] == pytest.approx(results["timings"]["total_s"]) and time["lost_s"] == 0
    assert results["peak_rss_bytes"] > 2**27
    assert 0 < results["valid"]["recall@20"] < 1
    assert "DiffRec" in output and "Popularity" in output
    with np.load(path / "per_user_test.npz") as per_user:
        np.testing.assert_allclose(per_user["recall@20"].mean(), results["test"]["recall@20"], rtol=1e-6)


def test_evaluate_repeats_the_run_and_measures_otherwise(whole_run, tmp_path):
    path, _ = whole_run
    results = json.loads((path / "results.json").read_text())
    output = run(tmp_path, "evaluate", f"--run_dir={path}").stdout
    assert f"{results['test']['recall@20']:.4f}" in output
    assert "recall@3" in run(tmp_path, "evaluate", f"--run_dir={path}", "--ks=3,20", "--test_with_valid_input").stdout


def test_a_finished_run_is_shown_again_and_left_as_it_is(whole_run, tmp_path):
    path, _ = whole_run
    before = (path / "results.json").read_bytes()
    output = run(tmp_path, "train", f"--run_dir={path}", "--resume").stdout
    assert "is finished" in output
    assert (path / "results.json").read_bytes() == before


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_numbers(whole_run, tmp_path, number):
    """As soon as the first checkpoint is there, then --resume without repeating any other flag."""
    path, _ = whole_run
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "experiments.train", *TINY, f"--run_dir={killed}", "--checkpoint_every_steps=1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not list(killed.glob("checkpoints/*[0-9]/manifest.json")):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        time.sleep(0.4)
        process.send_signal(number)
        assert process.wait(30) == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert number == signal.SIGKILL or "saved: go on with --resume" in (tmp_path / "log").read_text()
    assert not (killed / "results.json").exists()
    run(tmp_path, "train", f"--run_dir={killed}", "--resume=must")
    whole, resumed = (json.loads((folder / "results.json").read_text()) for folder in (path, killed))
    for key in ("valid", "test", "best_epoch", "num_params"):
        assert whole[key] == resumed[key]
    assert resumed["time"]["wall_s"] > resumed["timings"]["total_s"]  # of both processes


@pytest.mark.once
def test_a_run_that_must_resume_does_not_start_anew(whole_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole_run[0], copy, ignore=shutil.ignore_patterns("results.json"))
    shutil.rmtree(copy / "checkpoints")
    (line,) = run(tmp_path, "train", f"--run_dir={copy}", "--resume=must", expect=2).stderr.splitlines()
    assert "checkpoints holds no whole checkpoint to go on from (--resume=must)" in line
    assert (
        "no checkpoint to resume from: starting anew" in run(tmp_path, "train", f"--run_dir={copy}", "--resume").stdout
    )


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=oracle"], "--model=oracle is unknown: choose one of diffrec"),
        (["--dims=200,x"], "--dims=200,x: '200,x' is no list of positive integers"),
        (["--noise_min=0.5", "--noise_max=0.1"], "need 0 < noise_min <= noise_max"),
        (["--seed=-1"], "seed"),
        (["--seed=99999999999999999999"], "seed"),
        (
            ["--model=diffrec", "--dims=200000", "--synthetic_items=900000", "--synthetic_users=9"],
            "DiffRec needs about",
        ),
        (["--noise_scale=0", "--mean_type=epsilon"], "no noise to predict"),
        (["--noise_scale=1000"], "must be below 1, the variance of pure noise"),
        (["--sampling_steps=9"], "T' must be between 0 and T = 5, got 9"),
        (["--dataset=nowhere", "--data_dir=."], "dataset 'nowhere' (setting 'clean') is not at"),
        (["--metric=auc@20"], "metric 'auc@20' is not evaluated"),
        (["--reweight=maybe"], "--reweight=maybe"),
        (["--resume"], "--resume needs --run_dir"),
        (["--resume=perhaps"], "'perhaps' is none of auto, must, never"),
        (["--resume=must", "--run_dir=nowhere"], "--resume=must: there is no run in nowhere"),
        (["--on_nonfinite=ignore"], "--on_nonfinite=ignore"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["ml-1m"], "unexpected argument 'ml-1m'"),
        (["--prng_impl=dice"], "dice"),
        (["--dataset=ml-1m", "--data_dir=.", "--synthetic_users=5"], "use --dataset=synthetic"),
        (["--in_dims=20"], "DiffRec has no setting in_dims"),
        (["--model=popularity", "--lr=1"], "Popularity has no setting lr"),
        (["--model=mf", "--infer_recency=exp:5"], "MF has no setting infer_recency"),
        (["--model=ease", "--l2=0"], "l2 must be above 0"),
        (["--model=gfcf", "--preset=released"], "no preset 'released' of gfcf"),
        (["--model=ease", "--synthetic_items=9000000", "--synthetic_users=9"], "EASE needs about"),
        (
            ["--model=t_diffrec", "--train_recency=quadratic"],
            "recency 'quadratic' is not understood: write none, linear",
        ),
        (["--w_min=0.1"], "--w_min and --w_max go together"),
        (["--w_min=0.1", "--w_max=1", "--train_recency=none"], "give one or the other"),
        (["--target_recency=exp:5", "--mean_type=epsilon"], "target_recency needs prediction_type x0"),
        (["--model=l_diffrec", "--item_embeddings=nowhere.npy"], "item embeddings nowhere.npy do not exist"),
        (["--linear_rank=5000"], "linear_rank must be at most the"),
        (["--linear_rank=5", "--weight_decay=0.1"], "weight_decay would shrink the fitted linear part"),
        (["--linear_rank=5", "--synthetic_items=900000", "--synthetic_users=9"], "DiffRec needs about"),
        (["--model=l_diffrec", "--autoencoder=linear"], "the linear autoencoder has one layer each way"),
        (["--model=l_diffrec", "--num_groups=200", "--grouping=random"], "cannot be split over 200 item groups"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_flags_end_with_one_clear_line(tmp_path, flags, message):
    finished = run(
        tmp_path,
        "train",
        *flags,
        *([] if any("--resume" in flag for flag in flags) else [f"--run_dir={tmp_path / 'r'}"]),
        expect=2,
    )
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], finished.stderr
    assert not (tmp_path / "r").exists()


LATENT = [flag for flag in TINY if not flag.startswith("--dims")] + ["--dims=8", "--in_dims=12", "--num_groups=3"]


@pytest.mark.once
def test_a_latent_run_keeps_its_item_groups(tmp_path):
    """The groups are made once: a resume and an evaluation take the run's own, even where the embeddings are gone."""
    embeddings = tmp_path / "embeddings.npy"
    np.save(embeddings, np.random.default_rng(0).normal(size=(100, 4)))
    path = tmp_path / "run"
    flags = ["--model=lt_diffrec", *LATENT, f"--item_embeddings={embeddings}", f"--run_dir={path}"]
    run(tmp_path, "train", *flags, "--max_steps=10", "--w_min=0", "--w_max=1")
    groups = np.load(path / "item_groups.npy")
    results = json.loads((path / "results.json").read_text())
    assert results["item_groups"]["sizes"] == np.bincount(groups).tolist()
    assert sum(results["item_groups"]["latent_sizes"]) == 12 and len(results["item_groups"]["latent_sizes"]) == 3
    assert json.loads((path / "config.json").read_text())["recency"] == {
        "train_recency": "linear:0:1", "target_recency": None, "infer_recency": None, "row_values": "ones",
    }  # fmt: skip
    embeddings.unlink()
    run(tmp_path, "train", f"--run_dir={path}", "--resume", "--max_steps=20")
    np.testing.assert_array_equal(np.load(path / "item_groups.npy"), groups)
    resumed = json.loads((path / "results.json").read_text())
    output = run(tmp_path, "evaluate", f"--run_dir={path}").stdout
    assert f"{resumed['test']['recall@20']:.4f}" in output
    (path / "item_groups.npy").unlink()
    lines = run(tmp_path, "evaluate", f"--run_dir={path}", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "checkpoints but no item_groups.npy" in lines[0]


def test_another_configuration_is_refused_and_nothing_written_over(whole_run, tmp_path):
    path, _ = whole_run
    before = {entry: entry.read_bytes() for entry in path.rglob("*") if entry.is_file()}
    lines = run(tmp_path, "train", f"--run_dir={path}", "--resume", "--lr=0.5", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "training.lr (0.001 there, 0.5 asked for)" in lines[0]
    lines = run(tmp_path, "train", f"--run_dir={path}", "--resume", "--dataset=nowhere", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "dataset 'nowhere'" in lines[0]
    lines = run(tmp_path, "train", f"--run_dir={path}", "--resume", "--in_dims=9", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "DiffRec has no setting in_dims" in lines[0]
    lines = run(tmp_path, "train", f"--run_dir={path}", "--resume", "--epochs=2", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "has done 30 steps (6 epochs), more than the 10 asked for" in lines[0]
    lines = run(tmp_path, "train", *TINY, f"--run_dir={path}", expect=2).stderr.splitlines()
    assert len(lines) == 1 and "holds a run already: pass --resume" in lines[0]
    assert before == {entry: entry.read_bytes() for entry in path.rglob("*") if entry.is_file()}


def test_help_is_grouped(tmp_path):
    output = run(tmp_path, "train", "--help").stdout
    places = [
        output.index(f"{group}")
        for group in ("Model:", "Data:", "Training (", "Settings of diffusion models", "Evaluation:", "Run:")
    ]
    assert places == sorted(places)
    assert "lt_diffrec, s_diffrec: T, diffusion steps." in output and "(default: synthetic)" in output


@pytest.mark.once
def test_a_sweep_ranks_by_valid_and_hides_the_test(tmp_path):
    flags = [f"--sweep_dir={tmp_path / 'sweep'}", "--grid=l2=1|100", "--", "--model=ease", *TINY[:4]]
    output = run(tmp_path, "sweep", *flags).stdout
    assert output.count("running ") == 2
    assert "valid recall@20" in output and "test" not in output.split("best recall@20")[1]
    assert "running " not in run(tmp_path, "sweep", *flags).stdout


@pytest.mark.once
@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("sweep", ("--grid=seed=1|2", "--", "--model=ials"), "--grid=seed is set by the sweep: give --seeds"),
        ("sweep", ("--grid=lr2x=1|2", "--", "--model=ials"), "--grid=lr2x: experiments.train has no such flag"),
        ("sweep", ("--grid=l2=1|2", "--", "--model=ials", "--seed=7"), "--seed after -- is set by this script"),
        ("sweep", ("--grid=l2=1", "--show_metrics=recall@20,recall@7", "--", "--model=ease"), "'recall@7' is not"),
        ("sweep", ("--grid=l2=1", "--show_metrics=recall@20,rmse", "--", "--model=ease"), "rmse is of ratings"),
        ("compare", ("--models=ease", "--", "--model=mf"), "--model after -- is set by this script"),
        ("reproduce", ("--quick", "--submit"), "--submit is for --launch=slurm"),
        ("reproduce", ("--quick", "--jobs=2", "--launch=list"), "--jobs is for runs of this command itself"),
        ("reproduce", ("--quick", "--data=ml-1m clean"), "--quick is on synthetic data"),
        ("reproduce", ("--studies=steps", "--data=ml-100k"), "none of these studies is done on ml-100k"),
    ],
)
def test_flags_that_would_do_nothing_are_refused_before_any_run(tmp_path, script, flags, message):
    folder = {"sweep": "sweep_dir", "compare": "compare_dir", "reproduce": "runs_dir"}[script]
    assert message in run(tmp_path, script, f"--{folder}={tmp_path / 'runs'}", *flags, expect=2).stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.once
def test_a_sweep_by_trials_leaves_out_what_fails(tmp_path):
    pytest.importorskip("optuna")
    flags = ["--trials=3", "--grid=lr=1e-2|1e38", f"--sweep_dir={tmp_path / 'sweep'}", "--", *TINY[:-3], "--epochs=2"]
    output = run(tmp_path, "sweep", *flags).stdout
    told, table = output.split("best epoch")
    assert "left out: " in told and "lr=1e38_seed=1 failed with exit code" in told
    assert "1e-2" in table and "1e38" not in table


@pytest.mark.once
def test_diffrec_beats_popularity_on_ml_1m(tmp_path, data_dir, monkeypatch):
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")  # compiled as a user's
    flags = [f"--data_dir={data_dir}", "--dataset=ml-1m", "--dims=300", "--lr=1e-3", "--epochs=4", "--eval_every=4"]
    run(tmp_path, "train", *flags, f"--run_dir={tmp_path / 'run'}")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["recall@20"] > 1.3 * results["baselines"]["popularity"]["test"]["recall@20"]


def test_lists_of_a_run_are_written_for_all_some_and_new_users(whole_run, tmp_path):
    """What the script writes is what the library recommends, from the run as from a saved model."""
    path, _ = whole_run
    output = run(tmp_path, "recommend", f"--run_dir={path}", f"--out={tmp_path / 'all.jsonl'}", "--k=5").stdout
    assert "5 items for each of 200 users by DiffRec" in output
    model = dr.load_run(path)
    expected = dr.recommend(model, k=5)
    records = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [record["user"] for record in records] == list(range(200))
    np.testing.assert_array_equal([record["items"] for record in records], expected.items)
    dr.save(model, tmp_path / "saved")
    (tmp_path / "users.txt").write_text("7\n3\n")
    saved = f"--saved={tmp_path / 'saved'}"
    run(tmp_path, "recommend", saved, f"--users={tmp_path / 'users.txt'}", f"--out={tmp_path / 'some.csv'}", "--k=5")
    rows = [line.split(",") for line in (tmp_path / "some.csv").read_text().splitlines()[1:]]
    assert [(int(user), int(item)) for user, item, *_ in rows] == [
        (user, item) for user in (7, 3) for item in expected.items[user].tolist()
    ]
    history = model.dataset.train[[7]].indices.tolist()
    (tmp_path / "new.txt").write_text("somebody " + " ".join(map(str, history)) + "\n")
    run(tmp_path, "recommend", saved, f"--histories={tmp_path / 'new.txt'}", f"--out={tmp_path / 'new.jsonl'}", "--k=5")
    record = json.loads((tmp_path / "new.jsonl").read_text())
    assert (record["user"], record["items"]) == ("somebody", expected.items[7].tolist())


def test_what_cannot_be_recommended_is_one_line(whole_run, tmp_path):
    path, _ = whole_run
    (tmp_path / "users.txt").write_text("7\nseven\n")
    out = f"--out={tmp_path / 'a.csv'}"
    for flags, message in (
        ([out], "give --run_dir, a run of experiments.train, or --saved"),
        ([f"--run_dir={path}", f"--users={tmp_path / 'users.txt'}", out], "holds what is no integer"),
        ([f"--saved={tmp_path}", out], "holds no whole model"),
        ([f"--run_dir={path}", f"--out={tmp_path / 'a.xlsx'}"], "ends with '.xlsx': choose one of .csv"),
    ):
        (line,) = run(tmp_path, "recommend", *flags, expect=2).stderr.splitlines()
        assert line.startswith("error: ") and message in line
    assert not (tmp_path / "a.csv").exists()
