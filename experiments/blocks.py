"""What a report is made of, however it looks: headings, text, commands, tables and pictures."""

from dataclasses import dataclass

NOWHERE = float("-inf")
"""What a cell without a number is sorted by."""


@dataclass(frozen=True)
class Cell:
    """Of a table: its text, and what a column is sorted by."""

    text: str
    value: float | str
    section: str = ""
    """Heading of the section that the text leads to."""


@dataclass(frozen=True)
class Heading:
    """Of a section, or of a part of one."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: str


@dataclass(frozen=True)
class Command:
    """What makes the numbers anew."""

    text: str


@dataclass(frozen=True)
class TableBlock:
    """Rows of cells below headings."""

    headings: list[str]
    rows: list[list[Cell]]
    folded_below: str | None = None
    """Of a table that is shown on request: what to click on."""


@dataclass(frozen=True)
class Picture:
    """A figure, with the text that stands for it where it is not seen."""

    name: str
    svg: str
    description: str


Block = Heading | Paragraph | Command | TableBlock | Picture
