import json
import zipfile

import numpy as np
import pytest

from .scripts import run

pytestmark = pytest.mark.once


def make_log(path, num_users=60, num_items=40):
    """MovieLens' u.data, of users who have something to learn: items near each other go together."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for user in range(1, num_users + 1):
            taste = rng.integers(num_items)
            for time in range(20):
                item = (taste + int(rng.normal(0, 4))) % num_items
                file.write(f"{user}\tm{item}\t{rng.integers(2, 6)}\t{880_000_000 + 86_400 * time}\n")


def test_from_a_log_to_recommendations_with_original_ids(tmp_path):
    make_log(tmp_path / "u.data")
    data = f"--data_dir={tmp_path / 'data'}"
    made = run(tmp_path, "prepare", "--name=ml-100k", f"--raw={tmp_path / 'u.data'}", f"--out={tmp_path / 'data'}")
    assert "read: 1,200 rows" in made.stdout and "rating of at least 4" in made.stdout
    command = made.stdout.splitlines()[-1]
    assert command.startswith("  python -m experiments.train --model=diffrec --dataset=ml-100k")
    run(
        tmp_path,
        "train",
        "--model=t_ease",
        "--dataset=ml-100k",
        data,
        "--train_recency=days:7",
        f"--run_dir={tmp_path}/r",
    )
    run(tmp_path, "recommend", f"--run_dir={tmp_path}/r", f"--out={tmp_path}/lists.jsonl", "--k=3")
    lists = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    assert {item[0] for row in lists for item in row["items"]} == {"m"} and isinstance(lists[0]["user"], int)
    shown = run(tmp_path, "inspect", "--dataset=ml-100k", data, f"--out={tmp_path}/report")
    assert "1997-11-20" in shown.stdout and "are older than a training interaction with the same item" in shown.stdout
    page = (tmp_path / "report" / "ml-100k_clean.html").read_text()
    assert "data:image/png;base64," in page and "<h2>Warnings</h2>" in page and "http" not in page
    assert (tmp_path / "report" / "ml-100k_clean.png").stat().st_size > 5000
    again = run(
        tmp_path, "prepare", "--name=ml-100k", f"--raw={tmp_path / 'u.data'}", f"--out={tmp_path / 'data'}", expect=2
    )
    assert "ml-100k_clean exists already" in again.stderr


def test_an_archive_of_a_known_dataset_is_read_as_it_is(tmp_path):
    make_log(tmp_path / "u.data")
    with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
        archive.write(tmp_path / "u.data", "ml-100k/u.data")
    (tmp_path / "u.data").unlink()
    made = run(tmp_path, "prepare", "--name=ml-100k", f"--raw={tmp_path / 'ml-100k.zip'}", f"--out={tmp_path / 'data'}")
    assert "is ready" in made.stdout


def test_errors_are_one_line_and_leave_nothing(tmp_path):
    out = f"--out={tmp_path / 'data'}"
    (tmp_path / "log.csv").write_text("user,item\na,b\n,c\n")
    for flags, message in (
        (["--name=x"], "give --raw=FILE, or --download"),
        (["--name=x", "--download"], "'x' is no known dataset"),
        (["--name=yelp", "--download"], "accept its terms"),
        (["--name=x", f"--raw={tmp_path}/none.csv"], "does not exist"),
        (["--name=x", f"--raw={tmp_path}/log.csv"], "line 3 has no user: ',c'; correct it, or leave such lines out"),
        (["--name=x", f"--raw={tmp_path}/log.csv", "--ratios=7"], "two or three numbers"),
        (["--name=x", f"--raw={tmp_path}/log.csv", "--setting=noisy"], "give that, or a noise_rate"),
    ):
        failed = run(tmp_path, "prepare", *flags, out, expect=2)
        assert message in failed.stderr and len(failed.stderr.splitlines()) == 1, failed.stderr
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_training_without_data_says_how_to_make_them(tmp_path):
    failed = run(tmp_path, "train", "--dataset=ml-1m", "--setting=noisy", f"--data_dir={tmp_path}", expect=2)
    assert failed.stderr.splitlines()[-2:] == [
        f"  python -m experiments.prepare --name=ml-1m --download --setting=noisy --out={tmp_path}",
        f"  python -m experiments.prepare --name=ml-1m --raw=ml-1m.zip --setting=noisy --out={tmp_path}",
    ]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    make_log(tmp_path / "u.data")
    (tmp_path / "data").write_text("a file where the folder should be")
    log = [f"--raw={tmp_path}/u.data", "--format=ml-100k"]
    failed = run(tmp_path, "prepare", "--name=x", *log, f"--out={tmp_path}/data", expect=2)
    assert len(failed.stderr.splitlines()) == 1 and str(tmp_path / "data") in failed.stderr


def test_from_a_log_to_predicted_ratings(tmp_path):
    make_log(tmp_path / "u.data")
    made = f"--raw={tmp_path / 'u.data'}", "--format=ml-100k", f"--out={tmp_path / 'data'}"
    run(tmp_path, "prepare", "--name=rated", *made)
    path, data = tmp_path / "run", ["--dataset=rated", f"--data_dir={tmp_path / 'data'}", "--ratings"]
    learns = ["--row_values=residuals", "--dims=8", "--epochs=2", "--eval_every=1", "--metric=rmse", "--ks=5"]
    shown = run(tmp_path, "train", *data, *learns, "--min_relevant_rating=4", f"--run_dir={path}").stdout
    assert "relevant from a rating of 4" in shown and "│ Biases" in shown
    results = json.loads((path / "results.json").read_text())
    assert set(results["baselines"]) == {"popularity", "biases", "global_mean"}
    assert 0.5 < results["test"]["mae"] < results["test"]["rmse"] < 2
    assert f"{results['test']['rmse']:.4f}" in run(tmp_path, "evaluate", f"--run_dir={path}").stdout
    again = run(tmp_path, "train", "--resume", f"--run_dir={path}", "--min_relevant_rating=3", expect=2)
    assert "data_sha256" in again.stderr
