"""The docs: every exported name has a reference, every example runs, the site builds without a warning."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffrec_jax as dr
from diffrec_jax.config import ConfigError
from diffrec_jax.data.synthetic import NAMED_SPECS
from diffrec_jax.diffusion import NOISE_LAWS
from diffrec_jax.registry import MODELS
from diffrec_jax.settings import fields_of
from experiments import kept
from experiments.pages import BLOCK, CLAIMS, TIMINGS, filled, to_html, to_markdown
from experiments.report import TITLE
from experiments.sections import sections
from experiments.studies import STUDIES

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


PAGES = ("README.md", "docs/comparison.md", "docs/reproduction.md", "docs/how-to/ratings.md", "benchmarks/README.md")
REPORT = f"python -m experiments.report --noruns --findings=docs/results --out=docs/report --pages={','.join(PAGES)}"


def kept_findings():
    return kept.read(DOCS / "results", [study.name for study in STUDIES])


def without_pictures(page):
    """Their bytes are those of one version of matplotlib."""
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_tables_and_the_report_are_those_of_the_stored_numbers(tmp_path):
    found = kept_findings()
    for page in (ROOT / name for name in PAGES):
        text = page.read_text()
        assert any(block.search(text) for block in (BLOCK, CLAIMS, TIMINGS))
        assert filled(text, found, page.parent) == text, REPORT
    blocks = list(sections(found))
    assert to_markdown(TITLE, blocks, tmp_path) == (DOCS / "report" / "report.md").read_text(), REPORT
    page = (DOCS / "report" / "report.html").read_text()
    assert without_pictures(to_html(TITLE, blocks)) == without_pictures(page), REPORT
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert pictures == {path.name for path in (DOCS / "report").glob("*.svg")}


def test_what_the_readme_counts_is_there():
    text = " ".join((ROOT / "README.md").read_text().split())
    others = [name for name in MODELS if not name.endswith("diffrec") or name == "s_diffrec"]
    assert len(others) == 21 and "with twenty-one other models" in text
    size = NAMED_SPECS["synthetic-amazon-book"]
    assert f"({size.num_users:,} users, {size.num_items:,} items)" in text


def test_a_table_of_points_on_a_line_is_in_their_order_and_named_by_what_they_are_of(tmp_path):
    text = "<!-- table steps on ml-1m clean: model, recall@20 -->\n<!-- end of table -->"
    lines = [line.split(" | ")[0] for line in filled(text, kept_findings(), tmp_path).splitlines() if line[:2] == "| "]
    assert lines == ["| T", "| ---", "| 2", "| 5", "| 10", "| 40", "| 100"]


def alignment(page):
    """Of the columns of the one table of a page, as Markdown has it."""
    return next(line for line in page.splitlines() if line.startswith("| ---"))


def test_in_tables_text_stands_left_and_numbers_right(tmp_path):
    found = kept_findings()
    compared = "<!-- table models on ml-1m clean: recall@20, model, p (Holm) -->\n<!-- end of table -->"
    assert alignment(filled(compared, found, tmp_path)) == "| ---: | --- | ---: |"
    claims = "<!-- claims paper: report/report.md -->\n<!-- end of claims -->"
    page = filled(claims, found, tmp_path)
    assert alignment(page) == "| --- | ---: | ---: | ---: | ---: |"
    claims = page[page.index("<summary>All claims</summary>") :]
    assert alignment(claims) == "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"
    assert "| [As released](report/report.md#as-released) | " in page
    assert "| [models](report/report.md#all-models) |" in page and "grouping" not in page
    assert "| [grouping](a.md#how-items-are-grouped) |" in filled(
        "<!-- claims open: a.md -->\n<!-- end of claims -->", found, tmp_path
    )
    record = {"benchmark": "a", "shape": "default", "row": "first", "ours_s": [2.0], "peer_s": [3.0]}
    lines = [record, record | {"shape": "yelp", "peer_s": [], "ours_per_floor": 1.234}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = filled("<!-- timings a.jsonl: a default, a yelp -->\n<!-- end of timings -->", found, tmp_path)
    assert alignment(page) == "| --- | ---: | ---: | ---: | ---: | --- |"
    assert "| first | 2 | 3 | 1.5 | - | `python -m benchmarks.a --repeats=1` |" in page
    assert "| first, yelp shape | 2 | - | - | 1.23 | `python -m benchmarks.a --shape=yelp --repeats=1` |" in page


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- table models on ml-1m clean: recall@7 -->\n<!-- end of table -->", "there is no 'recall@7' in the"),
        ("<!-- table models on mars: recall@20 -->\n<!-- end of table -->", "there is no 'mars' in the"),
        ("<!-- timings none.jsonl: train_step yelp -->\n<!-- end of timings -->", "none.jsonl cannot be read"),
        ("<!-- timings a.jsonl: train_step mars -->\n<!-- end of timings -->", "a.jsonl has no 'train_step mars'"),
        (
            "<!-- claims open: a.md -->\nText\n<!-- table x on y: z -->\n<!-- end of table -->",
            "claims open: a.md -->: .* there is no <!-- end",
        ),
        (
            "<!-- table models on ml-1m clean: recall@20 -->\nno end",
            "recall@20 -->: it is not understood, or there is no",
        ),
        ("A page", "there is no table to fill"),
    ],
)
def test_a_table_of_what_is_not_there_is_refused(text, message, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"benchmark": "train_step", "shape": "yelp", "row": "step", "peer_s": [1]}\n')
    with pytest.raises(ConfigError, match=message):
        filled(text, kept_findings(), tmp_path)


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
    assert re.search(r"<details>\s*<summary>[^<]*</summary>\s*<table>", pages["report"])
    for family in MODELS.values():
        for name in fields_of(family.config_class):
            assert f"<code>{name}</code>" in pages["settings"], name
