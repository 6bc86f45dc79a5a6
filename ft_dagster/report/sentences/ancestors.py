"""Says what of the questions the ancestors of a model were trained on, and what was not looked through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_dagster.report.figures import counted

FIGURE = "ancestors"  # the figures of an evaluation that say it


def ancestor_name(ancestor: Mapping[str, Any]) -> str:
    return f"{ancestor['variant']} v{ancestor['version']}"


def not_searched(ancestor: Mapping[str, Any]) -> str:
    """Say what of an ancestor's training was not looked through; "" where all of it was."""
    said = []
    for part, state in ancestor["searched"].items():
        what = "the rows" if part == "rows" else "the general text"
        if state == "exact":
            said.append(
                f"{what} are gone: records of the same content were looked for, near ones and questions of "
                "benchmarks were not searched"
            )
        elif part == "near":
            said.append("near copies of test rows and texts were not searched: data.deduplicate is off")
        elif part == "benchmarks":
            said.append("questions of benchmarks were not searched: data.decontaminate is off")
        elif state == "not":
            said.append(f"{what} are gone, and so are their records: not searched")
    return "; ".join(said).replace("the general text are", "the general text is")


def first_not_searched(ancestors: Sequence[Mapping[str, Any]]) -> str:
    """Say what of the first ancestor that was not looked through whole was not; "" where all were."""
    said = (f"of {ancestor_name(each)} {not_searched(each)}" for each in ancestors if not_searched(each))
    return next(said, "")


def ancestor_lines(ancestors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each ancestor: what it was trained on is left out, and what was not searched."""
    lines = []
    for each in ancestors:
        found = [counted(each["own"], "own test row")] if each["own"] else []
        found += [counted(each["general"], "held-out general text")] if each["general"] else []
        found += [f"{counted(count, 'question')} of {task}" for task, count in each["tasks"].items()]
        said = f"was trained on {', '.join(found)}: not asked" if found else ""
        parts = filter(None, (said, not_searched(each)))
        lines.append(f"{ancestor_name(each)} " + ("; ".join(parts) or "was trained on nothing that is asked"))
    return lines
