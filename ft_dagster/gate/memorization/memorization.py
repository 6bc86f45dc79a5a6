"""Says in sentences what a model kept of single rows, beside what the rules of the gate say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ft_dagster.gate.memorization import membership_rules, platform_canaries
from ft_dagster.gate.memorization.membership_rules import MEANING, Membership, auc_words
from ft_dagster.gate.memorization.platform_canaries import PlatformCanaries, canary_words

NAMES = (membership_rules.NAME, platform_canaries.NAME)  # of an evaluation's figures


def memorization_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an evaluation's figures say of it, as plain JSON; None of what could not be asked, nothing
    of what was not.
    """
    return {name: figures[name] for name in NAMES if name in figures}


def memorization_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return the sentences on an evaluation's figures, without full stops; none where nothing was asked."""
    asked = memorization_figures(figures)
    return [line for name, found in asked.items() for line in _SAID[name](found)]


def _told_apart(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["Membership inference was asked for, and no row could be asked"]
    said = auc_words(Membership.from_json(found))
    return [f"{said[0].upper()}{said[1:]}", MEANING]


def _canaries(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return [
            "The corpus has platform canaries, and they could not be asked for: that version of it is gone"
        ]
    return canary_words(PlatformCanaries.from_json(found))


_SAID: dict[str, Callable[[Mapping[str, Any] | None], list[str]]] = {
    membership_rules.NAME: _told_apart,
    platform_canaries.NAME: _canaries,
}
