"""A report as Markdown with pictures beside it, and as one HTML file that asks nothing of the network."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from diffrec_jax.config import ConfigError
from diffrec_jax.files import write_atomically

from .blocks import Block, Cell, Command, Heading, Paragraph, Picture, TableBlock
from .claims import RULE, claims_table, summary, verdicts_table
from .figures import for_file, for_page
from .findings import Findings
from .sections import cell_of, ordered, with_published
from .studies import STUDIES
from .tables import make_columns
from .timings import timings_table

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; --soft: #f3f5f7; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0f1419; --line: #3a434d; --soft: #1a2129; --link: #7cb7ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 104rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .5rem; }
p { max-width: 48rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; scrollbar-width: thin;
  background: linear-gradient(90deg, transparent calc(100% - 3rem), var(--paper)) local,
    linear-gradient(270deg, var(--line), transparent .75rem); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; z-index: 1; background: var(--paper); }
th.text, td.text { text-align: left; white-space: normal; min-width: 6rem; max-width: 24rem; }
tbody th { font-weight: normal; }
/* A caption repeats the heading: it is for those who go from table to table by ear. */
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
tbody tr:hover { background: var(--soft); }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--link); }
th button::after { content: "\\21C5"; content: "\\21C5" / ""; display: inline-block; width: 1.2em; line-height: 1;
  text-align: right; opacity: .4; }
th[aria-sort] button::after { opacity: 1; }
th[aria-sort=ascending] button::after { content: "\\25B2"; content: "\\25B2" / ""; }
th[aria-sort=descending] button::after { content: "\\25BC"; content: "\\25BC" / ""; }
figure { margin: 1rem 0; max-width: 60rem; overflow-x: auto; scrollbar-width: thin; }
/* Narrower than this the letters in a picture could not be read: it is scrolled then. */
figure svg { min-width: 40rem; max-width: 100%; height: auto; }
figcaption { font-size: .9rem; }
"""
SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.closest("th"), table = th.closest("table"), body = table.tBodies[0];
    const place = [...th.parentNode.children].indexOf(th);
    const falls = th.getAttribute("aria-sort") !== "descending";
    for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const value = row => row.children[place].dataset.value.replace(/^-inf$/, "-Infinity");
    const compare = (a, b) => {
      const [x, y] = [Number(value(a)), Number(value(b))];
      return Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
    };
    const rows = [...body.rows].sort(compare);
    body.append(...(falls ? rows.reverse() : rows));
  });
}
"""
OPENING = re.compile(r"<!-- (?:table|claims|timings)\b.*")
_WITHIN = r"(?:(?!<!-- (?:table|claims|timings)\b).)*?"
BLOCK = re.compile(
    rf"(<!-- table (?P<study>\S+) on (?P<data>[^\n]+?): (?P<columns>[^\n]+?) -->\n){_WITHIN}(<!-- end of table -->)",
    re.DOTALL,
)
CLAIMS = re.compile(
    rf"(<!-- claims (?P<whose>paper|open): (?P<report>\S+) -->\n){_WITHIN}(<!-- end of claims -->)", re.DOTALL
)
TIMINGS = re.compile(
    rf"(<!-- timings (?P<file>\S+): (?P<rows>[^\n]+?) -->\n){_WITHIN}(<!-- end of timings -->)", re.DOTALL
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def anchor(text: str) -> str:
    """The name of a heading in links, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def to_markdown(title: str, blocks: Iterable[Block], folder: Path) -> str:
    """The report in Markdown; its pictures are written to the folder."""
    lines = [f"# {title}", ""]
    for block in blocks:
        if isinstance(block, Heading):
            lines += [f"{'#' * block.level} {block.text}", ""]
        elif isinstance(block, Paragraph):
            lines += [block.text, ""]
        elif isinstance(block, Command):
            lines += [f"    {block.text}", ""]
        elif isinstance(block, Picture):
            write_atomically(folder / f"{block.name}.svg", for_file(block.svg))
            lines += [f"![{block.description}]({block.name}.svg)", ""]
        else:
            lines += [*markdown_table(block), ""]
    return "\n".join(lines)


def markdown_table(table: TableBlock, report: str = "") -> list[str]:
    """The lines of a table; its links lead into the report at that place, by default the page itself."""

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"

    def shown(cell: Cell) -> str:
        return f"[{cell.text}]({report}#{anchor(cell.section)})" if cell.section else cell.text

    rule = ["---" if is_text else "---:" for is_text in _are_text(table)]
    lines = [line(table.headings), line(rule), *(line(map(shown, row)) for row in table.rows)]
    if not table.folded_below:
        return lines
    return [f'<details markdown="1"><summary>{html.escape(table.folded_below)}</summary>', "", *lines, "", "</details>"]


def _are_text(table: TableBlock) -> list[bool]:
    """Of each column, whether it is text, which stands on the left, and no numbers."""
    return [all(isinstance(row[place].value, str) for row in table.rows) for place in range(len(table.headings))]


