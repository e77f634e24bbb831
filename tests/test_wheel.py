"""The wheel, outside the checkout: one top-level name, the command's scripts, presets, types for others."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel's content."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("diffrec_jax", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "content")
    return folder / "content"


def run(site, tmp_path, code, *arguments):
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DIFFREC_DATA_DIR")}
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'diffrec'; {code}", *arguments]
    env |= {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)


def diffrec(site, tmp_path, *arguments):
    """The command as its entry point starts it."""
    (entry,) = [
        line for line in next(site.glob("*.dist-info/entry_points.txt")).read_text().splitlines() if "=" in line
    ]
    module, function = entry.split("=")[1].strip().split(":")
    code = f"import {module} as main; assert main.__file__.startswith({str(site)!r}); main.{function}()"
    done = run(site, tmp_path, code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_package_of_the_checkout_is_left_out(site):
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "diffrec_jax").rglob("__init__.py")}
    assert len(packages) > 8
    for package in packages:
        assert (site / package / "__init__.py").exists(), f"add {package} to pyproject.toml"


def test_the_wheel_has_one_name_and_everything_that_is_read(site):
    names = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert names == {"diffrec_jax"}
    for path in ROOT.glob("diffrec_jax/**/*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (site / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    scripts = {path.name for path in (ROOT / "experiments").glob("*.py")}
    assert {path.name for path in (site / "diffrec_jax" / "experiments").glob("*.py")} == scripts


def test_the_command_trains_recommends_exports_and_sweeps(site, tmp_path):
    flags = ["--dataset=synthetic", "--synthetic_users=100", "--synthetic_items=60", "--synthetic_interactions=2000"]
    tiny = ["--dims=8", "--batch_size=50", "--epochs=2", "--eval_every=1"]
    output = diffrec(site, tmp_path, "train", "--model=diffrec", *flags, *tiny, "--run_dir=run", "--per_user")
    assert "results in run/results.json" in output and "Popularity" in output
    assert "3 items for each of 100 users" in diffrec(
        site, tmp_path, "recommend", "--run_dir=run", "--out=lists.jsonl", "--k=3"
    )
    assert "item ids in model.stablehlo.json" in diffrec(
        site, tmp_path, "export", "--run_dir=run", "--out=model.stablehlo"
    )
    swept = diffrec(site, tmp_path, "sweep", "--sweep_dir=sweep", "--grid=l2=1|9", "--", "--model=ease", *flags)
    assert swept.count("running ") == 2 and "valid recall@20" in swept
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run", "lists.jsonl", "model.stablehlo", "model.stablehlo.json", "sweep"}


def test_help_names_the_command_that_is_there(site, tmp_path):
    listed = diffrec(site, tmp_path, "--help")
    assert "usage: diffrec SCRIPT" in listed and "train " in listed and "export " in listed
    assert "diffrec train --run_dir=runs/NAME --resume" in diffrec(site, tmp_path, "train", "--help")
    done = run(site, tmp_path, "import diffrec_jax.experiments.__main__ as main; main.main()", "fly")
    assert done.returncode == 2 and done.stderr.startswith("error: there is no script 'fly'")


def test_a_foreign_module_sees_the_types(site, tmp_path):
    """py.typed: a checker finds the wrong argument, and nothing else."""
    (tmp_path / "foreign.py").write_text(
        "import diffrec_jax as dr\n\n\n"
        "def lists(model: dr.Model) -> list[str]:\n"
        "    found: dr.Recommendations = dr.recommend(model, k=5)\n"
        "    dr.recommend(model, k='five')\n"
        "    return [str(user) for user in found.users.tolist()]\n"
    )
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "foreign.py"]
    env = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1 and "foreign.py:6" in errors[0] and '"k"' in errors[0], done.stdout
