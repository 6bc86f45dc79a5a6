"""Names the states of a variant: the words that command, board, report and metrics share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal, get_args

from ft_dagster.report.figures import counted

VariantStatus = Literal[
    "broken", "parked", "failing", "approval", "not judged", "stale", "running", "never trained", "fresh",
    "retired",
]  # fmt: skip
NEED_A_PERSON: tuple[VariantStatus, ...] = (
    "broken", "parked", "failing", "approval", "not judged", "stale",
)  # fmt: skip
ORDER: tuple[VariantStatus, ...] = get_args(VariantStatus)  # what needs a person first

KIND: dict[VariantStatus, str] = {  # how a state is coloured: red is failing
    "broken": "bad", "parked": "bad", "failing": "bad", "fresh": "good",
    "approval": "warn", "not judged": "warn", "stale": "warn",
    "running": "", "never trained": "", "retired": "",
}  # fmt: skip


def counts(states: Collection[VariantStatus]) -> dict[VariantStatus, int]:
    """Count the variants of each state, those that need a person first."""
    found = Counter(states)
    return {state: found[state] for state in ORDER if state in found}


def states_sentence(states: Collection[VariantStatus]) -> str:
    """Return "120 variants: 2 broken, 3 stale, 115 fresh"."""
    said = ", ".join(f"{count} {state}" for state, count in counts(states).items())
    return counted(len(states), "variant") + (f": {said}" if said else "")
