"""Shows what a dataset looks like: counts, distributions, warnings; a table, a picture and one HTML page.

python -m experiments.inspect --dataset=ml-100k --data_dir=data --out=reports
"""

import base64
import html
import io
from pathlib import Path

from rich.table import Table

from diffrec_jax.config import default_data_dir
from diffrec_jax.data import read_official
from diffrec_jax.files import safe_name, write_atomically
from diffrec_jax.preparation.inspection import Inspection, inspect

from . import flags
from .cli import start
from .config import find_data
from .console import make_console
from .flags import FLAGS
from .plots import plot_dataset


def shown(value: object) -> str:
    """A count, a share or a text."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def page(found: Inspection, picture: bytes | None) -> str:
    """One self-contained HTML page."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(shown(value))}</td></tr>"
        for name, value in found.counts.items()
    )
    warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in found.warnings) or "<li>none</li>"
    image = ""
    if picture is not None:
        encoded = base64.b64encode(picture).decode()
        image = f'<img alt="popularity of items and lengths of histories" src="data:image/png;base64,{encoded}">'
    title = html.escape(found.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
        "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}"
        "th{text-align:left;font-weight:normal;padding-right:2rem}td{text-align:right}img{max-width:100%}"
        f"</style></head><body><h1>{title}</h1><table>{rows}</table><h2>Warnings</h2><ul>{warnings}</ul>{image}"
        "</body></html>\n"
    )


def main() -> None:
    """Flags to a table and files."""
    console = make_console()
    folder = find_data(FLAGS.dataset, FLAGS.setting, FLAGS.data_dir or default_data_dir())
    dataset = read_official(folder)
    found = inspect(dataset)
    table = Table("", "", title=found.name, show_header=False)
    for name, value in found.counts.items():
        table.add_row(name, shown(value))
    console.print(table)
    for warning in found.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    if FLAGS.out is None:
        return
    out = Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / safe_name(found.name)
    picture = io.BytesIO()
    has_picture = plot_dataset(found.popularity, found.history_lengths, found.name, picture)
    write_atomically(f"{stem}.html", page(found, picture.getvalue() if has_picture else None))
    if has_picture:
        Path(f"{stem}.png").write_bytes(picture.getvalue())
    else:
        console.print("no picture: matplotlib is missing (pip install 'diffrec-jax[plot]')", markup=False)
    console.print(f"written: {stem}.html{f' and {stem}.png' if has_picture else ''}", markup=False, highlight=False)


if __name__ == "__main__":
    flags.define_inspect_flags()
    start(main, __doc__ or "")
