import json

import pytest

pytest.importorskip("torch", reason="the PyTorch peer needs the extra: pip install 'diffrec-jax[bench]'")

from benchmarks import throughput
from experiments.cli import ConfigError

RECORD = {
    "device": "cpu", "model": "diffrec", "shape": "ml-1m", "batch": 400, "way": "one", "devices": 1,
    "dtype": "float32", "noise_sketch": 0, "train_users_per_s": 100.0, "inference_users_per_s": 50.0,
    "step_s": [4.0], "compile_s": 1.0, "device_bytes": 2**30,
}  # fmt: skip


def test_only_the_same_case_can_be_slower():
    slower = RECORD | {"train_users_per_s": 89.0}
    assert throughput.regressions([RECORD], [RECORD, RECORD | {"inference_users_per_s": 46.0}]) == []
    (line,) = throughput.regressions([RECORD | {"train_users_per_s": 10.0}, RECORD], [slower])
    assert line == "diffrec ml-1m 400 one 1 float32: train_users_per_s 89, was 100"
    assert throughput.regressions([RECORD], [slower | {"device": "H100"}]) == []


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps({"benchmark": "sampling"}) + "\n")
    assert throughput.read_records(str(path)) == [RECORD]
    path.write_text("{")
    with pytest.raises(ConfigError, match="give a file that --out wrote"):
        throughput.read_records(str(path))


def test_a_line_of_the_table():
    head, _, line = throughput.markdown([RECORD | {"peer_train_users_per_s": 20.0}]).splitlines()
    assert head.count("|") == line.count("|")
    assert line.startswith("| diffrec | ml-1m | 400 | 1 one | float32 | 100 | 5.0 | 50 | - |")


@pytest.mark.parametrize(
    ("way", "message"), [("ring", "not understood"), ("mesh:x", "not understood"), ("mesh:3", "does not divide")]
)
def test_wrong_ways_are_told(way, message):
    with pytest.raises(ConfigError, match=message):
        throughput.make_devices(way, 10)
