import csv
import json
import re

import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.assembly import HOW, how_measured
from diffrec_jax.comparison import Comparison, check_comparable, compare_runs, group_runs, load_run
from diffrec_jax.config import ConfigError, DataConfig, EvaluationConfig, RunConfig
from diffrec_jax.data import SyntheticSpec, make_synthetic
from diffrec_jax.evaluation import DEFAULT_KS, METRICS, compare_users
from diffrec_jax.registry import MODELS
from diffrec_jax.training.run_directory import RunDirectory, config_digest
from diffrec_jax.training.train_config import TrainConfig
from experiments.compare import find_runs
from experiments.console import make_console
from experiments.measured import measure
from experiments.tables import make_columns, shown_p, to_csv, to_latex, to_markdown, to_terminal
from tests.experiments.scripts import TINY, run

pytestmark = pytest.mark.once

DATASET = make_synthetic(SyntheticSpec(30, 20, 200, num_clusters=2))
USERS = np.arange(30, dtype=np.int32)


def make_run(
    path, model="diffrec", seed=1, level=0.5, *, data="d1", mode="official", users=USERS, keep=True, **training
):
    """A finished run directory whose users all have ``level`` plus a little of their own in every metric."""
    family = MODELS[model]
    trained = TrainConfig(seed=seed, **training) if family.is_trained else None
    config = RunConfig(
        model, "tuned", DataConfig("ml-1m", "clean", None, None), EvaluationConfig(), family.config_class(), trained
    )
    values = level + 0.01 * np.sin(np.arange(len(users)) + seed)
    metrics = {f"{name}@{k}": values for name in METRICS for k in DEFAULT_KS}
    means = {name: float(column.mean()) for name, column in metrics.items()}
    results = {
        "model": model, "dataset": "ml-1m", "setting": "clean", "seed": config.seed, "preset": "tuned", "mode": mode,
        "num_params": 1234, "valid": means, "test": means, "timings": {}, "time": {"step_s": 12.0, "input_s": 0.3},
        "peak_rss_bytes": 2**30,
    }  # fmt: skip
    stored = config.to_dict(DATASET) | {"data_sha256": data}
    directory = RunDirectory(path)
    directory.create(stored)
    directory.write_results(results)
    if keep:
        how = json.dumps(how_measured(config, config_digest(stored)))
        columns = {"user_ids": users, "num_relevant": np.ones(len(users)), HOW: how}
        np.savez(path / "per_user_test.npz", **columns, **metrics)
    return path


def test_runs_are_grouped_over_seeds_and_told_apart_by_their_settings(tmp_path):
    paths = [
        make_run(tmp_path / "a1", seed=1),
        make_run(tmp_path / "a2", seed=2, level=0.6),
        make_run(tmp_path / "other", seed=1, lr=0.5),
        make_run(tmp_path / "ease", "ease"),
    ]
    assert find_runs([str(tmp_path)]) == sorted(paths) and find_runs([str(paths[3])]) == paths[3:]
    groups = group_runs([load_run(path) for path in paths])
    assert [group.label for group in groups] == ["DiffRec (a1)", "DiffRec (other)", "EASE"]
    assert [len(group.runs) for group in groups] == [2, 1, 1]
    runs = [load_run(path) for path in paths[:2]]
    expected = np.mean([run.per_user["recall@20"] for run in runs], axis=0)
    np.testing.assert_allclose(groups[0].per_user("recall@20"), expected)
    np.testing.assert_allclose(groups[0].mean("recall@20"), expected.mean())
    twins = [make_run(tmp_path / folder / "same", seed=1, lr=lr) for folder, lr in (("x", 0.1), ("y", 0.2))]
    labels = [group.label for group in group_runs([load_run(path) for path in twins])]
    assert labels == ["DiffRec (x/same)", "DiffRec (y/same)"]
    make_run(tmp_path / "again", seed=1)
    with pytest.raises(ConfigError, match="a1 and .*again are the same model with the same seed"):
        group_runs([load_run(tmp_path / name) for name in ("a1", "again")])


