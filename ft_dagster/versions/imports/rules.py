"""Defines the rules by which a field of another program's configuration becomes fields here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ft_dagster.errors import UserError
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.ledger import Item, Ledger

Rule: TypeAlias = Callable[[Ledger, Item], None]
OFF: tuple[Any, ...] = (None, False, "", [], {})
OFF_HERE = "off, as here"
UNKNOWN = "nothing here knows this field"
PREFERENCES = "nothing is trained on preferences here"
ENDLESS = 1e15  # no number of a training is as large


def to(field: str, why: str = "") -> Rule:
    """Carry a value under another name."""
    return lambda ledger, item: ledger.carry(item, field, item.value, why)


def changed(why: str) -> Rule:
    """Say how this is done here."""
    return lambda ledger, item: ledger.change(item, why=why)


def noted(ledger: Ledger, item: Item) -> None:
    """Keep what says nothing of a training as a comment."""
    ledger.note(item)


def lost(why: str) -> Rule:
    """Drop what nothing here does, unless it is off."""

    def rule(ledger: Ledger, item: Item) -> None:
        if item.value in OFF or item.value == 0:
            ledger.keep(item, OFF_HERE)
        else:
            ledger.drop(item, why)

    return rule


def as_here(values: tuple[Any, ...], otherwise: str) -> Rule:
    """Keep values that say what is done here anyway; drop any other."""

    def rule(ledger: Ledger, item: Item) -> None:
        if item.value in values or item.value in OFF:
            ledger.keep(item, "as here")
        else:
            ledger.drop(item, otherwise)

    return rule


def must_be(value: Any, otherwise: str) -> Rule:
    """Keep the one value that says what is done here; drop any other."""

    def rule(ledger: Ledger, item: Item) -> None:
        if item.value == value:
            ledger.keep(item, "as here")
        else:
            ledger.drop(item, otherwise)

    return rule


def one_of(field: str, values: Mapping[Any, Any], otherwise: str) -> Rule:
    """Carry the values that have an equal here; drop any other."""

    def rule(ledger: Ledger, item: Item) -> None:
        if isinstance(item.value, str | bool | int) and item.value in values:
            ledger.carry(item, field, values[item.value])
        else:
            ledger.drop(item, otherwise)

    return rule


def switch(field: str) -> Rule:
    """Carry a switch that is on; off is as here."""

    def rule(ledger: Ledger, item: Item) -> None:
        if item.value is True:
            ledger.carry(item, field, True)
        else:
            ledger.keep(item, OFF_HERE)

    return rule


def alike(rule: Rule, names: str) -> dict[str, Rule]:
    """Return one rule for all names of a text, which has spaces between them."""
    return dict.fromkeys(names.split(), rule)


def apply(ledger: Ledger, file: Path, content: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Apply the rule of each field that says anything; one without a rule is dropped."""
    for name, value in content.items():
        if value is None or value == "":
            continue
        item = Item(file, str(name), value)
        rules.get(str(name), lost(UNKNOWN))(ledger, item)


def number(item: Item, *, least: float, whole: bool = False, below: float | None = None) -> float | int:
    """Return an item's value as a number, which a text may hold (5e-5). Raises UserError."""
    value: Any = item.value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    right = isinstance(value, int | float) and not isinstance(value, bool) and least <= value < ENDLESS
    right = right and (below is None or value < below) and (not whole or float(value).is_integer())
    if not right:
        kind = "a whole number" if whole else "a number"
        end = "" if below is None else f" and below {below:g}"
        raise item.error(f"not {kind} of {least:g} or more{end}", f"Put {kind} there, or leave it out")
    return int(value) if whole else value


def numeric(field: str, why: str = "", *, least: float = 0, whole: bool = False) -> Rule:
    """Carry a number, which YAML may have read as a text (5e-5)."""
    return lambda ledger, item: ledger.carry(item, field, number(item, least=least, whole=whole), why)


def refuse_credential(item: Item, place: str) -> None:
    """Raise UserError for an address with a name and a password in it, which a declaration would show."""
    address, _, rest = place.partition("://")
    if rest and "@" in rest.partition("/")[0]:
        fix = "Leave it out of the address: credentials are the platform's, by a profile or the environment"
        raise item._replace(value=f"{address}://...").error("an address with a credential in it", fix)


def is_object(item: Item) -> JsonObject:
    """Return an item's value as an object. Raises UserError."""
    if not isinstance(item.value, dict):
        raise item.error("not an object with named fields", "Put an object there, or leave the field out")
    return item.value


def names_of(item: Item) -> list[str]:
    """Return the names that a list, or a text with commas, holds. Raises UserError."""
    value = item.value
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise item.error("not a list of names", "Write it as a list: [one, two]")
    return value


def no_rows(file: Path, fix: str) -> UserError:
    """Return the error of files that name nothing to train on."""
    return UserError("no row to train on", file=file, fix=fix)
