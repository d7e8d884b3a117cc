"""Lays a table out in the width of a terminal: the least important columns are left out, and named below the table.

If what must stay is still too wide, names are folded over several lines. Nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

NARROWEST = 4  # columns of the terminal that a folded name has at least


@dataclass(frozen=True)
class Column:
    """A column of a table in the terminal."""

    title: str  # may have two lines
    cells: tuple[str, ...]
    rank: int = 0  # the column with the highest rank is left out first; those with 0 stay
    is_number: bool = False
    wraps: bool = False  # whether cells may be broken between words
    folds: bool = False  # whether cells may be broken anywhere, if nothing else helps

    @property
    def name(self) -> str:
        """The title in one line."""
        return " ".join(self.title.split())

    @property
    def full(self) -> int:
        """The width of its longest line."""
        return self._widest(str.splitlines)

    @property
    def least(self) -> int:
        """The width that it needs if it is broken between words where it may be."""
        return self._widest(str.split) if self.wraps else self.full

    def _widest(self, pieces: Callable[[str], list[str]]) -> int:
        return max((cell_len(piece) for text in (self.title, *self.cells) for piece in pieces(text)), default=0)


@dataclass(frozen=True)
class Layout:
    """A table that fits, and what is left out of it."""

    view: Table
    left_out: tuple[str, ...]  # titles
    needed: int  # width of a terminal that has room for everything

    def remark(self, elsewhere: str) -> list[str]:
        """Returns the sentence that names what is left out and where it is to be seen; none if everything is shown."""
        if not self.left_out:
            return []
        shown = f"a terminal of {self.needed} columns shows all, and so does {elsewhere}"
        return [f"left out, for the terminal is narrow: {', '.join(self.left_out)}; {shown}"]


def lay_out(columns: Sequence[Column], width: int, ends: Collection[int] = ()) -> Layout:
    """Returns the table of the columns that fit.

    Args:
        columns: All columns, with as many cells each.
        width: Width of the terminal.
        ends: Numbers of the rows after which there is an empty line.
    """
    shown = fitting(columns, width)
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column, own in zip(shown, _widths(shown, width), strict=True):
        view.add_column(Text(column.title), justify="right" if column.is_number else "left", width=own, overflow="fold")
    for number, row in enumerate(zip(*(column.cells for column in shown), strict=True)):
        view.add_row(*map(Text, row), end_section=number in ends)
    left_out = tuple(column.name for column in columns if column not in shown)
    return Layout(view, left_out, needed(columns))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Returns the columns that fit into a width, without those of the highest ranks; those of rank 0 in any case."""
    shown = list(columns)
    while not fits(shown, width) and (least_important := max(shown, key=lambda column: column.rank)).rank:
        shown.remove(least_important)
    return shown


def fits(columns: Sequence[Column], width: int) -> bool:
    """Returns whether columns fit into a width without a folded name."""
    return needed(columns) <= width


def needed(columns: Sequence[Column]) -> int:
    """Returns the width of a terminal that has room for all columns."""
    return _needed([column.least for column in columns])


def _needed(widths: Sequence[int]) -> int:
    """Returns the width of a table: behind each column are two spaces, and one is before the first."""
    return sum(widths) + 2 * len(widths) + 1


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Returns the width of each column: more than the least if there is room, and less for names if there is none."""
    found = [column.least for column in columns]
    for number, column in enumerate(columns):
        spare = width - _needed(found)
        if spare >= 0:
            found[number] += min(spare, column.full - column.least)
        elif column.folds:
            found[number] = max(NARROWEST, found[number] + spare)
    return found
