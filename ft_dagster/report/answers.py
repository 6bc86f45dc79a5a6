"""What base and tuned model answered to the same prompts, side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

EMPTY = "(nothing)"


def answers_table(title: str, answers: Iterable[Mapping[str, str]]) -> Table:
    """A rich table of {prompt, base, tuned}. What a model wrote is shown as it is, never read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("base", ratio=3, overflow="fold", style="dim")
    table.add_column("tuned", ratio=3, overflow="fold")
    for answer in answers:
        table.add_row(*(Text(answer[part].strip() or EMPTY) for part in ("prompt", "base", "tuned")))
    return table
