"""Studies, the queue that does them and the report: each part, then all kinds at toy size, killed in the middle."""

import dataclasses
import html
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

from diffrec_jax.assembly import HOW
from diffrec_jax.config import ConfigError
from diffrec_jax.evaluation import compare_users, holm
from diffrec_jax.training.run_directory import CONFIG_DIGEST
from experiments import kept
from experiments.config import new_run_config
from experiments.figures import COLOURS, dots, for_file, for_page, label_offsets, lines, pareto, pareto_front
from experiments.findings import (
    CONFIRMED,
    LEVEL,
    MARGIN,
    OPEN,
    REFUTED,
    ClaimFound,
    Findings,
    adjusted_p,
    look_at,
    look_at_claims,
)
from experiments.measured import Measured, Row
from experiments.pages import markdown_table, to_html, to_markdown
from experiments.plan import Planned, plan, variants_of
from experiments.protocols import FILES, by_protocol
from experiments.reproduce import chosen_studies, submit, write_job_array
from experiments.runs import STARTED, execute, failure, parse_train_flags, shares_of_cores
from experiments.sections import (
    Cell,
    Heading,
    Paragraph,
    Picture,
    TableBlock,
    claims_table,
    file_name,
    kendall,
    sections,
)
from experiments.studies import DATA, QUICK, STUDIES, Claim
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
            parse_train_flags(list(flags))
    with pytest.raises(ConfigError, match="nothing is unknown: choose among models, "):
        chosen_studies(["nothing"])


def test_a_run_is_planned_once_for_all_studies():
    """The plain DiffRec is the reference of many studies, at toy size as at full."""
    planned, missing = plan(STUDIES, quick=True)
    assert not missing and {one.data for one in planned} == {QUICK}
    same = [one for one in planned if one.identity == planned[0].identity]
    assert len({one.study.name for one in same}) > 5
    assert {one.study.name for one in planned} == {study.name for study in STUDIES}


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


def told(values, difference=None, p=None, **others):
    """A claim with these numbers; ranks differ as the means do."""
    rank_difference = None if difference is None else float(np.sign(difference[0])) * 0.1
    fields = {"values": values, "difference": difference, "p_value": p, "rank_difference": rank_difference} | others
    return ClaimFound("", "", "recall@20", False, "a", "b", **fields)


@pytest.mark.parametrize(
    ("claim", "p", "verdict"),
    [
        (told([0.3, 0.2], [0.1, 0.05, 0.15], 0.01), 0.01, CONFIRMED),
        (told([0.3, 0.2], [0.1, 0.05, 0.15], 0.01), 0.2, REFUTED),
        (told([0.3, 0.2], [0.1, -0.01, 0.2], 0.01), 0.01, REFUTED),  # most users gain, but not their mean
        (told([0.2, 0.3], [-0.1, -0.15, -0.05], 0.01), 0.01, REFUTED),
        (told([10.0, 20.0], is_cheaper=True), None, CONFIRMED),
        (told([10.0, 20.0], is_cheaper=False), None, REFUTED),  # cheaper in the mean, but not with every seed
        (told(None), None, OPEN),
    ],
)
def test_what_becomes_of_a_claim(claim, p, verdict):
    assert LEVEL == 0.05
    assert claim.verdict(p) == verdict


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.0039, 0.01), CONFIRMED),
        ((-0.0039, -0.001), CONFIRMED),  # worse, by less than the margin
        ((-0.0041, 0.01), REFUTED),  # nothing speaks against it, but too little for it
        ((0.05, 0.15), CONFIRMED),
    ],
)
def test_as_good_is_what_may_miss_by_a_margin_at_most(interval, verdict):
    assert MARGIN == 0.02
    claim = dataclasses.replace(told([0.2, 0.2], [sum(interval) / 2, *interval], 1e-9), at_least=True)
    assert claim.verdict(None) == verdict
    assert adjusted_p([claim, told([0.3, 0.2], [0.1, 0.05, 0.15], 0.04)]) == [None, 0.04]  # tested without it
    error = dataclasses.replace(claim, metric="rmse", difference=[-end for end in claim.difference or ()])
    assert error.verdict(None) == verdict


