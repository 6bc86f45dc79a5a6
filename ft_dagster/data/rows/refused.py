"""Refuses rows whose records were erased on request, so that none comes back by its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError


def unless_erased(rows: Iterable[Row], since: Callable[[bytes], str | None] | None) -> Iterator[Row]:
    """Yield the rows. `since`: see `Frozen.erased`. Raises UserError at the first whose erasure was asked
    for: it names the file, the line and the day, and says nothing of the row.
    """
    for row in rows:
        day = None if since is None else since(row.identity)
        if day is not None:
            place = row.place
            at = "" if place is None or not place.line else f", line {place.line}"
            raise UserError(
                f"a record whose erasure was asked for on {day}",
                file=row.named if place is None else place.file or row.named,
                field=f"{row.source}{at}",
                fix="Take the row out of the source; `ft-dagster erase status` lists the requests",
            )
        yield row
