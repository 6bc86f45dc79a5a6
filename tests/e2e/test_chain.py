"""The whole graph on the tiny model, through Dagster itself: made, judged, released, reused, refused."""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from ft_dagster.automation.jobs import CHAIN
from ft_dagster.evaluation.models.arithmetic import judging_dtype
from ft_dagster.lineage.release import history
from ft_dagster.spec import VariantKey
from ft_dagster.store import Artifact, read_head, verify_artifact
from ft_dagster.versions.summary import STAGES, variant_row
from ft_dagster.workspace import workspace as workspace_module
from tests.e2e.project import edit, write_lines
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
ACME = VariantKey("acme", "places")
PREFIX = "tenants/acme/places"


def metadata(result: dg.ExecuteInProcessResult, name: str) -> Mapping[str, Any]:
    (event,) = result.asset_materializations_for_node(name)
    return event.metadata


def test_a_declaration_becomes_a_released_model(workshop: Workshop) -> None:
    assert workshop.first.success
    row = variant_row(workshop.store, ACME)
    assert present(row.verdict).passed is True
    assert row.export == "adapter"
    assert row.rows_kept == 100
    before, after = map(present, row.validation_loss)
    assert after < 0.9 * before
    assert row.version == 1


def test_every_asset_reports_its_content_digest_as_data_version(workshop: Workshop) -> None:
    for name in (*STAGES, "release"):
        event = workshop.instance.get_latest_data_version_record(
            dg.AssetKey(name), partition_key="acme.places"
        )
        shown = present(present(event).asset_materialization)
        version = present(shown.tags)["dagster/data_version"]
        head = read_head(workshop.store, PREFIX, name)
        expected = read_head(workshop.store, PREFIX, "model_export") if head is None else head
        assert version == present(expected).digest


def test_each_manifest_names_its_inputs_by_digest(workshop: Workshop) -> None:
    def head(stage: str) -> Artifact:
        return present(read_head(workshop.store, PREFIX, stage))

    tuned, export = head("fine_tuned_model"), head("model_export")
    assert tuned.inputs["training_mixture"] == head("training_mixture").digest
    assert tuned.inputs["base_model"] == head("base_model").digest
    assert export.inputs["fine_tuned_model"] == tuned.digest
    assert export.inputs["evaluation"] == head("evaluation").digest
    assert tuned.predicate["seed"] == 0
    assert tuned.predicate["environment"]["libraries"]["peft"]
    for stage in STAGES:
        verify_artifact(workshop.store, head(stage), workshop.settings.cache_folder)


def test_checks_are_recorded_for_the_partition(workshop: Workshop) -> None:
    checks = {
        evaluation.check_name: evaluation for evaluation in workshop.first.get_asset_check_evaluations()
    }
    assert set(checks) >= {
        "rows_kept",
        "trained_tokens",
        "general_share",
        "fits",
        "learned",
        "gate",
        "certificate",
    }
    assert all(evaluation.passed for evaluation in checks.values())
    assert {evaluation.partition for evaluation in checks.values()} == {"acme.places"}


def test_each_asset_explains_itself(workshop: Workshop) -> None:
    for asset in CHAIN:
        (spec,) = asset.specs
        assert spec.description
        assert spec.kinds
        assert spec.group_name
        assert spec.code_version
    for name in (*STAGES, "release"):
        assert "ml@acme.example" in metadata(workshop.first, name)["owners"].value


def test_a_run_trains_before_its_base_is_judged(workshop: Workshop) -> None:
    """Which may be going on for another variant, and would be waited for."""
    begun = [event.step_key for event in workshop.first.all_events if event.is_step_start]
    assert begun.index("fine_tuned_model") < begun.index("base_evaluation")


def test_no_row_of_the_tenant_reaches_the_event_log(workshop: Workshop) -> None:
    text = "".join(str(event) for event in workshop.first.all_events)
    assert "Where is the permit" not in text


def test_a_second_run_on_unchanged_input_does_no_work(workshop: Workshop) -> None:
    again = workshop.materialize("acme.places")
    assert again.success
    assert all(metadata(again, stage)["reused"].value for stage in STAGES)
    assert len(history(workshop.store, PREFIX)) == 1


