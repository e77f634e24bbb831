"""Fills the tables of results in README and docs from stored comparisons; with --run, makes the comparisons first.

  python docs/tables.py                     fills the tables from docs/results
  python docs/tables.py --run               all comparisons anew: many hours; finished runs in runs/ are used again
  python docs/tables.py --run=NAME          one of them

A table stands between two comments, of which the first names a comparison and its columns:
<!-- table NAME: model, recall@20, ndcg@20 --> and <!-- end of table -->
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from diffrec_jax.registry import MODELS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
PAGES = (ROOT / "README.md", Path(__file__).with_name("comparison.md"))
BLOCK = re.compile(r"(<!-- table (?P<name>\S+): (?P<columns>.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)

TIME_FREE = "giffcf,flowcf,l_diffrec,diffrec,ease"
FIVE_SEEDS = "--seeds=1,2,3,4,5"
COMPARISONS: dict[str, tuple[str, list[str]]] = {
    "ml-1m_clean": (
        "ml-1m_clean", [f"--models={','.join(MODELS)}", FIVE_SEEDS, "--against=SASRec", "--", "--dataset=ml-1m"],
    ),
    "ml-1m_clean_time_free": (
        "ml-1m_clean", [f"--models={TIME_FREE}", FIVE_SEEDS, "--against=L-DiffRec", "--", "--dataset=ml-1m"],
    ),
}  # fmt: skip
"""By name: the folder of its runs below runs/, and the flags of experiments.compare."""
PICTURES = {"ml-1m_clean"}
"""Comparisons whose plot a page shows."""


def run_comparison(name: str) -> None:
    """Makes what is not finished of it below runs/, and stores its table and numbers."""
    folder, flags = Path("runs") / COMPARISONS[name][0], COMPARISONS[name][1]
    command = [sys.executable, "-m", "experiments.compare", f"--compare_dir={folder}", *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    RESULTS.mkdir(exist_ok=True)
    for kind in ("md", "csv", "png") if name in PICTURES else ("md", "csv"):
        shutil.copy(ROOT / folder / f"comparison.{kind}", RESULTS / f"{name}.{kind}")


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def table(name: str, columns: list[str]) -> str:
    """These columns of a stored comparison, in Markdown.

    Raises:
      KeyError: it has no such column.
    """
    lines = [line for line in (RESULTS / f"{name}.md").read_text().splitlines() if line.startswith("|")]
    headings, rows = cells(lines[0]), [cells(line) for line in lines[2:]]
    unknown = [column for column in columns if column not in headings]
    if unknown:
        raise KeyError(f"{name} has no column {', '.join(unknown)}: it has {', '.join(headings)}")
    places = [headings.index(column) for column in columns]
    shown = [[row[place] for place in places] for row in [headings, *rows]]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [shown[0], rule, *shown[1:]])


def filled(text: str) -> str:
    """A page with its tables as they are stored."""

    def block(found: re.Match) -> str:
        return f"{found[1]}\n{table(found['name'], found['columns'].split(', '))}\n{found[4]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Arguments to pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="?", const="all", choices=["all", *COMPARISONS], help="comparisons to make")
    run = parser.parse_args().run
    for name in COMPARISONS if run == "all" else [run] if run else []:
        run_comparison(name)
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
