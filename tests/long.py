"""Says which parameters of a test run in `make test`, where the others vary what those show."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def mostly_long(
    cases: Iterable[Any], quick: Container[Any] = (), *, every: int = 0, whole: bool = False
) -> list[Any]:
    """Return the cases; those not named in `quick` (a tuple by its first value), nor every so manieth, are
    marked `long`. `whole`: a tuple is the value of one argument.
    """

    def marked(number: int, case: Any) -> Any:
        values = case if type(case) is tuple and not whole else (case,)
        if values[0] in quick or (every and number % every == 0):
            return case
        return pytest.param(*values, marks=pytest.mark.long)

    return [marked(number, case) for number, case in enumerate(cases)]
