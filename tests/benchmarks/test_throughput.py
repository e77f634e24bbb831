import json

import pytest

pytest.importorskip("torch", reason="the PyTorch peer needs the extra: pip install 'diffrec-jax[bench]'")

from benchmarks import throughput
from diffrec_jax.config import ConfigError

RECORD = {
    "device": "cpu", "model": "diffrec", "shape": "ml-1m", "batch": 400, "way": "one", "devices": 1,
    "dtype": "float32", "loss": "plain", "steps": 1, "train_users_per_s": 100.0, "inference_users_per_s": 50.0,
    "step_s": [4.0], "compile_s": 1.0, "device_bytes": 2**30,
}  # fmt: skip


def test_only_the_same_case_can_be_slower():
    slower = RECORD | {"train_users_per_s": 89.0}
    assert throughput.regressions([RECORD], [RECORD, RECORD | {"inference_users_per_s": 46.0}]) == []
    (line,) = throughput.regressions([RECORD | {"train_users_per_s": 10.0}, RECORD], [slower])
    assert line == "diffrec ml-1m 400 one 1 float32 plain 1: train_users_per_s 89, was 100"
    assert throughput.regressions([RECORD], [slower | {"device": "H100"}]) == []


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps({"benchmark": "sampling"}) + "\n")
    assert throughput.read_records(str(path)) == [RECORD]
    path.write_text(json.dumps({name: value for name, value in RECORD.items() if name != "steps"}))
    assert throughput.read_records(str(path)) == [RECORD]
    path.write_text("{")
    with pytest.raises(ConfigError, match="give a file that --out wrote"):
        throughput.read_records(str(path))


def test_a_line_of_the_table():
    head, _, line = throughput.markdown([RECORD | {"peer_train_users_per_s": 20.0}]).splitlines()
    assert head.count("|") == line.count("|")
    assert line.startswith("| diffrec | ml-1m | 400 | 1 one | float32 | plain | 1 | 100 | 5.0 | 50 | - |")


@pytest.mark.parametrize(
    ("way", "message"), [("ring", "not understood"), ("mesh:x", "not understood"), ("mesh:3", "does not divide")]
)
def test_wrong_ways_are_told(way, message):
    with pytest.raises(ConfigError, match=message):
        throughput.make_devices(way, 10)


def case(loss, model="diffrec"):
    return throughput.Case(model, "ml-1m", 400, "one", "float32", loss, 1)


def test_wrong_losses_are_told():
    for loss in ("fast", "sketch", "sketch:0", "gram+"):
        with pytest.raises(ConfigError, match="not understood"):
            _ = case(loss).loss_fields
    with pytest.raises(ConfigError, match="l_diffrec has plain alone"):
        _ = case("gram", "l_diffrec").loss_fields


def test_forms_of_the_loss_leave_out_products():
    job = throughput.job_of(400, 1000, (50,), data_shards=2)
    assert throughput.lean(job, **case("plain").loss_fields) == job
    # Of 400 x 1000 x 50: 2 for the noise, 3 for the error; by Gram matrices 2 x 50 x 1000 x 50 on each of 2 devices.
    assert throughput.lean(job, **case("gram").loss_fields).flops == 2 * 50 * 1000 * (2 * 400 + 2 * 2 * 50)
    sketched = throughput.lean(job, **case("sketch:100+gram").loss_fields)
    assert sketched.flops == 2 * 50 * (2 * 400 * 100 + 2 * 2 * 50 * 1000)
    assert sketched.drawn == 0
