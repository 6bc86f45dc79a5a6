"""The gate binds the bytes: nothing ships that was not judged, whichever asset is asked for alone."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.lineage.release import history
from ft_dagster.resources.launchers import Programs
from ft_dagster.store import read_head
from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.security.pretend import Pretend

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/places"


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A variant whose weights, which are pretended, answer no general question rightly any more."""
    folder = write_project(tmp_path_factory.mktemp("failed"), tiny_model_folder)

    edit(folder / "tenants/acme/places.yaml", lambda c: c["gates"].update(general_margin=0.1))
    pretend = Pretend(general={"first": 0.0})
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Programs, "open", lambda self: pretend)
            shop.first = shop.materialize("acme.places", raises=False)
        yield shop


def test_a_failed_gate_stops_the_run_before_the_export(failed: Workshop) -> None:
    assert not failed.first.success
    gate = next(e for e in failed.first.get_asset_check_evaluations() if e.check_name == "gate")
    assert gate.passed is False
    assert read_head(failed.store, PREFIX, "model_export") is None


def test_where_a_failed_gate_ends_a_run_the_pages_above_are_told(failed: Workshop) -> None:
    asked = dg.AssetRecordsFilter(dg.AssetKey("task_dataset"), asset_partitions=["acme.places"])
    [told] = failed.instance.fetch_observations(asked, limit=9).records
    rows = present(told.asset_observation).metadata["relatives"]
    assert isinstance(rows, dg.TableMetadataValue)
    assert str(rows.records[-1].data["artifact"]).replace("\u200b", "") == "evaluation"


def test_asking_for_the_export_alone_after_a_failed_gate_is_refused(failed: Workshop) -> None:
    result = failed.materialize("acme.places", "model_export", raises=False)
    assert "gate does not hold" in failed.failure(result)
    assert history(failed.store, PREFIX) == []


def test_a_forged_materialization_in_the_event_log_changes_nothing(failed: Workshop) -> None:
    failed.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            "evaluation", partition="acme.places", tags={"dagster/data_version": "forged"}
        )
    )
    result = failed.materialize("acme.places", "model_export", raises=False)
    assert "gate does not hold" in failed.failure(result)


def test_gates_changed_after_the_evaluation_need_a_new_one(workshop: Workshop) -> None:
    file = workshop.folder / "tenants/acme/places.yaml"
    before = file.read_text()
    edit(file, lambda c: c["gates"].update(general_margin=0.9))
    try:
        workshop.materialize("acme.places", "declaration")
        for asset in ("model_export", "release"):
            result = workshop.materialize("acme.places", asset, raises=False)
            assert "gates.general_margin changed after the evaluation" in workshop.failure(result)
    finally:
        file.write_text(before)
        workshop.materialize("acme.places", "declaration")


def test_weights_swapped_after_the_evaluation_are_not_exported(workshop: Workshop) -> None:
    tuned = present(read_head(workshop.store, PREFIX, "fine_tuned_model"))
    file = present(workshop.store.local(tuned.path)) / "payload" / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-4] + bytes(4))
    try:
        for asset in ("model_export", "release"):
            result = workshop.materialize("acme.places", asset, raises=False)
            assert "other bytes" in workshop.failure(result)
    finally:
        file.write_bytes(good)
