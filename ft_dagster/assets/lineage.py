"""What a page shows of where its artifact stands: what it was made of, and what was made of it so far.

A page is written when its artifact is made, and nothing was made of that yet. So at the end of a run the
assets above are told, by an observation each, which Dagster shows on their pages too.
"""

import dagster as dg

from ft_dagster.assets.page import Metadata, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.report.family import family_picture, relative_rows, version_rows
from ft_dagster.report.made_of import MADE_OF
from ft_dagster.stages.family import Heads, family, newest
from ft_dagster.stages.shelf import UNREADABLE, why_not
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact

LINEAGE, OF, ON = "lineage", "made_of", "made_of_it"


def lineage(workspace: Workspace, artifact: Artifact, heads: Heads | None = None) -> Metadata:
    """A picture, and a table each of what is above and below. `heads`: the newest of the variant; None: of
    one that was just made nothing is below.
    """
    try:
        known = heads or (newest(workspace.store, workspace.heads) if artifact.reused else {})
        found = family(workspace, artifact, known)
    except UNREADABLE as error:  # the artifact stands, whatever else of the store cannot be read
        return {LINEAGE: dg.MetadataValue.text(why_not(error))}
    picture = family_picture(found.above, artifact, found.below, found.versions)
    drawn = {} if picture is None else {LINEAGE: dg.MetadataValue.md(picture)}
    below = [*relative_rows(found.below), *version_rows(found.versions)]
    return {**drawn, OF: table(MADE_OF, relative_rows(found.above)), ON: table(MADE_OF, below)}


def tell_above(context: dg.AssetExecutionContext, workspace: Workspace) -> None:
    """Let the pages of the variant's newest artifacts say what was made of them by now."""
    beside = Graph(tuple(context.asset_key.path[:-1]))
    heads = newest(workspace.store, workspace.heads)
    for stage, head in heads.items():
        if beside.key(stage) != context.asset_key:
            shown = lineage(workspace, head, heads)
            told = {name: shown[name] for name in (LINEAGE, ON) if name in shown}
            key, of = beside.key(stage), context.partition_key
            context.log_event(dg.AssetObservation(key, partition=of, metadata=told))
