"""Breaks the text of a table's cell between words and behind signs within them, and never within a word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

# Where a line may go on below: `a |b`, `training.|per_|device`; not within a number, nor behind its sign.
BREAK = re.compile(r"(?<=\s)(?=\S)|(?<=\w[./_,:=@-])(?=[^\d\s])")


class Cell:
    """Is the text of a cell: as narrow as its longest word, and folded only where that is too wide."""

    def __init__(self, text: str | Text) -> None:
        self.text = Text.from_markup(text) if isinstance(text, str) else text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        plain = self.text.plain
        pieces = (cell_len(piece.strip()) for piece in BREAK.split(plain))
        widest = max(map(cell_len, plain.split("\n")), default=0)
        return Measurement(max(pieces, default=0), widest).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.text.split("\n", allow_blank=True):
            for part in line.divide(_breaks(line.plain, options.max_width)):
                part.rstrip()
                part.overflow = "fold"
                yield part


def _breaks(line: str, width: int) -> list[int]:
    """Return before which of its characters a line goes on below."""
    breaks, begin, at = list[int](), 0, 0
    for piece in BREAK.split(line):
        end = at + len(piece)
        if at > begin and cell_len(line[begin:end].rstrip()) > width:
            breaks.append(at)
            begin = at
        at = end
    return breaks
