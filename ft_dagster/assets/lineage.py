"""Shows on a page where its artifact stands: what it was made of, and what was made of it so far.

A page is written when its artifact is made, and nothing was made of that yet. So where a run ends, at a
release or at a check that does not pass, the assets above are told by an observation each, which Dagster
shows on their pages too.
"""

import dagster as dg

from ft_dagster.assets.page import PICTURE, SUMMARY, Metadata, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.report.tables.relatives import RELATED, family_picture, family_rows
from ft_dagster.store import Artifact
from ft_dagster.versions.relatives import Kin, family, newest
from ft_dagster.versions.version_files import UNREADABLE, why_not
from ft_dagster.workspace.workspace import Workspace

LINEAGE, RELATIVES = "lineage", "relatives"


def lineage(workspace: Workspace, artifact: Artifact, kin: Kin | None = None) -> Metadata:
    """Return a picture, and a table of what is above and below. `kin`: what stands of the variant; None: of
    an artifact that was just made nothing is below.
    """
    try:
        heads = newest(workspace.store, workspace.heads) if kin is None and artifact.reused else {}
        found = family(kin or Kin(workspace, heads), artifact)
    except UNREADABLE as error:  # the artifact stands, whatever else of the store cannot be read
        return {LINEAGE: dg.MetadataValue.text(why_not(error))}
    picture = family_picture(found.above, artifact, found.below, found.versions)
    drawn = {} if picture is None else {LINEAGE: dg.MetadataValue.md(picture)}
    return {**drawn, RELATIVES: table(RELATED, family_rows(found.above, found.below, found.versions))}


def tell_above(context: dg.AssetExecutionContext, workspace: Workspace) -> None:
    """Let the pages of the variant's newest artifacts say what was made of them by now."""
    beside = Graph(tuple(context.asset_key.path[:-1]))
    kin = Kin(workspace, newest(workspace.store, workspace.heads))
    for stage, head in kin.heads.items():
        if beside.key(stage) != context.asset_key:
            key = beside.key(stage)
            told = {**_first(context, key), **lineage(workspace, head, kin)}
            context.log_event(dg.AssetObservation(key, partition=context.partition_key, metadata=told))


def _first(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Metadata:
    """Return summary and pictures of the page as it stands: Dagster shows an observation's entries before the
    page's own, and of two with one name the first alone.
    """
    asked = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(asked, limit=1).records:
        made = record.asset_materialization
        page = {} if made is None else made.metadata
        return {name: page[name] for name in page if name == SUMMARY or name.startswith(PICTURE)}
    return {}