def test_a_claim_needs_everything_on_its_side():
    """Few users may gain much while most lose, and an error over all ratings fall while that of users grows."""
    gained = told([0.3, 0.2], [0.1, 0.05, 0.15], 1e-9)
    assert gained.verdict(1e-9) == CONFIRMED
    assert dataclasses.replace(gained, rank_difference=-0.4).verdict(1e-9) == REFUTED
    error = dataclasses.replace(
        gained, metric="rmse", values=[0.98, 0.99], difference=[-0.01, -0.02, -0.005], rank_difference=-0.4
    )
    assert error.verdict(1e-9) == CONFIRMED
    assert dataclasses.replace(error, difference=[0.01, 0.005, 0.02]).verdict(1e-9) == REFUTED


def test_a_claim_whose_p_value_is_0_in_float64_says_that_it_is_small():
    found = found_of("steps", ["2", "10"])
    claims = [dataclasses.replace(found.claims[0], p_value=p) for p in (0.0, None)]
    table = claims_table({"steps": dataclasses.replace(found, claims=claims)}, is_open=False)
    cells = [row[table.headings.index("p (Holm)")] for row in table.rows]
    assert [(cell.text, cell.value) for cell in cells] == [("<1e-300", 0.0), ("-", 2.0)]


def test_names_of_pictures_suit_every_file_system():
    assert file_name("sequences-beauty 8:1:1") == "sequences-beauty-811"
    assert file_name("pareto-s / 1,000 users-ml-1m clean") == "pareto-s--1000-users-ml-1m-clean"


def test_orders_and_fronts():
    rng = np.random.default_rng(0)
    labels = [f"m{number}" for number in range(9)]
    first, second = ({label: int(place) for label, place in zip(labels, rng.permutation(9))} for _ in range(2))
    expected = stats.kendalltau([first[label] for label in labels], [second[label] for label in labels]).statistic
    assert kendall(first, second) == pytest.approx(expected)
    points = {label: tuple(rng.random(2)) for label in labels}
    beaten = {
        a for a, b in itertools.permutations(labels, 2) if points[b][0] <= points[a][0] and points[b][1] >= points[a][1]
    }
    assert set(pareto_front(points)) == set(labels) - beaten


def test_labels_cover_neither_each_other_nor_points_where_there_is_room():
    rng = np.random.default_rng(0)
    places, labels = rng.uniform(0, 400, (12, 2)).tolist(), [f"model {number}" for number in range(12)]
    offsets = label_offsets(labels, places, [7.0] * 12)
    boxes = [(x + dx, y + dy, x + dx + 0.6 * 7 * len(label), y + dy + 7)
             for label, (x, y), (dx, dy) in zip(labels, places, offsets)]  # fmt: skip
    for number, (left, low, right, high) in enumerate(boxes):
        for other in boxes[:number]:
            assert other[0] >= right or left >= other[2] or other[1] >= high or low >= other[3]
        assert not any(left < x < right and low < y < high for x, y in places)


def test_a_run_by_several_protocols(tmp_path):
    """Whatever was measured; a file that is damaged, or of other results, counts as none."""
    results = {CONFIG_DIGEST: "a"}
    per_user = {"ndcg@7": np.array([0.5, 0.0, 0.2]), "num_relevant": np.array([2, 0, 1])}
    expected = {"official": 0.7 / 3, "relevant users": 0.35}
    assert by_protocol(tmp_path, results, per_user, "ndcg@7") == pytest.approx(expected)
    per_user["recall@7"], per_user["capped_recall@7"] = np.array([0.2, 0.0, 0.4]), np.array([0.4, 0.0, 0.8])
    np.savez(tmp_path / FILES["sampled"], **{"recall@7": np.ones(3), HOW: json.dumps({"config_sha256": "a"})})
    (tmp_path / FILES["valid-in-input"]).write_bytes(b"torn")
    found = by_protocol(tmp_path, results, per_user, "recall@7")
    assert found == pytest.approx({"official": 0.2, "relevant users": 0.3, "capped": 0.4, "sampled": 1.0})
    assert "sampled" not in by_protocol(tmp_path, {CONFIG_DIGEST: "b"}, per_user, "recall@7")


