"""Says why a version is out of date: the one thing at the root of it, wherever in the chain that lies."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

StaleKind = Literal["field", "source", "task", "corpus", "base", "parent", "rolled_back", "policy", "stage"]
PLAIN = re.compile(r"[\w.+/-]{1,32}")  # a declared text that a sentence may repeat: a word, no prose


class StaleCause(NamedTuple):
    """Names a root cause. `what`: the declared field, the file, the task, the corpus, the variant, the rule
    or the stage that changed; `words`: the same as a sentence.
    """

    kind: StaleKind
    what: str
    words: str


def field_changed(field: str, then: Any = None, now: Any = None) -> StaleCause:
    """Return the cause of a changed field. `then`, `now`: its values, said where both are numbers or single
    words.
    """
    said = [_said(value) for value in (then, now)]
    if None in said or said[0] == said[1]:
        return StaleCause("field", field, f"{field} is declared otherwise")
    return StaleCause("field", field, f"{field} is {said[1]}, was {said[0]}")


def _said(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()  # as YAML has it
    plain = isinstance(value, int | float) or (isinstance(value, str) and PLAIN.fullmatch(value))
    return str(value) if plain else None


def stage_raised(stage: str, then: int, now: int) -> StaleCause:
    return StaleCause("stage", stage, f"{stage} is at version {now}, it was made by {then}")
