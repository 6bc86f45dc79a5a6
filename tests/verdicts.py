"""Rules of a verdict as they are stored, for what reads them."""

from __future__ import annotations

from typing import Any


def stored_rule(**changes: Any) -> dict[str, Any]:
    """The JSON of a task's rule that passed, with changes."""
    return {
        "rule": "task", "task": "exam", "metric": "acc", "base": 0.5, "tuned": 0.6, "difference": 0.1,
        "interval": [0.0, 0.2], "margin": 0.0, "questions": 40, "higher_is_better": True, "passed": True,
        "sentence": "the task improved", "outcome": "pass", "confidence": 0.9, "harm": 0.5, "seen": 0.1,
        "needed": None, **changes,
    }  # fmt: skip
