"""Keeps what becomes of each field of an imported file: carried, changed or dropped, with the reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.versions.declaration_text import Setting, Source

Kind = Literal["carried", "changed", "dropped"]
KINDS: tuple[Kind, ...] = ("carried", "changed", "dropped")
SECRET = re.compile(r"token(?!s|izer|_)|key|secret|password|credential", re.IGNORECASE)
LONGEST = 80  # characters of a value in a comment or a table
NAMED = 5  # of what is dropped, in the error that refuses it


class Item(NamedTuple):
    """Is one field of an imported file."""

    file: Path
    field: str
    value: Any

    @property
    def shown(self) -> str:
        """Return the value as JSON, cut; never a credential."""
        if self.is_secret:
            return "(not shown)"
        text = json.dumps(self.value, ensure_ascii=False, default=str)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."

    @property
    def is_secret(self) -> bool:
        """Say whether the field's name, or one within its value, is that of a credential."""
        return any(map(SECRET.search, (self.field, *_names_in(self.value))))

    def error(self, problem: str, fix: str) -> UserError:
        """Return the error of a value that cannot be right."""
        value = None if self.is_secret else self.value
        return UserError(problem, file=self.file, field=self.field, value=value, fix=fix)


def _names_in(value: Any) -> Iterator[str]:
    """Yield the names of objects in a value, however deep."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield from map(str, each)
        left += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()


class Outcome(NamedTuple):
    """Says what became of a field, or of a field of so many rows."""

    item: Item
    kind: Kind
    to: str  # the field here; "" where there is none
    why: str
    times: int = 1


@dataclass
class Ledger:
    """Collects the outcomes, and what they make of the declaration. `base`: as the file names it."""

    outcomes: list[Outcome] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    heading: list[str] = field(default_factory=list)
    base: Item | None = None
    _origins: dict[str, Item] = field(default_factory=dict)

    def carry(self, item: Item, to: str, value: Any, why: str = "") -> None:
        """Declare a field that means the same here."""
        self._declare("carried", item, to, value, why)

    def change(self, item: Item, to: str = "", value: Any = None, *, why: str) -> None:
        """Note what is done otherwise here; with `to`, by a declared field."""
        if to:
            self._declare("changed", item, to, value, why)
        else:
            self.outcomes.append(Outcome(item, "changed", "", why))

    def keep(self, item: Item, why: str) -> None:
        """Note a field that needs nothing declared: it says what is done here anyway."""
        self.outcomes.append(Outcome(item, "carried", "", why))

    def name(self, item: Item, why: str, to: str = "data.sources") -> None:
        """Note what is declared elsewhere than among the settings: a source, or the base."""
        self.outcomes.append(Outcome(item, "carried", to, why))

    def note(self, item: Item) -> None:
        """Keep a field of the past as a comment of the declaration."""
        self.heading.append(f"{item.field}: {item.shown}")
        self.outcomes.append(Outcome(item, "carried", "", "a comment of the declaration"))

    def drop(self, item: Item, why: str) -> None:
        self.outcomes.append(Outcome(item, "dropped", "", why))

    def count(self, kind: Kind, item: Item, why: str, times: int) -> None:
        """Note what became of a field of so many rows, or of whole rows."""
        self.outcomes.append(Outcome(item, kind, "", why, times))

    def origin(self, declared: str) -> Item | None:
        """Return the imported field that a field of the declaration, or one above or below it, comes from."""
        return next(
            (
                item
                for to, item in self._origins.items()
                if f"{declared}.".startswith(f"{to}.") or f"{to}.".startswith(f"{declared}.")
            ),
            None,
        )

    def counts(self) -> dict[str, int]:
        """Count the outcomes of each kind, one a field, and one a row of a field of rows."""
        found = Counter[Kind]()
        for outcome in self.outcomes:
            found[outcome.kind] += outcome.times
        return {kind: found[kind] for kind in KINDS}

    def refuse_dropped(self, allowed: int) -> None:
        """Raise UserError where more is dropped than is allowed."""
        dropped = [outcome for outcome in self.outcomes if outcome.kind == "dropped"]
        number = self.counts()["dropped"]
        if number > allowed:
            raise UserError(
                f"{number:,} would be dropped: {_named(dropped)}",
                field="--allow-dropped",
                value=allowed,
                fix=f"Give --allow-dropped {number} to go on without them; --dry-run lists them all",
            )

    def declare(self, item: Item, to: str, value: Any, why: str = "") -> None:
        """Declare one more field by an item whose outcome is noted."""
        said = f"{item.field} of {item.file.name}"
        self.settings.append(Setting(to, value, f"{said}: {why}" if why else said))
        self._origins[to] = item

    def _declare(self, kind: Kind, item: Item, to: str, value: Any, why: str) -> None:
        self.declare(item, to, value, why)
        self.outcomes.append(Outcome(item, kind, to, why))


def _named(dropped: Sequence[Outcome]) -> str:
    names = [f"{each.item.field} ({each.why})" for each in dropped[:NAMED]]
    more = [f"{len(dropped) - NAMED} more"] if len(dropped) > NAMED else []
    return ", ".join([*names, *more])
