"""A survey of all methods as people read it: the ranking, why, and what would make it fit.

The document is `planning.survey.Survey.to_json`. GB are 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft_dagster.report.tables import ABSENT, count, duration, size

if TYPE_CHECKING:
    from rich.table import Table

Document = Mapping[str, Any]
VERDICTS = {"for": "+", "against": "-", "neither": " "}
HELD = {
    "frozen": "frozen weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "states": "optimizer states",
    "activations": "activations",
    "temporaries": "temporaries",
    "communication": "communication",
    "slack": "allocator's slack",
    "context": "CUDA context",
}


def ranking_table(document: Document) -> Table:
    """A row for each method, the best first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for name in ("", "method", "fits", "GB a device", "devices", "one training", "GB stored", "to serve",
                 "to a candidate"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("method", "fits") else "right")
    for place, row in enumerate(document["ranking"], 1):
        mark = "[bold green]" if row["method"] == document["method"] else ""
        days, usd, hours = row["days_to_candidate"], row["cost_usd"], row["hours"]
        table.add_row(
            str(place),
            f"{mark}{row['method']}",
            "[green]yes[/]" if row["fits"] else "[red]no[/]",
            f"{row['memory_gb_per_gpu']:,.1f}",
            "no number" if row["gpus_needed"] is None else count(row["gpus_needed"]),
            f"{ABSENT if hours is None else duration(3600 * hours)}, {_usd(usd)}",
            f"{row['storage_gb']:,.1f}",
            ABSENT if row["serving_gpus"] is None else f"{row['serving_gpus']} GPU",
            ABSENT if days is None else f"{days:,.1f} days",
        )
    return table


def reasons_lines(document: Document) -> list[str]:
    """The rules that spoke on what is to be trained, its warnings, the notes, and what would fit."""
    name = document["plan"]["method"]["name"]
    row = next(row for row in document["ranking"] if row["method"] == name)
    lines = [_rule(rule) for rule in row["rules"]]
    lines += [f"! {warning}" for warning in row["warnings"]]
    lines += [f"  {note}" for note in document["notes"]]
    lines += [f"  {method} cannot do it: {why}" for method, why in document["refused"].items()]
    if document["changes"]:
        lines.append("To make it fit, the mildest first:")
        sentences = (change["sentence"] for change in document["changes"])
        lines += [f"  {number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return lines


def memory_line(document: Document) -> str:
    """What one device holds at the highest moment of a step, by what it is."""
    held = document["plan"]["memory_bytes"]
    said = ", ".join(f"{words} {size(held[name])}" for name, words in HELD.items() if held[name])
    return f"{size(held['total'])} on each device, by a dry run of the step: {said}"


def _rule(rule: Document) -> str:
    by = f" (outvoted by {rule['outvoted_by']})" if rule["outvoted_by"] else ""
    return f"{VERDICTS[rule['verdict']]} {rule['rule']}: {rule['sentence']}{by}"


def _usd(value: float | None) -> str:
    return ABSENT if value is None else f"${value:,.2f}"
