"""Holds the one rule for `schema_version`: older files are read, newer ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ft_dagster.errors import UserError

FIELD = "schema_version"
STORED = {"stored": True}  # context of a validation: what the store froze may say words that are no more
BY_IT = "Read it with the version of ft-dagster that wrote it"
T = TypeVar("T", bound=BaseModel)


def refuse_newer(found: object, newest: int, *, file: object = None) -> None:
    """Raises UserError, naming `file`, unless `found` is a version up to `newest`, which this one reads."""
    if not is_readable(found, newest):
        raise newer_error(FIELD, found, newest, file=file)


def is_readable(found: object, newest: int) -> bool:
    """Say whether `found` is a version that this one reads; what is no whole number was not written by it."""
    return isinstance(found, int) and found <= newest


def newer_error(field: str, found: object, newest: int, *, file: object = None) -> UserError:
    """Return the error for a file whose `field` has a value that only a later version can have written."""
    return UserError(
        "written by a newer ft-dagster",
        file=file,
        field=field,
        value=found,
        fix=f"Upgrade ft-dagster where this is read (it reads up to schema {newest})",
    )


def stored_as(kind: type[T], content: object, *, file: object = None) -> T:
    """Return what the store holds as a model. Raises UserError for what this version does not know: a key
    leaves a later field out at its default, so that versions find the same artifact, whose files say the
    field.
    """
    try:
        return kind.model_validate(content, context=STORED)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            "written by a newer ft-dagster" if first["type"] == "extra_forbidden" else str(first["msg"]),
            file=file,
            field=field,
            value=first["input"],
            fix=BY_IT,
        ) from None


@contextmanager
def refuse_newer_fields(file: object = None) -> Iterator[None]:
    """Surround the making of dataclasses of what the store holds; raises UserError for a field of none."""
    try:
        yield
    except TypeError as error:
        raise UserError(f"written by a newer ft-dagster: {error}", file=file, fix=BY_IT) from None
