"""Shows what an erasure takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ft_dagster.cli.audit.shown import Part, ShownRows, WrongLine
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.erasure.dry_run import ErasureDryRun, Holder


def dry_run_parts(found: ErasureDryRun) -> Iterator[Part]:
    """Yield what an erasure takes, as it is shown."""
    missing = [one for one in found.records if not one.places]
    there = len(found.records) - len(missing)
    yield f"{counted(there, 'record')} found in {counted(len(found.holders), 'artifact')}; nothing is changed"
    yield f"due {found.due}: {found.due_by}"
    for one in missing:
        unsure = "; not all could be read" if one.places is None else ""
        yield WrongLine("not found", f"{one.said}{unsure}")
    if found.holders:
        rows = [
            (each.variant or "shared", each.stage, each.digest[:12], f"{each.records:,}", _states(each))
            for each in found.holders
        ]
        yield ShownRows(("variant", "held in", "digest", "records", "as"), rows)
    if found.sources:
        read = [(each.variant or "shared", each.path, _lines(each.lines)) for each in found.sources]
        yield ShownRows(("sources of", "file", "lines"), read)
    if found.models:
        models = [
            (
                each.variant,
                each.weights[:12],
                ", ".join(each.how),
                ", ".join(digest[:12] for digest in each.exports),
                ", ".join(f"v{number}" for number in each.versions) + (" served" if each.production else ""),
            )
            for each in found.models
        ]
        yield ShownRows(("model", "weights", "how", "exports", "released as"), models)
    yield from _retrain_lines(found)
    for line in found.cannot:
        yield f"not known: {line}"


def _retrain_lines(found: ErasureDryRun) -> Iterator[Part]:
    from ft_dagster.fleet.due.costs import shown_hours, shown_usd
    from ft_dagster.report.figures import ABSENT

    for number, each in enumerate(found.retrains, start=1):
        hours = ABSENT if each.hours is None else f"{shown_hours(each.hours)} h"
        usd = "no price known" if each.usd is None else f"${shown_usd(each.usd)}"
        after = f", after {' and '.join(each.after)}" if each.after else ""
        again = f"{each.how}, {each.share:.0%} of its steps; {hours}, {usd}"
        yield f"{number}. {each.variant} trains again{after}: {again}"
        yield f"   {each.why}"
    if found.retrains:
        usd = "" if found.usd is None else f", ${shown_usd(found.usd)}"
        yield f"{counted(len(found.retrains), 'retrain')}, {shown_hours(found.hours)} h of one device{usd}"
    elif found.models:
        yield "no variant trains again: no model that is served or newest learned from it"


def _states(holder: Holder) -> str:
    removed = f" (removed {holder.removed[:10]})" if holder.removed else ""
    return ", ".join(holder.states) + removed


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, and {len(numbers) - 8} more" if len(numbers) > 8 else shown
