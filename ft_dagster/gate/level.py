"""Computes the level at which a rule of the gate is tested: the first try after a release has the largest."""

from __future__ import annotations

ALPHA = 0.05  # one-sided level of each rule, over all tries


def level_of(alpha: float, ordinal: int = 1) -> float:
    """Return the level of try number `ordinal` = k (from 1) since the last release: alpha / (k (k + 1)).

    The shares 1/2, 1/6, 1/12, ... add up to 1, so that however many models are tried, on whichever questions,
    one that fell by the margin or more is released next in at most `alpha` of all cases. Raises ValueError
    below 1.
    """
    if ordinal < 1:
        raise ValueError(f"tries are counted from 1: {ordinal}")
    return alpha / (ordinal * (ordinal + 1))


def level_after_reference(alpha: float, release: int, tries: int = 1) -> float:
    """Return the level of a try before release number `release` (from 1) after the reference.

    Release k gets alpha / (k (k + 1)), its share of `alpha` over all of them, and the tries before it share
    that in the same way. Raises ValueError below 1.
    """
    return level_of(level_of(alpha, release), tries)