def test_the_users_of_a_difference_are_those_of_the_means(tmp_path):
    """Of relevant_users, those with relevant items: zeros of the others would halve it."""
    paths = [make_run(tmp_path / name, level=level, mode="relevant_users") for name, level in (("a", 0.7), ("b", 0.3))]
    for path in paths:
        with np.load(path / "per_user_test.npz") as archive:
            kept = dict(archive)
        kept["num_relevant"] = (np.arange(30) % 2).astype(float)
        results = json.loads((path / "results.json").read_text())
        results["test"] = {metric: float(kept[metric][1::2].mean()) for metric in results["test"]}
        results.pop("sha256", None)
        (path / "results.json").write_text(json.dumps(results))
        np.savez(path / "per_user_test.npz", **kept)
    one, other = (group_runs([load_run(path)])[0] for path in paths)
    assert len(one.per_user("recall@20")) == 15
    difference = np.mean(one.per_user("recall@20") - other.per_user("recall@20"))
    np.testing.assert_allclose(difference, one.mean("recall@20") - other.mean("recall@20"), rtol=1e-5)
    third = load_run(make_run(tmp_path / "c", seed=3))
    with pytest.raises(ConfigError, match="c and .*d are the same model with the same seed"):
        group_runs([load_run(make_run(tmp_path / "e", seed=1)), third, load_run(make_run(tmp_path / "d", seed=3))])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "d2"}, "differ in their data"),
        ({"mode": "relevant_users"}, "differ in their mode"),
        ({"users": USERS[::-1]}, "differ in their users"),
    ],
)
def test_only_like_is_compared(tmp_path, other, message):
    runs = [load_run(make_run(tmp_path / "a")), load_run(make_run(tmp_path / "b", seed=2, **other))]
    with pytest.raises(ConfigError, match=message):
        check_comparable(runs, ("recall@20",))
    check_comparable(runs[:1], ("recall@20",))
    with pytest.raises(ConfigError, match="was not evaluated for recall@7"):
        check_comparable(runs[:1], ("recall@7",))


def test_users_metrics_have_to_be_those_of_the_results(tmp_path):
    """Measured otherwise, before the run went on, or of unknown origin: none of them is compared."""
    path = make_run(tmp_path / "a")
    results = json.loads((path / "results.json").read_text())
    with np.load(path / "per_user_test.npz") as archive:
        kept = dict(archive)
    how = json.loads(str(kept[HOW]))
    for change, message in (
        ({HOW: json.dumps(how | {"test_with_valid_input": True})}, r"test_with_valid_input \(False there, True"),
        ({HOW: json.dumps(how | {"config_sha256": "other"})}, "config_sha256"),
        ({HOW: "{}"}, "config_sha256"),
        ({"recall@20": kept["recall@20"] + 0.001}, r"recall@20 is 0\.\d+ there and"),
    ):
        np.savez(path / "per_user_test.npz", **kept | change)
        with pytest.raises(ConfigError, match=f"is not of the results beside it: .*{message}"):
            load_run(path)
    np.savez(path / "per_user_test.npz", **kept)
    assert load_run(path).results == results


def test_errors_of_ratings_stand_beside_the_ranking_where_there_are_any(tmp_path):
    """The least is the best; users' errors have to be those of the results."""
    paths = [make_run(tmp_path / name, model) for name, model in (("a", "diffrec"), ("b", "ease"), ("c", "itemknn"))]
    counts, errors = np.arange(30), np.random.default_rng(0).random((2, 30))
    for path, scale in zip(paths[:2], (1.0, 1.1)):
        file, results = path / "per_user_test.npz", json.loads((path / "results.json").read_text())
        with np.load(file) as archive:
            kept = dict(archive)
        sums = {"num_ratings": counts, "squared_error": scale * errors[0], "absolute_error": scale * errors[1]}
        np.savez(file, **kept, **sums)
        with pytest.raises(ConfigError, match="is not of the results beside it: .*rmse is"):
            (path / "results.json").write_text(json.dumps(results | {"test": results["test"] | {"rmse": 0.2}}))
            load_run(path)
        found = {"rmse": (scale * errors[0].sum() / 435) ** 0.5, "mae": scale * errors[1].sum() / 435}
        (path / "results.json").write_text(json.dumps(results | {"test": results["test"] | found}))
    groups = group_runs([load_run(path) for path in paths])
    measured = measure(Comparison(groups, "recall@20", 0, [None] * 3, [1.0] * 3))
    shown = {column.heading: column for column in make_columns(measured)}
    rows = {row.label: row for row in measured.rows}
    assert shown["rmse"].best == "DiffRec" and shown["recall@20"].best is not None
    assert [shown["mae"].text(rows[label]) for label in ("DiffRec", "EASE", "ItemKNN")] == [
        f"{found['mae'] / 1.1:.4f}", f"{found['mae']:.4f}", "-",
    ]  # fmt: skip
    of_knn = next(csv.DictReader(to_csv(list(shown.values()), [rows["ItemKNN"]]).splitlines()))
    assert of_knn["rmse"] == of_knn["mae std"] == ""


def test_tables_hold_any_name(tmp_path):
    groups = group_runs([load_run(make_run(tmp_path / r"a|b_$\{^}~[red]")), load_run(make_run(tmp_path / "b", lr=0.5))])
    measured = measure(Comparison(groups, "recall@20", 0, [None, None], [1.0, 0.02]))
    columns = make_columns(measured)
    markdown = to_markdown(columns, measured.rows, "title").splitlines()
    assert all(line.replace(r"\|", "").count("|") == len(columns) + 1 for line in markdown[2:])
    assert r"a|b\_\$\textbackslash{}\{\textasciicircum{}\}\textasciitilde{}[red]" in to_latex(columns, measured.rows)
    console = make_console()
    with console.capture() as captured:
        console.print(to_terminal(columns, measured.rows, "of [x]"))
    assert "[red]" in captured.get() and "of [x]" in captured.get()