def found_of(study, labels):
    """Findings of a study as if it had been done on clean data."""
    rng = np.random.default_rng(1)

    def row(label, number):
        test = {
            f"{name}@{k}": list(rng.uniform(0.1, 0.3, 3))
            for name in ("recall", "capped_recall", "ndcg")
            for k in (10, 20)
        }
        difference, p = (None, None) if number == 0 else ([-0.01, -0.02, 0.0], 0.04)
        protocols = dict(zip(("official", "relevant users", "capped", "valid-in-input", "sampled"), rng.random(5)))
        costs = {"training s": [1.0 + number], "parameters": [10.0], "s / 1,000 users": [0.1]}
        return Row(
            label, [1, 2, 3], ["r"] * 3, "sha", test, test, {"coverage@20": [0.5]}, costs, difference, p, protocols
        )

    rows = [row(label, number) for number, label in enumerate(labels)]
    measured = Measured("recall@20", labels[0], ["1.0"], ["2 x cpu <tm>"], rows)
    claims = [
        dataclasses.replace(
            told([0.3, 0.2], [0.1, 0.0, 0.2], 0.01), text="a < b", data=ON_CLEAN, better=labels[0], worse=labels[1]
        )
    ]
    return Findings(study, {"ml-1m clean": measured}, claims)


def test_a_report_asks_nothing_of_the_network_and_shows_what_was_found(tmp_path):
    found = {
        "models": found_of("models", ["DiffRec", "EASE", "MF"]),
        "steps": found_of("steps", ["2", "10", "40"]),
        "clusters": Findings("clusters", {}, []),  # not done yet
    }
    found["steps"].by_data["ml-1m clean"].users["2"] = {"recall@20": np.arange(3, dtype=np.float32)}
    for own in found.values():
        kept.write(own, tmp_path / "kept")
    stored = kept.read(tmp_path / "kept", found)
    assert stored == found
    assert stored["steps"].by_data["ml-1m clean"].users["2"]["recall@20"].tolist() == [0, 1, 2]
    (tmp_path / "kept" / "steps.npz").write_bytes(b"half")  # users' metrics of something else
    assert kept.read(tmp_path / "kept", ["steps"])["steps"].by_data["ml-1m clean"].users == {}
    (tmp_path / "kept" / "models.json").write_text("{")
    with pytest.raises(ConfigError, match=r"models\.json cannot be read .* delete it"):
        kept.read(tmp_path / "kept", found)
    assert list(kept.read(tmp_path / "kept", ["steps"])) == ["steps"]
    blocks = list(sections(found))
    markdown, page = to_markdown("Title", blocks, tmp_path), to_html("Title", blocks)
    mean = np.mean(found["models"].by_data["ml-1m clean"].rows[0].test["recall@20"])
    for text in (markdown, page):
        assert f"{mean:.4f}" in text and CONFIRMED in text and "--studies=steps" in text
        assert "clusters" not in text
    assert "a &lt; b" in page and "2 x cpu &lt;tm&gt;" in page
    named = re.findall(r"!\[.*?\]\((.+?)\)", markdown)
    assert len(named) == 5 and all((tmp_path / name).read_text().startswith("<?xml") for name in named)
    links = re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) + re.findall(r"url\((?!#)", page)
    assert links == [] and "default-src 'none'" in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    without = {"steps": dataclasses.replace(found["steps"], claims=[])}
    assert "claim" not in to_html("Title", list(sections(without))).split("</style>")[1].lower()
    assert markdown == to_markdown("Title", list(sections(found)), tmp_path)  # nothing of it depends on the moment


def test_a_table_says_what_its_rows_and_columns_are():
    """In HTML its caption is the last heading, a row has a heading; in both, text stands left and numbers right."""
    table = TableBlock(["model", "recall", "why"], [[Cell("a|b", "a|b"), Cell("-", float("-inf")), Cell("<", "<")]])
    page = to_html("Title", [table, Heading("One & two"), Paragraph("Text"), table, Heading("Three", 3), table])
    assert re.findall("<caption>(.*?)</caption>", page) == ["Title", "One &amp; two", "Three"]
    row = (
        '<tr><th scope="row" class="text" data-value="a|b">a|b</th><td data-value="-inf">-</td>'
        '<td class="text" data-value="&lt;">&lt;</td></tr>'
    )
    assert page.count(row) == 3
    assert re.findall('<th scope="col"(.*?)>', page)[:3] == [' class="text"', "", ' class="text"']
    assert markdown_table(table) == ["| model | recall | why |", "| --- | ---: | --- |", r"| a\|b | - | < |"]


MODELS_STUDY = next(study for study in STUDIES if study.name == "models")
ON_CLEAN, ON_NOISY = "ml-1m clean", "ml-1m noisy"


