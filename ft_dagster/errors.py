"""Defines the one error a user's mistake may raise: it names the file, the field, the value and the way
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """Signals a mistake in what the user gave us; shown as one message, never as a traceback.

    `problem` says what is wrong, `fix` says what to do. `file` (with `line`), `field` and `value`
    locate it; leave out what does not apply. Programs of this project exit with code 2 on it.
    """

    def __init__(
        self,
        problem: str,
        *,
        fix: str,
        file: object = None,
        line: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        self.problem = problem
        self.fix = fix
        self.file = None if file is None else str(file)
        self.line = line
        self.field = field
        self.value = value
        super().__init__(str(self))

    @property
    def statement(self) -> str:
        """Say where and what, without the way out."""
        place = ""
        if self.file:
            file = in_one_line(self.file)
            place = f"{file}:{self.line}: " if self.line else f"{file}: "
        if self.field:
            place += f"{in_one_line(self.field)}: "
        shown = "" if self.value is None else f" (got {_short(self.value)})"
        return f"{place}{self.problem}{shown}"

    def __str__(self) -> str:
        return f"{self.statement}. {self.fix}"

    def __reduce__(self) -> Any:
        return UserError.from_dict, (self.as_dict(),)

    def as_dict(self) -> dict[str, object]:
        """Return the same error for `--json` and for `result.json` (see `from_dict`)."""
        value = None if self.value is None else _short(self.value)
        return {
            "problem": self.problem,
            "fix": self.fix,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "value": value,
        }

    @classmethod
    def from_dict(cls, error: dict[str, object]) -> UserError:
        """Return the error that another program of this project wrote with `as_dict`."""
        made = cls(str(error["problem"]), fix=str(error["fix"]))
        made.file = None if error.get("file") is None else str(error["file"])
        line = error.get("line")
        made.line = line if isinstance(line, int) else None
        made.field = None if error.get("field") is None else str(error["field"])
        value = error.get("value")
        made.value = None if value is None else _Shown(value)
        made.args = (str(made),)
        return made


class UserErrors(UserError):
    """Signals several mistakes at once: shown as the first of them, and how many more there are."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        first, *others = errors
        self.errors = tuple(errors)
        self.more = len(others)
        super().__init__(
            first.problem,
            fix=first.fix,
            file=first.file,
            line=first.line,
            field=first.field,
            value=first.value,
        )

    @classmethod
    def of(cls, errors: Sequence[UserError]) -> UserError:
        """Return one error for any number of them, which are one or more."""
        return errors[0] if len(errors) == 1 else cls(errors)

    def __str__(self) -> str:
        return f"{super().__str__()}; and {self.more} more: `ft-dagster check` says them all"

    def __reduce__(self) -> Any:
        return UserErrors, (self.errors,)


def all_of(error: UserError) -> tuple[UserError, ...]:
    """Return the mistakes that an error stands for, in order."""
    return error.errors if isinstance(error, UserErrors) else (error,)


def in_one_line(text: str) -> str:
    """Return text with what would break a line, move a cursor or has no encoding by its number: names are the
    users'.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Shown(str):
    """Is a value already shortened for the message."""


def _short(value: object) -> str:
    if isinstance(value, _Shown):
        return str(value)
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 120 else text[:117] + "..."