def test_no_p_value_is_written_as_zero(tmp_path):
    assert [shown_p(p) for p in (None, 0.0, 1e-310, 2e-300, 0.0412, 1.0)] == [
        "-", "<1e-300", "<1e-300", "2e-300", "0.041", "1",
    ]  # fmt: skip
    groups = group_runs([load_run(make_run(tmp_path / name, model)) for name, model in (("a", "ease"), ("b", "mf"))])
    difference = compare_users(np.zeros(30), np.ones(30))
    measured = measure(Comparison(groups, "recall@20", 0, [None, difference], [1.0, 0.0]))
    columns = make_columns(measured)
    assert "| <1e-300 |" in to_markdown(columns, measured.rows, "title")
    assert " & $<$1e-300 & " in to_latex(columns, measured.rows)
    csv_rows = list(csv.DictReader(to_csv(columns, measured.rows).splitlines()))
    assert csv_rows[1]["p Holm"] == "0.0"


def test_what_is_missing_is_said_with_the_command_that_makes_it(tmp_path):
    without = make_run(tmp_path / "without", keep=False)
    with pytest.raises(ConfigError, match=r"diffrec evaluate --run_dir=\S+without --per_user makes it"):
        load_run(without)
    (without / "results.json").unlink()
    with pytest.raises(ConfigError, match="is not finished: .*--resume"):
        load_run(without)
    with pytest.raises(ConfigError, match="is no run directory and holds none"):
        find_runs([str(tmp_path / "nowhere")])


def test_the_table_has_means_deviations_and_a_bold_best(tmp_path):
    runs = [load_run(make_run(tmp_path / f"{seed}", seed=seed, level=0.4 + seed / 10)) for seed in (1, 2)]
    runs.append(load_run(make_run(tmp_path / "ease", "ease", level=0.3)))
    groups = group_runs(runs)
    measured = measure(Comparison(groups, "recall@20", 0, [None, None], [1.0, 0.02]))
    columns = make_columns(measured)
    rows = list(csv.DictReader(to_csv(columns, measured.rows).splitlines()))
    values = [run.results["test"]["recall@20"] for run in runs[:2]]
    assert float(rows[0]["recall@20"]) == pytest.approx(np.mean(values), abs=1e-12)
    assert float(rows[0]["recall@20 std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert rows[1]["recall@20 std"] == "" and rows[1]["seeds"] == "1" and rows[1]["s / 1,000 users"] == ""
    assert float(rows[0]["capped_recall@20"]) >= float(rows[0]["recall@20"])
    shown = [column.header for column in to_terminal(columns, measured.rows, "").columns]
    assert "recall@20" in shown and "capped_recall@20" not in shown
    latex = to_latex(columns, measured.rows)
    assert latex.count(r"\textbf") == 6 and r"[95\%]" in latex and r"$\pm$" in latex
    assert all(line.count("&") == latex.splitlines()[2].count("&") for line in latex.splitlines() if "&" in line)


def test_models_are_run_compared_and_written(tmp_path):
    flags = [f"--compare_dir={tmp_path / 'c'}", "--models=popularity,ease", "--seeds=1,2", "--against=Popularity", "--"]
    flags += [flag for flag in TINY if flag.startswith(("--dataset", "--synthetic"))]
    output = run(tmp_path, "compare", *flags).stdout
    assert output.count("running ") == 2 and "EASE" in output  # deterministic models are run once
    table = (tmp_path / "c" / "comparison.md").read_text()
    results = json.loads((tmp_path / "c" / "ease_seed=1" / "results.json").read_text())
    ease = next(line for line in table.splitlines() if line.startswith("| EASE"))
    assert f"{results['test']['recall@20']:.4f}" in ease and f"{results['beyond_accuracy']['gini@20']:.3f}" in ease
    assert re.search(r"\+0\.\d{4} \[", ease)
    for name in ("comparison.csv", "comparison.tex", "comparison.png"):
        assert (tmp_path / "c" / name).stat().st_size > 100
    assert "running " not in run(tmp_path, "compare", *flags).stdout
    # A metric that the runs did not measure is measured from their models.
    again = run(tmp_path, "compare", "--metric=ndcg@3", *flags).stdout
    assert "running " not in again and "ndcg@3 - Popularity [95%]" in again
    runs = [load_run(tmp_path / "c" / f"{model}_seed=1") for model in ("popularity", "ease")]
    compared = compare_runs(runs, "ndcg@3", "Popularity")
    models = [dr.load_run(group.runs[0].path) for group in compared.groups]
    expected = [dr.evaluate(model, model.dataset, ks=(3,)).mean()["ndcg@3"] for model in models]
    assert [group.mean("ndcg@3") for group in compared.groups] == pytest.approx(expected)
    for wrong in ("auc@3", "ndcg@0", "ndcg"):
        with pytest.raises(ConfigError, match=f"metric '{wrong}' is unknown: choose .* at any K"):
            compare_runs(runs, wrong)
    with pytest.raises(ConfigError, match="against 'MF': not compared; choose one of EASE, Popularity"):
        compare_runs(runs, "recall@20", "MF")