def found_on(data, labels, *, known=True, sha="sha", identity="a"):
    """Findings as if the models of these names had been run on a dataset."""
    measured = found_of("models", labels).by_data[ON_CLEAN]
    rng = np.random.default_rng(len(labels))
    users = {label: {"recall@20": rng.random(40, np.float32)} for label in labels} if known else {}
    rows = [dataclasses.replace(row, data_sha256=sha, identities=[identity]) for row in measured.rows]
    return Findings("models", {data: dataclasses.replace(measured, rows=rows, users=users)}, [])


def needed(identity, data=ON_CLEAN):
    """The study's runs as a plan has them, one of each variant."""
    config = new_run_config(parse_train_flags(["--model=popularity"]))
    return [Planned(MODELS_STUDY, data, label, (), config, identity) for label in MODELS_STUDY.variants]


def merged(old, new, planned=()):
    return kept.update(old, new, MODELS_STUDY, planned)


def labels_of(found, data=ON_CLEAN):
    return {row.label for row in found.by_data[data].rows}


def test_newer_runs_stand_beside_kept_ones_and_are_compared_with_them():
    both, notes = merged(
        found_on(ON_CLEAN, ["DiffRec", "MF", "no longer a variant"]), found_on(ON_NOISY, ["DiffRec", "MF"])
    )
    assert list(both.by_data) == [ON_CLEAN, ON_NOISY] and not notes
    for data, text in ((ON_CLEAN, "than MF"), (ON_NOISY, "than MF, with natural noise")):
        users = both.by_data[data].users
        expected = compare_users(users["DiffRec"]["recall@20"], users["MF"]["recall@20"])
        claim = next(claim for claim in both.claims if claim.text == f"DiffRec is more accurate {text}")
        assert claim.p_value == expected.p_value and claim.difference[0] == expected.mean_difference

    new = found_on(ON_CLEAN, ["EASE", "SASRec", "MF", "GiffCF"])
    more, notes = merged(both, new)
    joined = more.by_data[ON_CLEAN]
    assert not notes and labels_of(more) == {"DiffRec", "EASE", "SASRec", "MF", "GiffCF"} == set(joined.users)
    assert joined.users["MF"] is new.by_data[ON_CLEAN].users["MF"]
    assert joined.against == "SASRec" and joined.row("SASRec").difference is None
    means = [row.mean("recall@20") for row in joined.rows]
    assert means == sorted(means, reverse=True)
    others = [row for row in joined.rows if row.label != "SASRec"]
    values = [
        compare_users(joined.users[row.label]["recall@20"], joined.users["SASRec"]["recall@20"]) for row in others
    ]
    assert [row.difference[0] for row in others] == [found.mean_difference for found in values]
    assert [row.p_value for row in others] == holm([found.p_value for found in values])
    assert more.by_data[ON_NOISY] is both.by_data[ON_NOISY]


def test_a_claim_about_a_loss_compares_what_is_lost():
    before, after = (found_on(data, ["DiffRec", "MF"]).by_data[data] for data in (ON_CLEAN, ON_NOISY))
    after.users["DiffRec"]["recall@20"] -= np.float32(0.1)
    by_data = {ON_CLEAN: before, ON_NOISY: after}
    found = look_at(Claim("", "DiffRec", "MF", data=ON_NOISY, since=ON_CLEAN), by_data)
    ours, others = (after.users[label]["recall@20"] - before.users[label]["recall@20"] for label in ("DiffRec", "MF"))
    seeds = [measured.row(label).test["recall@20"] for label in ("DiffRec", "MF") for measured in (after, before)]
    expected = compare_users(ours, others, *seeds)
    assert found.difference == [expected.mean_difference, expected.low, expected.high]
    assert found.difference[0] == pytest.approx(-0.1) and found.p_value == expected.p_value < 1e-6
    assert found.values == [0.0, 0.0]  # the rows' means, which this test leaves equal
    assert look_at(Claim("", "DiffRec", "MF", data=ON_NOISY, since=ON_CLEAN), {ON_NOISY: after}).values is None


def test_a_cost_is_smaller_where_every_seed_says_so():
    rows = [
        dataclasses.replace(row, costs={"parameters": values})
        for row, values in zip(found_on(ON_CLEAN, ["DiffRec", "MF"]).by_data[ON_CLEAN].rows, ([1.0, 3.0], [2.0, 4.0]))
    ]
    measured = Measured("recall@20", "DiffRec", [], [], rows)
    found = look_at(Claim("", rows[0].label, rows[1].label, metric="parameters"), {ON_CLEAN: measured})
    assert found.values == [2.0, 3.0] and found.verdict(None) == REFUTED
    rows[1].costs["parameters"][:] = [3.5, 4.0]
    again = look_at(Claim("", rows[0].label, rows[1].label, metric="parameters"), {ON_CLEAN: measured})
    assert again.verdict(None) == CONFIRMED


