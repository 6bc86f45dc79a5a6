"""What the store knows of a variant: what its next retrain costs, and what its parent released since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ft_dagster.data.derived import newer_parent
from ft_dagster.errors import UserError
from ft_dagster.fleet.amounts import PaidFor, PlannedCost, expected_cost
from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.reasons import EXACT_STAMP, News, next_look
from ft_dagster.fleet.spent import TRAINING, hours_of, made
from ft_dagster.fleet.table import FleetRow
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.summary import newest_plan
from ft_dagster.store import Store, read_head

DECIDES = "evaluation"  # whose newest artifact says when a variant came to a verdict, where no run does

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what a store's damaged file may raise


def said_of(error: Exception) -> str:
    """Why the store of one variant cannot be read."""
    return str(error) if isinstance(error, UserError) else f"the store cannot be read: {error!r}"


def learnt(
    row: FleetRow, runs: RunHistory, settings: Settings, others: Sequence[PaidFor], now: datetime
) -> FleetRow:
    """The row with what runs and store say of it now. Raises UserError for a store that cannot be read.

    `others`: what trainings of other variants took.
    """
    store, key = settings.open_store(), row.state.key
    plan = planned_cost(settings, key)
    paid = paid_for(store, key, plan)
    if runs.served is None:
        judged = read_head(store, key.prefix, DECIDES)
        if judged is not None:
            passed = judged.figures.get("verdict", {}).get("passed", False)
            runs = runs._replace(served=made(judged), renewed=made(judged) if passed else None)
    state = replace(
        row.state,
        cost=expected_cost(plan, () if paid is None else (paid,), others),
        **runs._asdict(),
        news=(*_of_parent(row, store, now), *(news for news in row.state.news if news.kind != "parent")),
    )
    return replace(
        row, state=state, learnt=True, paid=paid, next_look=next_look(state, settings.fleet.orders, now)
    )


def planned_cost(settings: Settings, key: VariantKey) -> PlannedCost | None:
    """What the newest plan foretells of a training and its evaluation; None where it cannot say."""
    plan = newest_plan(settings, key)
    if plan is None or plan.method is None or plan.planned_row.hours is None:
        return None
    row = plan.planned_row
    return PlannedCost(row.hours or 0.0, plan.predicted.layout.gpus, row.cost_usd)


def paid_for(store: Store, key: VariantKey, plan: PlannedCost | None) -> PaidFor | None:
    """What the newest training and its evaluation took."""
    hours = hours_since(store, key, datetime.min.replace(tzinfo=UTC))
    return PaidFor(0.0 if plan is None else plan.hours, hours) if hours > 0 else None


def hours_since(store: Store, key: VariantKey, since: datetime) -> float:
    """By the clock, of the newest training and evaluation, as far as they were made since then."""
    heads = (read_head(store, key.prefix, stage) for stage in (TRAINING, "base_evaluation", DECIDES))
    return sum(hours_of(head) for head in heads if head is not None and made(head) >= since)


def _of_parent(row: FleetRow, store: Store, now: datetime) -> list[News]:
    """Where the declared parent released another model than the variant started from: its news, since it was
    first seen. A variant that never started from this parent is for a person to run.
    """
    newer = newer_parent(store, row.state.key, read_head(store, row.state.key.prefix, "base_model"))
    if newer is None or str(newer[0]) != row.parent:
        return []
    version = f"{newer[0]}-v{newer[1]}-"
    told = (news for news in row.state.news if news.kind == "parent" and news.stamp.startswith(version))
    words = (
        f"parent {newer[0]} v{newer[1]}"  # a rollback brings a version back: its time tells it from before
    )
    return [next(told, None) or News("parent", f"{version}{now:{EXACT_STAMP}}", now, now, words)]
