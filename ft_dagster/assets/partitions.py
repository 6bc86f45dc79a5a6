"""Names where the assets of a project stand in a code location, and their partitions: one for each
variant.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import names_of

VARIANT_TAG = "ft/variant"  # of a run: whose it is to the queue
READ_SOURCES = names_of(lambda entry: entry.reads_sources)
PROJECT = "ft_dagster/project"  # metadata of an asset: the folder of its project
NAME = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*")  # what Dagster takes, but for what joins parts to one name


@dataclass(frozen=True)
class Graph:
    """Places one project's assets among those of a code location. `prefix`: what their keys begin with; ()
    where the location is the project's own. `project`: its folder; "" where the environment says it.
    `upstream`: other assets whose rows its declarations may read, `warehouse/tickets`.

    Partitions, job, sensors, groups and resources carry it too: two projects share a location.
    """

    prefix: tuple[str, ...] = ()
    project: str = ""
    upstream: tuple[str, ...] = ()

    @classmethod
    def of(cls, prefix: str | Sequence[str], project: str = "", upstream: tuple[str, ...] = ()) -> "Graph":
        """Raises UserError for a part that Dagster takes in no name, or that may be two parts in a name."""
        parts = tuple([prefix] if isinstance(prefix, str) else prefix)
        for part in parts:
            if not isinstance(part, str) or not NAME.fullmatch(part):
                raise UserError(
                    "cannot begin the keys of assets",
                    field="key_prefix",
                    value=part,
                    fix="Write letters and digits, single _ between them; a list for more than one level",
                )
        return cls(parts, project, upstream)

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([*self.prefix, asset])

    def snapshot_key(self, asset: str) -> dg.AssetKey:
        """Return the key of an upstream asset's rows, as they were taken over: upstream/warehouse/tickets."""
        return dg.AssetKey([*self.prefix, "upstream", *asset.split("/")])

    def above(self, asset: str) -> list[dg.AssetKey]:
        """Return what an asset that reads sources depends on beside the assets of the graph."""
        return [self.snapshot_key(each) for each in self.upstream] if asset in READ_SOURCES else []

    def name(self, own: str) -> str:
        """Return the name of a job, a sensor, a group or a resource."""
        return "__".join([*self.prefix, own])

    @property
    def partitions(self) -> str:
        """Return the name of the partitions; an instance has them once for all its code locations."""
        return self.name("ft_dagster_variant")

    @property
    def variants(self) -> dg.DynamicPartitionsDefinition:
        return dg.DynamicPartitionsDefinition(name=self.partitions)


GRAPH = Graph()  # of a code location that is the project's own
PARTITIONS = GRAPH.partitions


def variant_of(context: dg.AssetExecutionContext) -> VariantKey:
    """Return the run's variant. Raises UserError for a single run over several partitions, and for one that
    was queued as another variant's.
    """
    start, end = context.partition_key_range
    if start != end:
        raise UserError(
            "a run is for one variant", value=f"{start}...{end}", fix="Launch one run per partition instead"
        )
    queued_as = context.run.tags.get(VARIANT_TAG, start)
    if queued_as != start:
        raise UserError(
            "a run of one variant that was queued as another's",
            value=f"{start}, queued as {queued_as}",
            fix="Launch it without tags of its own",
        )
    return VariantKey.parse(start)