@pytest.mark.long
def test_a_second_tenant_shares_base_corpus_and_general_scores_and_gets_a_merged_model(
    workshop: Workshop,
) -> None:
    result = workshop.materialize("globex.places")
    assert result.success
    other = "tenants/globex/places"
    mine, theirs = (present(read_head(workshop.store, p, "base_evaluation")) for p in (PREFIX, other))
    assert mine.inputs["general_scores"] == theirs.inputs["general_scores"]
    assert len(workshop.store.names("shared/general_scores")) == 1
    payload = present(read_head(workshop.store, other, "model_export")).folder(
        workshop.store, workshop.settings.cache_folder
    )
    files = {
        file.relative_to(payload / "payload").as_posix() for file in payload.rglob("payload/**/*.safetensors")
    }
    assert "model.safetensors" in files
    assert "adapter/adapter_model.safetensors" in files


def test_a_changed_source_is_a_new_dataset_and_the_old_one_stays(fresh: Workshop) -> None:
    fresh.materialize("acme.places", "declaration", "task_dataset")
    first = present(read_head(fresh.store, PREFIX, "task_dataset"))
    file = fresh.folder / "data" / "rows.jsonl"
    file.write_text(file.read_text() + json.dumps({"instruction": "new?", "output": "new"}) + "\n")
    assert fresh.materialize("acme.places", "declaration", "task_dataset").success
    second = present(read_head(fresh.store, PREFIX, "task_dataset"))
    assert sum(second.figures["rows"].values()) == sum(first.figures["rows"].values()) + 1
    verify_artifact(fresh.store, first, fresh.settings.cache_folder)


@pytest.mark.long
def test_a_bad_row_fails_once_with_file_and_line_and_leaves_nothing(fresh: Workshop) -> None:
    file = fresh.folder / "data" / "rows.jsonl"
    file.write_text(file.read_text() + "{broken\n")
    result = fresh.materialize("acme.places", "declaration", "task_dataset", raises=False)
    assert "rows.jsonl:101" in fresh.failure(result)
    assert "Traceback" not in fresh.failure(result)
    assert [
        n
        for k in fresh.store.names(f"{PREFIX}/task_dataset")
        for n in fresh.store.names(f"{PREFIX}/task_dataset/{k}")
    ] == []


@pytest.mark.long
def test_a_corpus_too_small_for_the_share_is_refused(fresh: Workshop) -> None:
    write_lines(fresh.folder / "data" / "general.jsonl", [{"text": f"tiny {n}"} for n in range(30)])
    edit(fresh.folder / "tenants/acme/places.yaml", lambda c: c["data"]["general"].update(share=0.5))
    names = ("declaration", "base_model", "general_corpus", "task_dataset", "training_mixture")
    result = fresh.materialize("acme.places", *names, raises=False)
    assert "general" in fresh.failure(result)
    assert read_head(fresh.store, PREFIX, "training_mixture") is None


def test_a_base_without_weights_is_refused(fresh: Workshop) -> None:
    empty = fresh.folder / "models" / "empty"
    empty.mkdir(parents=True)
    (empty / "config.json").write_text("{}")
    edit(fresh.folder / "tenants/acme/places.yaml", lambda c: c.update(base_model="models/empty"))
    result = fresh.materialize("acme.places", "declaration", "base_model", raises=False)
    assert "models/empty" in fresh.failure(result)
    assert "base_model.source" in fresh.failure(result)


def test_a_stage_asked_before_its_upstream_says_what_to_do(fresh: Workshop) -> None:
    fresh.materialize("acme.places", "declaration")
    result = fresh.materialize("acme.places", "evaluation", raises=False)
    assert "Materialize" in fresh.failure(result)


@pytest.mark.long
def test_scores_in_another_arithmetic_are_scores_of_their_own(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds of host on one store: the base is never compared with a model asked otherwise."""
    before = present(read_head(workshop.store, PREFIX, "base_evaluation"))
    here = judging_dtype("cpu")
    other = {"float32": "bfloat16", "bfloat16": "float32"}[here]
    monkeypatch.setattr(workspace_module, "judging_dtype", lambda kind: other)
    workshop.materialize("acme.places", "base_evaluation")
    made = present(read_head(workshop.store, PREFIX, "base_evaluation"))
    monkeypatch.undo()
    workshop.materialize("acme.places", "base_evaluation")
    assert made.place.key != before.place.key
    assert present(read_head(workshop.store, PREFIX, "base_evaluation")).place == before.place
