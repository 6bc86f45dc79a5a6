"""The partitions of the graph: one for each variant."""

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey

PARTITIONS = "ft_dagster_variant"  # shared by every code location of an instance
VARIANT_TAG = "ft/variant"  # of a run: whose it is to the queue
VARIANTS = dg.DynamicPartitionsDefinition(name=PARTITIONS)


def variant_of(context: dg.AssetExecutionContext) -> VariantKey:
    """The run's variant. Raises UserError for a single run over several partitions, and for one that was
    queued as another variant's.
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
