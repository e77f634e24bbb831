"""Makes one report of the studies whose runs are finished: report.md with its pictures, and report.html.

  python -m experiments.report --out=report
  python -m experiments.report --findings=docs/results --out=docs/report            keeps the numbers, with those there
  python -m experiments.report --findings=docs/results --out=docs/report --noruns   from those numbers alone

Figures and tables name the command that makes their runs. --pages=README.md fills the tables of other pages, which
stand between the comments <!-- table STUDY on DATA: model, recall@20 --> and <!-- end of table -->.
"""

from pathlib import Path

from rich.console import Console

from diffrec_jax.config import ConfigError
from diffrec_jax.files import write_atomically

from . import findings, flags
from .cli import start
from .console import make_console
from .findings import Findings
from .flags import FLAGS
from .pages import filled, to_html, to_markdown
from .plan import plan
from .reproduce import chosen_studies
from .sections import sections
from .store import Store
from .studies import Study

TITLE = "DiffRec, reproduced"


def measure_runs(studies: list[Study], folder: Path, *, quick: bool) -> dict[str, Findings]:
    """What the finished runs below a folder say."""
    store = Store(folder)
    planned, _ = plan(studies, quick=quick)
    return {study.name: findings.find(study, planned, store) for study in studies}


def keep(found: dict[str, Findings], studies: list[Study], folder: Path, console: Console) -> dict[str, Findings]:
    """Adds what was found to what a folder has, so that runs may be made in turn, on several machines: all of that."""
    kept = findings.read(folder)
    for study in studies:
        own = found[study.name]
        if study.name in kept:
            own, missing = findings.update(kept[study.name], own, study)
            for data, labels in missing.items():
                console.print(f"{study.name} on {data} stays as it was: no finished runs here of {', '.join(labels)}")
        if own.by_data:
            findings.write(own, folder)
            kept[study.name] = own
    return {study.name: kept.get(study.name, found[study.name]) for study in studies}


def main() -> None:
    """Flags to a report."""
    console, out, studies = make_console(), Path(FLAGS.out), chosen_studies(FLAGS.studies)
    folder = Path(FLAGS.findings) if FLAGS.findings else None
    if FLAGS.runs:
        found = measure_runs(studies, Path(FLAGS.runs_dir), quick=FLAGS.quick)
        if folder:
            found = keep(found, studies, folder, console)
    elif folder:
        kept = findings.read(folder)
        found = {study.name: kept[study.name] for study in studies if study.name in kept}
    else:
        raise ConfigError("--noruns needs --findings: the folder with the numbers")
    if not any(own.by_data for own in found.values()):
        raise ConfigError(f"no study has finished runs in {FLAGS.runs_dir}: experiments.reproduce makes them")
    blocks = list(sections(found))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.md", to_markdown(TITLE, blocks, out))
    write_atomically(out / "report.html", to_html(TITLE, blocks))
    for page in map(Path, FLAGS.pages):
        write_atomically(page, filled(page.read_text(), found, page.parent))
    console.print(f"the report: {out / 'report.md'}, {out / 'report.html'}")


if __name__ == "__main__":
    flags.define_report_flags()
    start(main, __doc__ or "")
