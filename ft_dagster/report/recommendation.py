"""A survey of all methods as people read it: the ranking, why, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_dagster.report.tables import ABSENT, duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from ft_dagster.planning.survey import Survey

VERDICTS = {"for": "+", "against": "-", "neither": " "}


def as_json(survey: Survey) -> dict[str, Any]:
    """The decision, the layout of what is to be trained, and what would make it fit."""
    chosen = survey.chosen
    return {
        **survey.decision.to_json(),
        "changes": [change.to_json() for change in survey.changes],
        "refused": survey.refused,
        "plan": {
            "method": chosen.method,
            "training": chosen.training,
            "memory_bytes": chosen.occupancy.as_dict(),
            "reasons": chosen.reasons.rows,
        },
    }


def ranking_table(survey: Survey) -> Table:
    """A row for each method, the best first. GB are 1e9 bytes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    columns = (
        "", "method", "fits", "a device", "devices", "one training", "stored", "to serve", "to a candidate"
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "fits") else "right")
    for place, row in enumerate(survey.decision.ranking, 1):
        figures = row.figures
        mark = "[bold green]" if row.method == survey.decision.method else ""
        tries = figures.experiments
        table.add_row(
            str(place),
            f"{mark}{row.method}",
            "[green]yes[/]" if row.fits else "[red]no[/]",
            size(figures.candidate.memory_bytes),
            "none" if figures.candidate.gpus_needed is None else str(figures.candidate.gpus_needed),
            f"{_hours(figures.hours)}\n{_usd(figures.usd)}",
            f"{size(figures.storage.gigabytes * 1e9)}",
            ABSENT if figures.serving.gpus is None else f"{figures.serving.gpus} GPU",
            ABSENT if tries is None or tries.middle_days is None else f"{tries.middle_days:,.1f} days",
        )
    return table


def reasons_lines(survey: Survey) -> list[str]:
    """The rules that spoke on what is to be trained, its warnings, the notes, and what would fit."""
    row = survey.decision.row(survey.chosen.method["name"])
    lines = [
        f"{VERDICTS[rule.verdict]} {rule.rule}: {rule.sentence}"
        + (f" (outvoted by {rule.outvoted_by})" if rule.outvoted_by else "")
        for rule in row.rules
    ]
    lines += [f"! {warning}" for warning in row.warnings]
    lines += [f"  {note}" for note in survey.decision.notes]
    if survey.changes:
        lines.append("To make it fit, the mildest first:")
        lines += [f"  {number}. {change.sentence()}" for number, change in enumerate(survey.changes, 1)]
    return lines


def memory_line(survey: Survey) -> str:
    """What one device holds at the highest moment of a step, by what it is."""
    held = survey.chosen.occupancy
    parts = {
        "frozen weights": held.frozen,
        "trained weights": held.trained,
        "gradients": held.gradients,
        "optimizer states": held.states,
        "activations": held.activations,
        "temporaries": held.temporaries,
        "communication": held.communication,
        "allocator's slack": held.slack,
        "CUDA context": held.context,
    }
    said = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
    return f"{size(held.total)} on each device, by a dry run of the step: {said}"


def _hours(value: float | None) -> str:
    return ABSENT if value is None else duration(3600 * value)


def _usd(value: float | None) -> str:
    return ABSENT if value is None else f"${value:,.2f}"
