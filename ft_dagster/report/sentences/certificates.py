"""Puts the figures of a certificate into words: the export, reloaded, beside what was judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ft_dagster.report.figures import ABSENT, count, percent

CERTIFICATE = ("the export against what was judged", "value")


def _plain(value: float) -> str:
    return f"{value:.3g}"


WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "probes": ("prompts compared", count),
    "positions": ("positions compared", count),
    "token_ids_equal": ("prompts read as the same tokens", percent),
    "chat_ids_equal": ("a chat read as the same tokens", percent),
    "template_equal": ("same chat template", percent),
    "greedy_equal": ("answers equal to the last word", percent),
    "greedy_parted": ("answers that part beyond a tie", percent),
    "top1_agreement": ("positions with the same likeliest token", percent),
    "top1_lost": ("positions with another one beyond a tie", percent),
    "max_logit_difference": ("largest difference of a logit", _plain),
    "mean_kl": ("mean KL, nats a token", _plain),
    "base_kl": ("mean KL of the base, for comparison", _plain),
}


def certificate_rows(figures: Mapping[str, float]) -> list[list[Any]]:
    """Return a row for `CERTIFICATE`, those in words first; one that was not finite is a dash."""
    known = {**{name: figures[name] for name in WORDS if name in figures}, **figures}
    return [[_words(name), _shown(name, value)] for name, value in known.items()]


def _words(name: str) -> str:
    return WORDS[name][0] if name in WORDS else name.replace("_", " ")


def _shown(name: str, value: float) -> str:
    if not math.isfinite(value):
        return ABSENT
    return WORDS[name][1](value) if name in WORDS else _plain(value)
