"""Which variants need no run, since Dagster shows what a run of them would come to."""

from __future__ import annotations

import dagster as dg
import pytest

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.automation.processes.instance import Launched
from ft_dagster.automation.tags import VARIANT
from ft_dagster.automation.unchanged import unchanged
from ft_dagster.build import default_resources as resources
from ft_dagster.spec import VariantKey
from tests.e2e.workshop import Workshop

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")


def look(shop: Workshop) -> Launched | None:
    return unchanged(shop.instance, shop.settings, KEY)


def run(shop: Workshop) -> dg.ExecuteInProcessResult:
    """The whole chain, tagged as the queue tags it."""
    shop.instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
    return dg.materialize(
        CHAIN, partition_key=str(KEY), instance=shop.instance, resources=resources(str(shop.folder)),
        tags={VARIANT: str(KEY)}, raise_on_error=False,
    )  # fmt: skip


@pytest.mark.long
def test_only_what_dagster_shows_as_newest_needs_no_run(fresh: Workshop, released: Workshop) -> None:
    assert look(fresh) is None  # nothing ran yet
    assert look(released) is None  # nothing ran that this instance shows
    first = run(released)
    assert look(released) == Launched(KEY, first.run_id)
    with dg.DagsterInstance.ephemeral() as empty:
        assert unchanged(empty, released.settings, KEY) is None  # another instance on the same store
    rows = released.folder / "data" / "rows.jsonl"
    content = rows.read_text("utf-8")
    rows.write_text(content + content.splitlines()[0] + "\n", "utf-8")
    assert look(released) is None
    rows.unlink()
    assert not run(released).success
    rows.write_text(content, "utf-8")
    assert look(released) is None  # the newest run failed, and the page says so
    again = run(released)
    assert look(released) == Launched(KEY, again.run_id)
    other = dg.AssetMaterialization(
        "evaluation", partition=str(KEY), tags={"dagster/data_version": "another"}
    )
    released.instance.report_runless_asset_event(other)
    assert look(released) is None  # its page shows another evaluation