def test_claims_are_looked_at_on_toy_data():
    of_toys = found_on(ON_CLEAN, ["DiffRec", "MF"]).by_data[ON_CLEAN]
    claims = look_at_claims(MODELS_STUDY, {QUICK: of_toys})
    assert {claim.data for claim in claims} == {QUICK}
    assert [claim.text for claim in claims if claim.values] == ["DiffRec is more accurate than MF"]


def test_kept_runs_of_other_settings_are_left_out():
    """Where the data are here to tell; with what the same run had by other protocols."""
    old = found_on(ON_CLEAN, ["DiffRec", "MF", "EASE"])
    nothing = Findings("models", {}, [])
    assert merged(old, nothing, needed("a"))[0].by_data == old.by_data
    assert merged(old, nothing)[0].by_data == old.by_data
    elsewhere = Findings("models", {QUICK: old.by_data[ON_CLEAN]}, [])
    assert merged(elsewhere, nothing)[0].by_data == elsewhere.by_data  # of no dataset of the study
    left, notes = merged(old, nothing, needed("b"))
    assert left.by_data == {} and notes == [
        "models on ml-1m clean is without DiffRec, MF, EASE: what was kept is of other settings"
    ]
    left, notes = merged(old, found_on(ON_CLEAN, ["MF", "SLIM"], identity="b"), needed("b"))
    assert labels_of(left) == {"MF", "SLIM"} and "without DiffRec, EASE: " in notes[0]
    again = found_on(ON_CLEAN, ["MF", "SLIM"])
    again.by_data[ON_CLEAN].rows[0].protocols.clear()
    found = merged(old, again, needed("a"))[0].by_data[ON_CLEAN]
    assert found.row("MF").protocols == old.by_data[ON_CLEAN].row("MF").protocols


