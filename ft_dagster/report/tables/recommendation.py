"""Shows a survey of all methods as people read it: the ranking, why, and what would make it fit.

GB are 1e9 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_dagster.report.figures import ABSENT, count, counted, duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from ft_dagster.planning.estimate import Estimate, RankedRow, SurveyDocument
    from ft_dagster.planning.methods.decision import MethodRule

VERDICTS = {"for": "+", "against": "-", "neither": " "}
IN_WORDS = {"+": "**for** ", "-": "**against** ", "!": "**mind** "}
HELD = {
    "frozen": "frozen weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "states": "optimizer states",
    "activations": "activations",
    "temporaries": "temporaries",
    "communication": "communication",
    "slack": "allocator's slack",
    "context": "kernels and libraries",
    "correction": "learned from finished trainings",
}


COLUMNS = ("", "method", "fits", "GB a device", "devices", "train, judge", "GB stored", "to serve",
           "to a candidate")  # fmt: skip
AGAINST = "against it"
TO_TRAIN = "training and judging"  # what a time or price of a plan is of


def ranking_table(document: SurveyDocument) -> Table:
    """Make a row for each method, the best first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("method", "fits") else "right")
    for row, cells in zip(document.ranking, _rows(document), strict=True):
        place, name, fits, *rest = cells
        mark = "[bold green]" if row.method == document.method else ""
        colour = "green" if row.fits else "red"
        table.add_row(place, f"{mark}{name}", f"[{colour}]{fits}[/]", *rest)
    return table


def ranking_rows(document: SurveyDocument) -> list[list[str]]:
    """Return a row for each method in `COLUMNS`, with the first rule that spoke against it (`AGAINST`)."""
    against = [
        next((rule.sentence for rule in row.rules if rule.verdict == "against"), "")
        for row in document.ranking
    ]
    return [[*cells, why] for cells, why in zip(_rows(document), against, strict=True)]


def _rows(document: SurveyDocument) -> list[list[str]]:
    return [
        [
            str(place),
            row.method,
            "yes" if row.fits else "no",
            f"{row.memory_gb_per_gpu:,.1f}",
            "no number" if row.gpus_needed is None else count(row.gpus_needed),
            _spent(row),
            f"{row.storage_gb:,.1f}",
            ABSENT if row.serving_gpus is None else counted(row.serving_gpus, document.unit),
            ABSENT if row.days_to_candidate is None else f"{row.days_to_candidate:,.1f} days",
        ]
        for place, row in enumerate(document.ranking, 1)
    ]


def cost_rows(document: Estimate) -> list[tuple[str, str]]:
    """Return (name, figures with their units) of the cost."""
    row, probe = document.planned_row, document.predicted.probe_hours
    work, days = document.utilization, row.days_to_candidate
    speed = ABSENT if work is None else f"{work.value:.1%} of the peak ({work.origin}: {work.reason})"
    return [
        (TO_TRAIN, spent_words(document)),
        *([] if not probe else [("and the probe before it", duration(3600 * probe))]),
        ("counted FLOPs at", speed),
        ("memory", document.plan.learned),
        ("stored, the tenant's variants of this base", f"{row.storage_gb:,.2f} GB"),
        ("with the checkpoints of one training", f"${document.storage_usd_per_month:,.2f} a month"),
        *resume_point_rows(document),
        ("served", document.serving),
        ("10 to 20 trainings", ABSENT if days is None else f"about {days:,.2f} days of the machine"),
        *[("judging", each.sentence) for each in document.judged_on],
        *[("cross-check", line) for line in document.cross_checks],
    ]


def resume_point_rows(document: Estimate) -> list[tuple[str, str]]:
    """Return what resume points take and save; nothing where none is kept."""
    from ft_dagster.training.retrain.resume_points import share_again

    stored, training = document.storage, document.plan.training
    if not stored.resume_points_bytes:
        return []
    said = f"at most {size(stored.resume_points_bytes)} with each model"
    passes, points = training["num_train_epochs"], stored.resume_points_bytes // (2 * stored.checkpoint_bytes)
    if training.get("max_steps") is None and passes >= 1:
        said += (
            f"; from them a training without one record takes {share_again(passes, points):.0%} of the steps"
        )
        said += " on average"
    return [("resume points", said)]


def spent_words(document: Estimate) -> str:
    """Say how long a training and its evaluation take by the clock, each part of it, and what both cost."""
    whole, steps = document.predicted.hours, document.predicted.training_hours
    said = _spent(document.planned_row)
    if whole is None or steps is None:
        return said
    training, judging = duration(3600 * steps), duration(3600 * max(0.0, whole - steps))
    return f"{said} (training {training}, judging {judging}; without loading, checkpoints and waiting)"


def refusal_of(document: SurveyDocument) -> str:
    """Say why what is planned cannot run here, and the smallest changes that would, the mildest first."""
    held = document.plan.memory_bytes.total
    said = f"{document.plan.name} needs {size(held)} on each device of {size(document.device_bytes)}"
    wanted = [change.sentence for change in document.changes]
    if not wanted:
        return f"{said}; no single set of changes makes it fit: take a smaller base or larger devices"
    return f"{said}. To make it fit, the mildest first: " + "; ".join(
        f"({number}) {sentence}" for number, sentence in enumerate(wanted, 1)
    )


def reasons_lines(document: SurveyDocument) -> list[str]:
    """Return the rules that spoke on what is to be trained, its method's warnings, the notes, and what would
    fit. A plan has warnings of its own, which hold those of its method.
    """
    from ft_dagster.planning.estimate import Estimate

    row = document.planned_row
    lines = [_rule(rule) for rule in row.rules]
    lines += [] if isinstance(document, Estimate) else [f"! {warning}" for warning in row.warnings]
    lines += [f"  {note}" for note in document.notes]
    lines += [f"  {method} cannot do it: {why}" for method, why in document.refused.items()]
    if document.changes:
        lines.append("To make it fit, the mildest first:")
        sentences = (change.sentence for change in document.changes)
        lines += [f"  {number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return lines


def reasons_markdown(document: SurveyDocument) -> str:
    """Return the reasons as a list: a leading + or - would begin a list inside it."""
    lines = []
    for line in reasons_lines(document):
        mark, said = (IN_WORDS[line[0]], line[2:]) if line[0] in IN_WORDS else ("", line.strip())
        number, _, change = said.partition(". ")
        lines.append(f"- ({number}) {change}" if number.isdigit() else f"- {mark}{said}")
    return "\n".join(lines)


def memory_line(document: SurveyDocument) -> str:
    """Say what one device holds at the highest moment of a step, by what it is."""
    held = document.plan.memory_bytes
    said = ", ".join(f"{words} {size(held.of(name))}" for name, words in HELD.items() if held.of(name))
    return f"{size(held.total)} on each device, by a dry run of the step: {said}"


def _rule(rule: MethodRule) -> str:
    by = f" (outvoted by {rule.outvoted_by})" if rule.outvoted_by else ""
    return f"{VERDICTS[rule.verdict]} {rule.rule}: {rule.sentence}{by}"


def _spent(row: RankedRow) -> str:
    """Return time and price, where they are known."""
    hours, usd = row.hours, row.cost_usd
    known = [] if hours is None else [duration(3600 * hours)]
    return ", ".join(known + ([] if usd is None else [_usd(usd)])) or ABSENT


def _usd(value: float | None) -> str:
    return ABSENT if value is None else f"${value:,.2f}"
