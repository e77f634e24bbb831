"""The chaos and the fuzz benchmark in a small form, and that they would notice."""

import json
import types

import numpy as np
import pytest

from benchmarks import chaos, fuzz

pytestmark = pytest.mark.once


def test_some_changed_inputs_are_taken_or_refused(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    outcomes = set()
    for subject in fuzz.subjects(tmp_path):
        for number in range(12):
            outcome, said = fuzz.outcome_of(subject, np.random.default_rng([5, number]))
            assert outcome in ("taken", "refused"), said
            outcomes.add(outcome)
    assert outcomes == {"taken", "refused"}


def test_what_must_not_happen_is_noticed():
    def attempt(folder, rng):
        raise AttributeError("oh")

    outcome, said = fuzz.outcome_of(fuzz.Subject("x", 1, attempt), np.random.default_rng(0))
    assert outcome == "traceback" and "AttributeError: oh" in said


def test_a_fault_is_survived_and_a_wrong_end_noticed(tmp_path):
    scene = chaos.Scene("diffrec", tmp_path / "run", np.random.default_rng(1), {"valid": None}, 5.0)
    with pytest.raises(chaos.FailedError, match="wrong: valid differ"):
        chaos.FAULTS["a file where checkpoints belong"](scene)


def test_faults_that_are_done_are_not_done_again(tmp_path, monkeypatch):
    names = list(chaos.FAULTS)
    told = {"model": "diffrec", "outcome": "", "failed": False, "said": []}
    lines = [
        {"seed": seed, "number": number, "fault": names[number], **told} for seed, number in ((1, 0), (1, 2), (2, 1))
    ]
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(chaos, "FLAGS", types.SimpleNamespace(seed=1, faults=2))
    assert [found.number for found in chaos.done_before(tmp_path / "out.jsonl", names)] == [0]
    assert chaos.done_before(tmp_path / "none", names) == chaos.done_before(None, names) == []
