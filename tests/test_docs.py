"""The docs: every exported name has a reference, every example runs, the site builds without a warning."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffrec_jax as dr
from diffrec_jax.diffusion import NOISE_LAWS
from diffrec_jax.registry import MODELS
from diffrec_jax.settings import fields_of

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_that_are_stored(tables):
    used = set()
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.filled(text) == text, f"{page.name}: python docs/tables.py"
        used |= {found["name"] for found in tables.BLOCK.finditer(text)}
    assert used == set(tables.COMPARISONS) == {path.stem for path in tables.RESULTS.glob("*.csv")}
    with pytest.raises(KeyError, match="has no column recall@7: it has model, seeds"):
        tables.table(min(used), ["model", "recall@7"])


def test_the_reference_has_every_exported_name():
    named = re.findall(r"^::: diffrec_jax\.(\w+)$", (DOCS / "reference" / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(named) == sorted(set(dr.__all__) - {"__version__"})
    assert all(getattr(dr, name).__doc__ for name in named)


@pytest.mark.parametrize("page", sorted((DOCS / "how-to").glob("*.md")), ids=lambda path: path.stem)
def test_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    models, laws = dict(MODELS), dict(NOISE_LAWS)
    try:
        names = {"__name__": "example"}
        for example in examples:
            exec(compile(example, str(page), "exec"), names)
    finally:  # what a page registers is its own
        for registered, before in ((MODELS, models), (NOISE_LAWS, laws)):
            registered.clear()
            registered.update(before)


def test_the_site_builds_strictly_and_its_notebooks_run(tmp_path):
    """Both tutorials are executed by the build; a cell that fails, a dead link or a missing name ends it."""
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.parent.name: path.read_text() for path in (tmp_path / "site").glob("**/index.html")}
    for page, printed, plots in (("own_data", r"T-DiffRec +recall@20 0\.\d{4}", 2), ("pure_functions", "kind 0", 3)):
        assert re.search(printed, pages[page]) and pages[page].count("data:image/png") >= plots
    for family in MODELS.values():
        for name in fields_of(family.config_class):
            assert f"<code>{name}</code>" in pages["settings"], name
