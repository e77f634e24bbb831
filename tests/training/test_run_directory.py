import pytest

from diffrec_jax.training.clock import KINDS
from diffrec_jax.training.run_directory import LOCATION, OFF_SCHEDULE, RunDirectory, RunDirectoryError, differences


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create({"training": {"lr": 0.1, "epochs": 5}, "dims": [1, 2]})
    return directory


def test_nothing_is_written_over(run, tmp_path):
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(RunDirectoryError, match="holds a run already: pass --resume"):
        run.create({})
    assert (run.path / "config.json").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        RunDirectory(tmp_path / "other").create({})


def test_configurations_are_compared_key_by_key(run):
    run.check_config(run.config(), {"training": {"lr": 0.1, "epochs": 5}, "dims": (1, 2)})
    run.check_config(
        run.config(), {"training": {"lr": 0.1, "epochs": 9}, "dims": [1, 2]}, may_differ=("training.epochs",)
    )
    with pytest.raises(RunDirectoryError, match=r"training.epochs \(5 there, 9 asked for\)"):
        run.check_config(run.config(), {"training": {"lr": 0.1, "epochs": 9}, "dims": [1, 2]})
    with pytest.raises(RunDirectoryError, match=r"new \(None there, 1 asked for\)"):
        run.check_config(run.config(), {"training": {"lr": 0.1, "epochs": 5}, "dims": [1, 2], "new": 1})


def test_a_resume_supersedes_later_records_without_deleting_them(run):
    for step in (1, 2, 3):
        run.log({"event": "epoch", "step": step, "try": 1})
    run.log({"event": "resume", "step": 1})
    run.log({"event": "epoch", "step": 2, "try": 2})
    assert [(record["step"], record["try"]) for record in run.records()] == [(1, 1), (2, 2)]
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_torn_line_is_passed_over_and_ended(run):
    run.log({"event": "epoch", "step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "st')
    run.log({"event": "epoch", "step": 2})
    assert [record["step"] for record in run.records()] == [1, 2]


def test_unreadable_files_are_named(run, tmp_path):
    with pytest.raises(RunDirectoryError, match="config.json does not exist"):
        RunDirectory(tmp_path / "nowhere").config()
    (run.path / "config.json").write_text("[1]")
    with pytest.raises(RunDirectoryError, match="not valid JSON .it holds no object"):
        run.config()
    (run.path / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is not valid JSON"):
        run.config()
    assert run.results() is None


def test_records_off_schedule_hold_until_the_run_goes_on(run):
    run.log({"event": "evaluation", "step": 4})
    run.log({"event": "evaluation", "step": 6, **OFF_SCHEDULE})
    run.log({"event": "resume", "step": 6})
    assert [record["step"] for record in run.records()] == [4, 6]
    run.log({"event": "resume", "step": 6, "goes_on": True})
    assert [record["step"] for record in run.records()] == [4]


def test_results_of_another_configuration_are_not_the_runs(run):
    run.write_results({"recall": 0.5})
    assert run.results()["recall"] == 0.5
    run.update_config(run.config() | {LOCATION: {"folder": "/elsewhere"}})
    assert run.results()["recall"] == 0.5  # the data may move
    run.update_config(run.config() | {"dims": [3]})
    assert run.results() is None


def test_differences_are_named():
    old, new = {"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}}
    assert differences(old, new) == "a.c (2 there, 3 asked for)"
    assert differences(old, new, may_differ=("a.c",)) == ""


def test_a_configuration_that_was_changed_is_told_and_one_without_a_sum_is_read(tmp_path):
    run = RunDirectory(tmp_path / "signed")
    run.create({"training": {"lr": 0.001}})
    path = run.path / "config.json"
    text = path.read_text()
    path.write_text(text.replace("0.001", "0.005"))
    with pytest.raises(RunDirectoryError, match=r"config.json is not what was written: it is damaged, or was edited"):
        run.config()
    path.write_text('{"training": {"lr": 0.001}}')
    assert run.config() == {"training": {"lr": 0.001}}


def test_noise_in_the_log_is_passed_over(tmp_path):
    run = RunDirectory(tmp_path / "noisy")
    run.create({})
    run.log({"event": "epoch", "step": 3})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n[1]\n3\n{"event": "epoch"}\n{"event": "epoch", "step": "4"}\n')
    run.log({"event": "epoch", "step": 5})
    seconds = dict.fromkeys(KINDS, 1.0)
    run.log_clock(5, {"step": 1.0})
    run.log({"event": "clock", "step": 5})
    run.log_clock(5, seconds)
    run.log({"event": "resume", "step": 5})
    assert [record["step"] for record in run.records()] == [3, 5]
    assert [record["seconds"] for record in run.clocks()] == [seconds]
    assert run.earlier_clocks() == ([seconds], 2.0)


def test_the_peak_of_memory_is_that_of_all_processes_of_a_run(tmp_path, monkeypatch):
    run, seconds = RunDirectory(tmp_path), dict.fromkeys(KINDS, 1.0)
    monkeypatch.setattr("diffrec_jax.training.run_directory.peak_rss_bytes", lambda: 7)
    run.log_clock(5, seconds)
    assert run.peak_bytes(3) == 3  # the first process goes on
    run.log({"event": "resume", "step": 5})
    assert run.peak_bytes(3) == 7 and run.peak_bytes(9) == 9
    run.log({"event": "clock", "step": 6, "seconds": seconds})  # as earlier versions wrote it
    assert run.peak_bytes(9) is None
