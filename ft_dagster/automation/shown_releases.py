"""Tells how far Dagster shows the release logs, which are the truth.

Who appends to a log shows the entry in Dagster, and by that event all others hear of it. Of a writer that was
killed between, or while Dagster's database was away, there is none: it is reported when the variant is learnt
of in turn.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg

from ft_dagster.assets.partitions import Graph
from ft_dagster.assets.release import LOG_ENTRIES, page_of_entry, release_event
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.from_store import DAMAGE
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import history
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import RELEASE
from ft_dagster.store import Store

PATIENCE = timedelta(minutes=10)  # in which who wrote an entry shows it
Newest = dg.EventLogRecord | None


def show_unshown(
    instance: dg.DagsterInstance,
    store: Store,
    key: VariantKey,
    now: datetime,
    *,
    graph: Graph,
    known: int = 0,
) -> int:
    """Report the newest entry of a variant's log, where Dagster shows fewer than there are; return how many
    it is known to show. It is not asked of a log with the `known` number of entries. Of one that cannot be
    read now others tell, and the next turn looks again.
    """
    try:
        past = history(store, key.prefix)
    except (UserError, *DAMAGE):
        return known
    if not past or len(past) == known or now - datetime.fromisoformat(past[-1].at) < PATIENCE:
        return known
    if entries_shown(newest_event(instance, str(key), graph), past) < len(past):
        instance.report_runless_asset_event(release_event(key, past[-1], page_of_entry(key, past), graph))
    return len(past)


def newest_event(instance: dg.DagsterInstance, key: str, graph: Graph, before: int | None = None) -> Newest:
    """Return the newest event that shows a release of a variant; `before`: of those before the one of this
    id.
    """
    asked = dg.AssetRecordsFilter(graph.key(RELEASE.name), [key], before_storage_id=before)
    return next(iter(instance.fetch_materializations(asked, limit=1).records), None)


def entries_shown(event: Newest, past: Sequence[ReleaseEntry]) -> int:
    """Count the entries of a log that an event shows, and those before it. One that does not say it (of an
    older version, or whose page could not be made) shows what was written before it.
    """
    if event is None or event.asset_materialization is None:
        return 0
    said = event.asset_materialization.metadata.get(LOG_ENTRIES)
    if said is not None and isinstance(said.value, int):
        return said.value
    return sum(datetime.fromisoformat(entry.at).timestamp() <= event.timestamp for entry in past)
