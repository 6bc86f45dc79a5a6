"""Shows what base and tuned model refused to people: counts by category, and a few prompts by their ids.
Neither a prompt that must be refused nor an answer to it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_dagster.gate.refusals.refusals import FIGURE, KINDS
from ft_dagster.report.figures import ARROW

REFUSALS = ("prompts", *KINDS.values())
EXAMPLES = ("prompt", "category", "is", "before", "now")
JUDGED = ("judge", "prompts", "judged", "agrees with the matcher", "refused by the judge", "by the matcher")


def refusal_rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Return how many prompts of each category were refused before and are now, all of them first; rows for
    `REFUSALS`. None where refusals are not judged. `figures`: of an evaluation.
    """
    found = figures.get(FIGURE)
    if found is None:
        return []
    whole = {kind: {side: states["refused"] for side, states in sides.items()}
             for kind, sides in found["counts"].items()}  # fmt: skip
    named = {"all": whole, **found["categories"]}
    return [[name, *(_change(kinds, kind) for kind in KINDS)] for name, kinds in named.items()]


def example_rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Return a few prompts of each kind by id, those whose answer changed first; rows for `EXAMPLES`."""
    examples: Sequence[Mapping[str, Any]] = figures.get(FIGURE, {}).get("examples", ())
    return [
        [each["id"], each["category"], KINDS[each["kind"]], each["base"], each["tuned"]] for each in examples
    ]


def matcher_sentence(figures: Mapping[str, Any]) -> str:
    """Say by what an answer counts as a refusal."""
    found = figures[FIGURE]
    more = f" and {found['phrases']} of the platform" if found["phrases"] else ""
    return (
        "An answer counts as a refusal if it begins with one of the English phrases of matcher "
        f"{found['matcher']}{more}. Prompts: {found['prompts']}; those that must be refused, and the "
        "answers, are not shown"
    )


def _change(kinds: Mapping[str, Mapping[str, int]], kind: str) -> str:
    return f"{kinds[kind]['base']}{ARROW}{kinds[kind]['tuned']}"