def test_what_cannot_be_compared_stays_as_it_was():
    """Older findings without users' metrics, and other data; unless newer runs have all of it."""
    claim = next(claim for claim in MODELS_STUDY.claims if claim.worse == "MF" and claim.data == ON_CLEAN)
    known = dataclasses.replace(
        told([0.3, 0.2], [0.1, 0.0, 0.2], 0.01),
        text=claim.text,
        data=ON_CLEAN,
        at_least=True,
        better="DiffRec",
        worse="MF",
    )
    unknown = dataclasses.replace(found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM"], known=False), claims=[known])
    half = found_on(ON_CLEAN, ["DiffRec", "MF"])
    same, notes = merged(unknown, half)
    assert same.by_data == unknown.by_data
    assert notes == [
        "models on ml-1m clean stays as it was, without new runs of DiffRec, MF: users' metrics were not kept of SLIM"
    ]
    assert dataclasses.replace(known, at_least=False) in same.claims  # the claim is the study's, its numbers are kept
    without = needed("a")[1:]  # DiffRec is planned with other settings now
    gone = merged(dataclasses.replace(found_on(ON_CLEAN, ["DiffRec", "MF"]), claims=[known]), half, without)[0]
    assert known.p_value not in {own.p_value for own in gone.claims}
    whole = found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM", "EASE"])
    assert labels_of(merged(unknown, whole)[0]) == {"DiffRec", "MF", "SLIM", "EASE"}
    known_rows = found_on(ON_CLEAN, ["DiffRec", "MF", "SLIM"])
    same, notes = merged(known_rows, found_on(ON_CLEAN, ["MF", "EASE"], sha="other"))
    assert same.by_data == known_rows.by_data and "new runs of MF, EASE: the data are not those" in notes[0]


def test_pictures_take_any_name():
    drawn = (
        lines("a", {"one": {"0": [1.0, 2.0], "$x": [1.5]}, "two": {"0": [1.0]}}, ["0", "$x"], "x", "y"),
        dots("b", {"$a": [1.0], "b": [1.0, 2.0]}, "y"),
        pareto("c", {"$a": ([1.0, 1.5], [2.0, 2.5]), "b": ([2.0], [1.0])}, "x", "y"),
    )
    for svg in drawn:
        assert "currentColor" in for_page(svg, "what it shows") and "#010203" not in for_page(svg, "what it shows")
        assert "#010203" not in for_file(svg) and svg.count("<svg") == 1


def texts_of(svg):
    """What is written in a picture, in its order; words of a place along the axis stand below each other."""
    return re.findall(r">([^<>\n]+)</t(?:ext|span)>", svg)


def line_of(svg, colour):
    """The steps of the line through a series: M starts anew, L goes on."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {colour.lower()}[^>]*linecap: square', svg)
    return re.findall("[ML]", paths[0])


def test_a_line_has_its_places_in_the_order_given_and_a_gap_where_one_is_missing():
    places = ["clean", "10%", "30%", "50%"]
    series = {"a": {"clean": [1.0], "30%": [2.0], "50%": [3.0]}, "b": {place: [1.0] for place in places}}
    svg = lines("a", series, places, "x", "y")
    assert texts_of(svg)[:4] == places
    assert [line_of(svg, colour) for colour in COLOURS[:2]] == [["M", "M", "L"], ["M", "L", "L", "L"]]


def test_pictures_along_an_axis_have_the_order_of_the_study():
    """Of datasets, and of variants, whatever was found first and whatever is missing."""
    measured = {
        data: found_of("random-noise", labels).by_data[ON_CLEAN]
        for data, labels in {
            "50% random": ["DiffRec", "EASE"],
            "10% random": ["EASE", "CDAE"],
            ON_CLEAN: ["DiffRec", "EASE"],
        }.items()
    }
    found = {
        "random-noise": Findings("random-noise", measured, []),
        "steps": found_of("steps", ["100", "2", "5"]),
    }
    along_data, along_axis = (block for block in sections(found) if isinstance(block, Picture))
    assert texts_of(along_data.svg)[:6] == ["ml-1m", "clean", "10%", "random", "50%", "random"]
    assert line_of(along_data.svg, COLOURS[0]) == ["M", "M"]
    assert texts_of(along_axis.svg)[:5] == ["2", "5", "10", "40", "100"]
    assert line_of(along_axis.svg, COLOURS[0]) == ["M", "L", "M"]
    assert "evenly spaced" in along_data.description and "evenly spaced" in along_axis.description


def numbers(found):
    """What does not depend on how long it took, or where."""
    return {
        name: (
            {data: [(row.label, row.test, row.p_value) for row in own.rows] for data, own in of.by_data.items()},
            [claim for claim in of.claims if claim.metric == "recall@20"],
        )
        for name, of in found.items()
    }


KINDS = ["models", "random-noise", "timesteps", "noise-scale", "clusters", "grouping"]
"""Of every kind of study one: models and protocols, along datasets, two variants, along an axis, costs, names."""


def test_all_kinds_at_toy_size_killed_in_the_middle(tmp_path):
    """The same command goes on, and the report is that of a queue which nothing happened to."""
    given = [f"--studies={','.join(KINDS)}", "--quick", f"--runs_dir={tmp_path / 'runs'}"]
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
    assert sorted(found) == sorted(KINDS)
    page = (out / "report.html").read_text()
    assert all(html.escape(study.title) in page for study in chosen_studies(KINDS))
    written = (out / "report.md").read_text()
    shutil.rmtree(out)
    run(tmp_path, "report", "--noruns", f"--findings={folder}", f"--out={out}")
    assert (out / "report.md").read_text() == written

    undisturbed = tmp_path / "undisturbed"
    some = ["--studies=timesteps", "--quick", f"--runs_dir={undisturbed}"]
    run(tmp_path, "reproduce", *some)
    run(tmp_path, "report", *some, f"--findings={undisturbed / 'kept'}", f"--out={undisturbed / 'report'}")
    expected = numbers(kept.read(undisturbed / "kept", ["timesteps"]))
    assert numbers({name: found[name] for name in expected}) == expected

    one = next(undisturbed.glob("*/results.json")).parent  # as if each had been made on a machine of its own
    shutil.move(one, tmp_path / "elsewhere" / one.name)
    for place in ("elsewhere", "undisturbed"):
        given = ["--studies=timesteps", "--quick", f"--runs_dir={tmp_path / place}"]
        run(tmp_path, "report", *given, f"--findings={tmp_path / 'in turn'}", f"--out={out}")
    assert numbers(kept.read(tmp_path / "in turn", ["timesteps"])) == expected