def filled(text: str, found: Mapping[str, Findings], folder: Path) -> str:
    """A page of Markdown with its tables filled.

    A table stands between two comments, ``<!-- table STUDY on DATA: model, recall@20 -->`` with the headings of its
    columns, and ``<!-- end of table -->``. The paper's claims, how many hold and how they are tested, stand between
    ``<!-- claims paper: REPORT -->``, with the report that they lead to, and ``<!-- end of claims -->``; those about
    what the paper leaves open, a table alone, have ``claims open``. Timings stand between
    ``<!-- timings FILE: train_step amazon-book -->``, with a file below ``folder`` and benchmarks by name and shape,
    and ``<!-- end of timings -->``.

    Raises:
      ConfigError: there is no such study, dataset, column, file or benchmark; or a table has no end, or there is none.
    """
    begun = {match.start(): match[0] for match in OPENING.finditer(text)}
    ended = {match.start() for pattern in (BLOCK, CLAIMS, TIMINGS) for match in pattern.finditer(text)}
    for start, comment in begun.items():
        if start not in ended:
            raise ConfigError(f"{comment}: it is not understood, or there is no <!-- end of ... --> behind it")
    if not begun:
        raise ConfigError("there is no table to fill: write <!-- table STUDY on DATA: model, recall@20 -->")
    by_name = {study.name: study for study in STUDIES}

    def block(match: re.Match) -> str:
        try:
            study = by_name[match["study"]]
            measured = with_published(study, match["data"], found[study.name].by_data[match["data"]])
            columns = {column.heading: column for column in make_columns(measured)}
            chosen = [columns[heading] for heading in match["columns"].split(", ")]
        except KeyError as error:
            raise ConfigError(f"{match[1].strip()}: there is no {error.args[0]!r} in the findings") from error
        rows = [[cell_of(column, row) for column in chosen] for row in ordered(study, measured)]
        headings = [study.axis or name if name == "model" else name for name in (own.heading for own in chosen)]
        lines = markdown_table(TableBlock(headings, rows))
        return "\n".join([match[1], *lines, "", match[5]])

    def claims(match: re.Match) -> str:
        table, report = claims_table(found, is_open=match["whose"] == "open"), match["report"]
        if match["whose"] == "open":
            return "\n".join([match[1], *markdown_table(table, report), "", match[4]])
        folded = markdown_table(replace(table, folded_below="All claims"), report)
        verdicts = markdown_table(verdicts_table(table), report)
        return "\n".join([match[1], summary(table), "", *verdicts, "", RULE, "", *folded, "", match[4]])

    def timings(match: re.Match) -> str:
        table = timings_table(folder / match["file"], match["rows"].split(", "))
        return "\n".join([match[1], *markdown_table(table), "", match[4]])

    return TIMINGS.sub(timings, CLAIMS.sub(claims, BLOCK.sub(block, text)))


def to_html(title: str, blocks: Iterable[Block]) -> str:
    """The report as one page: tables that are sorted by a click, light and dark, nothing from elsewhere."""
    blocks = list(blocks)
    contents = [
        f'<li><a href="#{anchor(block.text)}">{html.escape(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    ]
    body = "\n".join(_body(title, blocks))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<nav aria-label="Contents"><ul>
{chr(10).join(contents)}
</ul></nav>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _body(title: str, blocks: Iterable[Block]) -> Iterator[str]:
    """The blocks; the caption of a table is the last heading before it."""
    heading = title
    for block in blocks:
        if isinstance(block, Heading):
            heading = block.text
        yield _html_table(block, heading) if isinstance(block, TableBlock) else _html(block)


def _html(block: Heading | Paragraph | Command | Picture) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="{anchor(block.text)}">{html.escape(block.text)}</h{block.level}>'
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Command):
        return f"<p><code>{html.escape(block.text)}</code></p>"
    description = html.escape(block.description)
    return f"<figure>{for_page(block.svg, description)}<figcaption>{description}</figcaption></figure>"


def _html_table(table: TableBlock, caption: str) -> str:
    kinds = [' class="text"' if is_text else "" for is_text in _are_text(table)]
    heads = "".join(
        f'<th scope="col"{kind}><button>{html.escape(text)}</button></th>'
        for text, kind in zip(table.headings, kinds, strict=True)
    )
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row, kinds, count()))}</tr>" for row in table.rows)
    whole = (
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>\n'
        f"{rows}\n</tbody></table></div>"
    )
    if not table.folded_below:
        return whole
    return f"<details><summary>{html.escape(table.folded_below)}</summary>{whole}</details>"


def _html_cell(cell: Cell, kind: str, place: int) -> str:
    """The first cell of a row is its heading."""
    text = re.sub(r"^\*\*(.*)\*\*$", r"<strong>\1</strong>", html.escape(cell.text))
    if cell.section:
        text = f'<a href="#{anchor(cell.section)}">{text}</a>'
    tag, scope = ("td", "") if place else ("th", ' scope="row"')
    return f'<{tag}{scope}{kind} data-value="{html.escape(str(cell.value))}">{text}</{tag}>'
