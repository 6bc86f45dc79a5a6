"""Formats figures as people read them, and the terminal's table of variants."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ft_dagster import program
from ft_dagster.lineage.verdict import Rule

if TYPE_CHECKING:
    from rich.table import Table

    from ft_dagster.lineage.entry import ReleaseEntry
    from ft_dagster.report.tables.variant_row import VariantRow

ABSENT = "-"
ARROW = " → "
PIECE = 16  # characters of a word between two places where it may be broken
LONG = 40  # characters of a word that a browser does not break


def count(value: float | None) -> str:
    """Write a number with separators: 1234 -> "1,234"."""
    return ABSENT if value is None else f"{value:,.0f}"


def counted(number: int, one: str, several: str = "") -> str:
    """Return "1 example", "1,234 examples"; `several`: where it is not `one` with an s."""
    return f"{count(number)} {one if number == 1 else several or one + 's'}"


def size(value: float | None) -> str:
    """Write bytes in powers of 1000: 1_234_000_000 -> "1.2 GB"."""
    if value is None:
        return ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Write seconds as time, see `program.duration`; a dash where they are not known."""
    return ABSENT if seconds is None else program.duration(seconds)


SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))  # bytes of each
TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))  # seconds of each


def in_one_unit(values: Sequence[float | None], units: Sequence[tuple[float, str]]) -> list[str]:
    """Write the cells of a column in one unit, that of the largest: as SIZES, [54e7, 12e3, None] becomes
    ["540.0 MB", "<0.1 MB", "-"].
    """
    largest = max((value for value in values if value is not None), default=0.0)
    of, unit = next(((of, unit) for of, unit in units if largest >= of), units[-1])
    return [ABSENT if value is None else _in_unit(value / of, unit) for value in values]


def _in_unit(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value:.0f} B"
    return f"<0.1 {unit}" if 0 < value < 0.05 else f"{value:,.1f} {unit}"


def points(difference: float | None) -> str:
    """Write a difference of two shares, signed: 0.032 -> "+3.2 points"."""
    return ABSENT if difference is None else f"{100 * difference:+.1f} points"


def percent(share: float | None) -> str:
    """Write a share in percent: 0.0799 -> "8.0%"."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def is_share(metric: str, values: Iterable[float | None]) -> bool:
    """Say whether a metric is a share of 1 (accuracy, F1), to be said in percent; a loss, or an AUC, is
    not.
    """
    return not metric.endswith(("loss", "_auc")) and all(value is None or 0 <= value <= 1 for value in values)


def score(metric: str, value: float | None) -> str:
    """Write one value of a metric: "41.0%", or "4.66" for a loss."""
    known = None if value is None or not math.isfinite(value) else value
    return percent(known) if is_share(metric, (known,)) else _decimal(known)


def change(metric: str, base: float | None, tuned: float | None) -> str:
    """Return "41.0% → 55.0%", or "4.66 → 1.42" for a loss."""
    base, tuned = (None if v is None or not math.isfinite(v) else v for v in (base, tuned))
    show = percent if is_share(metric, (base, tuned)) else _decimal
    return f"{show(base)}{ARROW}{show(tuned)}"


HISTORY = ("", "action", "version", "in production", "export", "at (UTC)", "by", "reason")


def history_rows(past: Iterable[ReleaseEntry]) -> list[list[Any]]:
    """Return the entries of a release log, oldest first."""
    return [
        [
            number,
            entry.action + (" (forced)" if entry.forced else ""),
            entry.version,
            entry.production,
            entry.export[:12],
            moment(entry.at),
            entry.by,
            entry.reason,
        ]
        for number, entry in enumerate(past, 1)
    ]


def release_table(rows: Iterable[VariantRow]) -> Table:
    """Make a table of variants, a row each: readable at 120 columns, folded below that."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False, leading=1)
    for header in HEADERS:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*_variant_cells(row))
    return table


HEADERS = (
    "variant\nmethod",
    "rows kept\ndropped",
    "trained tokens\ngeneral share",
    "task\nbase → tuned",
    "general\nbase → tuned",
    "gate",
    "export\nsize",
    "digest\nversion",
)


def _variant_cells(row: VariantRow) -> list[Any]:
    from rich.text import Text

    lines = [
        (row.variant, row.method),
        (count(row.rows_kept), count(row.rows_dropped)),
        (count(row.trained_tokens), percent(row.general_share)),
        _task(row.rules),
        _general(row.rules),
        tuple((row.judged or ABSENT).split(", ")),
        (row.export, size(row.size_bytes)),
        ((row.digest or ABSENT)[:12], ABSENT if row.version is None else f"version {row.version}"),
    ]
    cells = [Text("\n".join(part or ABSENT for part in parts)) for parts in lines]
    cells[0].stylize("bold", 0, len(row.variant))
    cells[5].stylize(GATE_STYLE[row.judged])
    return cells


RULE_STYLE = {"pass": "green", "undecided": "yellow", "fail": "red"}  # by outcome
GATE_STYLE = {  # by the word of a verdict
    "passed": "green",
    "passed with warnings": "yellow",
    "undecided": "yellow",
    "failed": "red",
    None: "dim",
}


def _task(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the task's metric and its two values, for each task judged."""
    found = [rule for rule in rules if rule.rule == "task"]
    lines = [(rule.metric, change(rule.metric, rule.base, rule.tuned)) for rule in found]
    return tuple(part for line in lines for part in line)


def _general(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the mean over the general benchmarks, then the loss on held-out general text; each only where
    asked.
    """
    lines = []
    benchmarks = [rule for rule in rules if rule.rule == "general_benchmark"]
    if benchmarks:
        base, tuned = (_mean([getattr(rule, side) for rule in benchmarks]) for side in ("base", "tuned"))
        lines.append(change(benchmarks[0].metric, base, tuned))
    losses = [rule for rule in rules if rule.rule == "general_loss"]
    lines += [f"loss {change(rule.metric, rule.base, rule.tuned)}" for rule in losses]
    return tuple(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _decimal(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def cell(value: Any) -> str:
    """Write a value in a table: whole numbers with thousands separators, others to six digits, None as a
    dash.
    """
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def breakable(text: str, longest: int = LONG, piece: int = PIECE) -> str:
    """Return the same to read, with places where a browser may break words that are longer: after their
    punctuation, and after so many letters and digits.
    """
    word = re.compile(rf"\S{{{longest + 1},}}")
    return word.sub(lambda found: re.sub(rf"([/_.:-]|[^\W_]{{{piece}}})", "\\1\u200b", found[0]), text)


def moment(stamp: str) -> str:
    """Write an ISO 8601 time in UTC to the minute: "2026-11-26T15:15:46+00:00" -> "2026-11-26 15:15"."""
    return stamp[:16].replace("T", " ")
