"""Exported files, loaded by processes that know nothing of this package."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.config import ConfigError
from diffrec_jax.data import parse_recency
from diffrec_jax.registry import MODELS
from diffrec_jax.serving.export import description_of, recency_weights
from tests.test_api import SPLIT, small

LOADERS = {
    "stablehlo": """
import sys, numpy as np
from jax import export
data = np.load(sys.argv[2])
run = export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
found = [run(data["histories"]), run(data["histories"][:1])]  # any number of rows
assert "diffrec_jax" not in sys.modules
""",
    "onnx": """
import sys, numpy as np, onnxruntime
data = np.load(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1])
found = [session.run(None, {session.get_inputs()[0].name: data["histories"]})]
assert "jax" not in sys.modules
""",
}
CHECK = """
for items, scores in found:
    np.testing.assert_array_equal(items, data["items"][: len(items)])
    np.testing.assert_allclose(scores, data["scores"][: len(scores)], rtol=1e-5, atol=1e-5)
"""


def check_file(path, model, tmp_path, k=6):
    """What the file gives in another process is what the library recommends."""
    rows = [SPLIT.train[[user]].indices for user in range(3)]
    described = json.loads(description_of(path).read_text())
    histories = np.full((3, described["max_history"]), -1, np.int32)
    for row, items in zip(histories, rows):
        row[: len(items)] = items
    names = np.array(described["items"])
    expected = dr.recommend(model, histories={number: names[items].tolist() for number, items in enumerate(rows)}, k=k)
    numbers = {name: number for number, name in enumerate(described["items"])}
    items = np.vectorize(numbers.get)(expected.items)
    np.savez(tmp_path / "data.npz", histories=histories, items=items, scores=expected.scores)
    code = LOADERS[path.suffix.removeprefix(".")] + CHECK
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "data.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.once
@pytest.mark.parametrize("model", MODELS)
def test_every_model_serves_from_stablehlo(model, tmp_path):
    fitted = dr.fit(model, SPLIT, **small(model))
    dr.export(fitted, tmp_path / "model.stablehlo", k=6)
    check_file(tmp_path / "model.stablehlo", fitted, tmp_path)


@pytest.mark.parametrize("model", ["diffrec", "l_diffrec", "ease", "multivae"])
def test_models_serve_from_onnx(model, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: pip install 'diffrec-jax[onnx]'")
    settings = small(model) | ({"infer_recency": "exp:3"} if model == "t_diffrec" else {})
    dr.save(dr.fit(model, SPLIT, **settings), tmp_path / "saved")
    # In a process of its own: jax2onnx replaces functions of JAX.
    code = "import sys, diffrec_jax as dr; dr.export(dr.load(sys.argv[1]), sys.argv[2], k=6, batch_size=3)"
    command = [sys.executable, "-c", code, str(tmp_path / "saved"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    check_file(tmp_path / "model.onnx", dr.load(tmp_path / "saved"), tmp_path)


@pytest.mark.parametrize("text", ["none", "linear:0.1:1", "exp:3", "exp:3:2@0.6", "linear:0:1@0.5"])
def test_recency_of_a_history_is_that_of_a_row(text):
    recency, num_items = parse_recency(text), SPLIT.num_items
    lengths = np.diff(SPLIT.train.indptr)
    histories = np.full((SPLIT.num_users, lengths.max() + 3), num_items, np.int32)
    for user, row in enumerate(histories):
        row[: lengths[user]] = SPLIT.train[[user]].indices
    found = np.asarray(jax.jit(lambda items: recency_weights(recency, items, num_items))(histories))
    np.testing.assert_allclose(found[histories < num_items], recency.weights(SPLIT.train), rtol=1e-6)
    assert not found[histories == num_items].any()


def test_what_cannot_be_exported_is_named(tmp_path):
    model = dr.fit("popularity", SPLIT)
    for name, options, message in (
        ("model.pb", {}, r"ends with '.pb': choose one of .stablehlo, .onnx"),
        ("model.onnx", {"k": 0}, "k has to be between 1 and 40"),
        ("model.stablehlo", {"max_history": 0}, "max_history at least 1"),
        ("model.stablehlo", {"batch_size": 0}, "batch_size has to be at least 1, got 0"),
        ("model.stablehlo", {"platforms": ("gpu",)}, "platform 'gpu' is unknown: choose of cpu, cuda, rocm, tpu"),
        ("model.stablehlo", {"platforms": "metal"}, "platform 'metal' is unknown"),
    ):
        with pytest.raises(ConfigError, match=message):
            dr.export(model, tmp_path / name, **options)
    dr.save(model, tmp_path / "saved")
    dr.export(model, tmp_path / "saved" / "model.stablehlo", platforms="cpu")
    assert dr.load(tmp_path / "saved")  # nothing of it is overwritten
    shutil.rmtree(tmp_path / "saved")
    dr.export(model, tmp_path / "seen.stablehlo", k=40, exclude_seen=False)
    assert json.loads((tmp_path / "seen.stablehlo.json").read_text())["k"] == 40
    assert {path.name for path in tmp_path.iterdir()} == {"seen.stablehlo", "seen.stablehlo.json"}
