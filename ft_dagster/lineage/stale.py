"""Why a version is out of date: the one thing at the root of it, wherever in the chain that lies."""

from __future__ import annotations

from typing import Literal, NamedTuple

StaleKind = Literal["field", "source", "task", "corpus", "base", "parent", "policy", "stage"]


class StaleCause(NamedTuple):
    """`what`: the declared field, the file, the task, the corpus, the variant, the rule or the stage that is
    another than it was; `words`: the same as a sentence.
    """

    kind: StaleKind
    what: str
    words: str


def field_changed(field: str) -> StaleCause:
    return StaleCause("field", field, f"{field} is declared otherwise")


def stage_raised(stage: str, then: int, now: int) -> StaleCause:
    return StaleCause("stage", stage, f"{stage} is at version {now}, it was made by {then}")
