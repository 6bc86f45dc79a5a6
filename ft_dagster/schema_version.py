"""The one rule for `schema_version`: older files are read, newer ones are refused."""

from __future__ import annotations

from ft_dagster.errors import UserError

FIELD = "schema_version"


def refuse_newer(found: object, newest: int, *, file: object = None) -> None:
    """Raises UserError, naming `file`, unless `found` is a version up to `newest`, which this one reads."""
    if not is_readable(found, newest):
        raise newer_error(FIELD, found, newest, file=file)


def is_readable(found: object, newest: int) -> bool:
    """Whether `found` is a version that this one reads; what is no whole number was not written by it."""
    return isinstance(found, int) and found <= newest


def newer_error(field: str, found: object, newest: int, *, file: object = None) -> UserError:
    """Of a file whose `field` has a value that only a later version can have written."""
    return UserError(
        "written by a newer ft-dagster",
        file=file,
        field=field,
        value=found,
        fix=f"Upgrade ft-dagster where this is read (it reads up to schema {newest})",
    )
