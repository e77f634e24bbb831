"""Makes one report of the studies whose runs are finished: report.md with its pictures, and report.html.

  python -m experiments.report --out=report
  python -m experiments.report --findings=docs/results --out=docs/report            adds the numbers to those kept there
  python -m experiments.report --findings=docs/results --out=docs/report --noruns   from those numbers alone

Figures and tables name the command that makes their runs. --pages=README.md fills the tables of other pages, which
stand between the comments <!-- table STUDY on DATA: model, recall@20 --> and <!-- end of table -->.
"""

from pathlib import Path

from rich.console import Console

from diffrec_jax.config import ConfigError
from diffrec_jax.files import write_atomically

from . import flags, kept
from .cli import start
from .console import make_console
from .findings import Findings, find
from .flags import FLAGS
from .pages import filled, to_html, to_markdown
from .plan import plan
from .reproduce import chosen_studies
from .sections import sections
from .store import Store
from .study import Study

TITLE = "DiffRec, reproduced"


def measure_runs(
    studies: list[Study], folder: Path, findings_folder: Path | None, *, quick: bool, console: Console
) -> dict[str, Findings]:
    """What the finished runs below a folder say, added to what a folder of findings keeps, if there is one."""
    store = Store(folder)
    planned, _ = plan(studies, quick=quick)
    before = kept.read(findings_folder, [study.name for study in studies]) if findings_folder else {}
    found = {}
    for study in studies:
        own, old = find(study, planned, store), before.get(study.name)
        if old:
            own, notes = kept.update(old, own, study, planned)
            for note in notes:
                console.print(note)
        if findings_folder and (own.by_data or old) and not (old and kept.are_same(own, old)):
            kept.write(own, findings_folder)
        found[study.name] = own
    return found


def main() -> None:
    """Flags to a report."""
    console, out, studies = make_console(), Path(FLAGS.out), chosen_studies(FLAGS.studies)
    folder = Path(FLAGS.findings) if FLAGS.findings else None
    if FLAGS.runs:
        found = measure_runs(studies, Path(FLAGS.runs_dir), folder, quick=FLAGS.quick, console=console)
    elif folder:
        found = kept.read(folder, [study.name for study in studies])
    else:
        raise ConfigError("--noruns needs --findings: the folder with the numbers")
    if not any(own.by_data for own in found.values()):
        where = FLAGS.runs_dir if FLAGS.runs else FLAGS.findings
        raise ConfigError(
            f"no study{' of --quick' if FLAGS.quick else ''} has finished runs in {where}: experiments.reproduce makes "
            "them, with --quick others than without"
        )
    blocks = list(sections(found))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.md", to_markdown(TITLE, blocks, out))
    write_atomically(out / "report.html", to_html(TITLE, blocks))
    for page in map(Path, FLAGS.pages):
        try:
            write_atomically(page, filled(page.read_text(), found, page.parent))
        except ConfigError as error:
            raise ConfigError(f"{page}: {error}") from error
    console.print(f"the report: {out / 'report.md'}, {out / 'report.html'}")


if __name__ == "__main__":
    flags.define_report_flags()
    start(main, __doc__ or "")
