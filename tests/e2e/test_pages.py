"""What a person sees of a variant in Dagster without a click; all pages say the same of its verdict."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.failures import FAILURE
from ft_dagster.assets.page import ALONE, PANE, SUMMARY, least_width, summary_markdown
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.report.charts.svg import INLINE
from ft_dagster.report.sentences.next_step import NEXT_PAGE
from ft_dagster.report.sentences.summaries import Summary
from ft_dagster.spec import VariantKey
from ft_dagster.store import read_head
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.versions.summary import STAGES
from ft_dagster.versions.version_report import report_path, version_report
from tests.e2e.project import edit, rows, write_lines
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/places"


def pages(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, Any]]:
    """Asset -> what its page shows, as Dagster stores it."""
    return {
        asset.key.path[-1]: result.asset_materializations_for_node(asset.key.path[-1])[0].metadata
        for asset in CHAIN
    }


def test_each_page_begins_with_a_summary_that_is_shown_without_a_click(workshop: Workshop) -> None:
    shown = pages(workshop.first)
    assert len(shown) == len(STAGES) + 3  # the corpus, and the two steps after the stages
    for name, metadata in shown.items():
        assert next(iter(metadata)) == SUMMARY, name
        summary = metadata[SUMMARY].value
        assert len(summary) <= INLINE, name
        assert "Next: " in summary
        if name != "general_corpus":
            assert f"[run {workshop.first.run_id[:8]}](/runs/{workshop.first.run_id})" in summary, name
    assert (
        "(/assets/task_dataset?view=partitions&partition=acme.places)"
        in shown["training_mixture"][SUMMARY].value
    )


def test_what_is_next_is_done_by_the_reader_and_stays_true_after_the_release(workshop: Workshop) -> None:
    for name in {*pages(workshop.first)} - {"general_corpus", "release"}:
        asked = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=["acme.places"])
        told = [
            present(each.asset_observation).metadata
            for each in workshop.instance.fetch_observations(asked, limit=99).records
        ]
        done = [
            each for each in told if not str(each[SUMMARY].value).startswith("**Failed")
        ]  # of other tests
        shown = done[0] if done else pages(workshop.first)[name]
        summary, (page, _) = str(shown[SUMMARY].value), NEXT_PAGE[name]
        assert re.search(rf"Next: (Open {page}|Read the (advice|\d+ warnings?) below; first: )", summary), (
            name
        )
        assert f"; next page: [{page}](/assets/{page}?view=partitions&partition=acme.places)" in summary, name
        assert "not released" not in summary, name


LONGEST = 18  # characters of a word of a name: beside a longer one no table fits at 1280 pixels


def test_no_name_of_a_page_takes_the_room_of_its_tables(workshop: Workshop) -> None:
    for page, metadata in pages(workshop.first).items():
        assert max(len(word) for name in metadata for word in name.split()) <= LONGEST, page


def test_links_that_fill_a_summary_stay_whole() -> None:
    summary, links = Summary("it is there " * 99, "and good", "nothing"), f"[a](/assets/{'long/' * 200})"
    assert summary_markdown(summary, links).endswith(f"Next: ….\n\n{links}")


def test_pictures_stay_inline_and_tables_are_dagsters(workshop: Workshop) -> None:
    shown = pages(workshop.first)
    for name, metadata in shown.items():
        assert "picture" in metadata, name
        for picture in (str(metadata[each].value) for each in metadata if each.startswith("picture")):
            assert picture.startswith("![")
            assert "data:image/svg+xml;base64," in picture
            assert len(picture) <= INLINE, name
        assert any(isinstance(value, dg.TableMetadataValue) for value in metadata.values()), name


def test_a_training_shows_what_it_learned_against_what_it_forgot(workshop: Workshop) -> None:
    shown = pages(workshop.first)["fine_tuned_model"]
    assert "(exported)" in shown["learned_and_forgot"].value
    picture = shown["forgetting"].value
    assert picture.startswith("![learning against forgetting](data:image/svg+xml;base64,")
    assert len(picture) <= INLINE


def relatives(metadata: Mapping[str, Any], how: str) -> list[tuple[str, str]]:
    """(what, which) of what an artifact was made of, or into."""
    rows = [
        {name: str(value).replace("\u200b", "") for name, value in record.data.items()}
        for record in metadata["relatives"].records
    ]
    return [(row["artifact"], row["details"]) for row in rows if row["direction"] == how]


def test_a_digest_is_not_broken_in_two(workshop: Workshop) -> None:
    for name, metadata in pages(workshop.first).items():
        for label in ("relatives", "made_of"):
            for record in getattr(metadata.get(label), "records", ()):
                assert "\u200b" not in str(record.data["digest"]), (name, label)


def test_a_page_says_what_its_artifact_was_made_of_up_to_the_base(workshop: Workshop) -> None:
    shown = pages(workshop.first)["evaluation"]
    assert [what for what, _ in relatives(shown, "made of")] == [
        "general_corpus", "base_model", "task_dataset", "training_mixture", "training_plan",
        "fine_tuned_model", "base_evaluation",
    ]  # fmt: skip
    assert len(shown["lineage"].value) <= INLINE
    svg = base64.b64decode(shown["lineage"].value.partition("base64,")[2].removesuffix(")")).decode()
    dataset = present(read_head(workshop.store, PREFIX, "task_dataset"))
    assert f"task_dataset {sum(dataset.figures['rows'].values())} rows" in svg


def test_the_pages_above_are_told_what_was_made_of_them(workshop: Workshop) -> None:
    """By an observation each, once the version is released: nothing was made of them when they were shown."""
    assert pages(workshop.first)["task_dataset"]["relatives"].value == "none"
    asked = dg.AssetRecordsFilter(dg.AssetKey("task_dataset"), asset_partitions=["acme.places"])
    [newest, *_] = workshop.instance.fetch_observations(asked, limit=1).records
    told = present(newest.asset_observation).metadata
    assert [*told][:2] == ["summary", "picture"]  # which Dagster would else show below it
    below = relatives(told, "made into")
    assert [what for what, _ in below] == [
        "training_mixture", "training_plan", "fine_tuned_model", "evaluation", "model_export", "release",
    ]  # fmt: skip
    assert below[-1] == ("release", "version 1")


def test_the_steps_of_the_plan_are_those_that_were_trained(workshop: Workshop) -> None:
    shown, trained = pages(workshop.first), workshop.store
    figures = TrainingFigures.of(present(read_head(trained, PREFIX, "fine_tuned_model")))
    assert shown["training_plan"]["steps"].value == figures.steps


def test_nothing_on_a_page_is_wider_than_its_pane(workshop: Workshop) -> None:
    for name, metadata in pages(workshop.first).items():
        pane = ALONE if name.startswith("release") else PANE
        for label, value in metadata.items():
            if isinstance(value, dg.TextMetadataValue):
                words = re.split(r"[\s\u200b]", str(value.value))
                assert max(map(len, words)) <= pane, (name, label)
            if isinstance(value, dg.TableMetadataValue):
                names = [column.name for column in value.schema.columns]
                rows = [[str(record.data[column]) for column in names] for record in value.records]
                assert least_width(names, rows) <= pane, (name, label)


def test_a_data_set_counts_what_changed_since_the_version_of_other_rows(
    workshop: Workshop, tmp_path: Path
) -> None:
    assert pages(workshop.first)["task_dataset"]["changed"].value == "no version was made of other rows"
    folder = shutil.copytree(workshop.folder, tmp_path / "project")
    new = [
        {"instruction": f"Who keeps the {word} gate?", "input": "", "output": f"Its {word} keeper does."}
        for word in ("old", "wooden", "narrow", "iron", "second")
    ]
    write_lines(folder / "data" / "rows.jsonl", [*rows()[3:], *new])
    with dg.DagsterInstance.ephemeral() as instance:
        result = Workshop(folder, instance).materialize("acme.places", "declaration", "task_dataset")
    (event,) = result.asset_materializations_for_node("task_dataset")
    assert "since version 1: 5 new, 3 gone" in str(event.metadata["summary"].value)
    changed = event.metadata["changed"]
    assert isinstance(changed, dg.TableMetadataValue)
    *_, every = changed.records
    assert [*every.data.values()] == ["any", "100", "102", "5", "3"]


def test_what_is_reused_names_the_run_that_made_it(workshop: Workshop) -> None:
    again = workshop.materialize("acme.places")
    for name, metadata in pages(again).items():
        if name not in ("general_corpus", "release_evaluation"):  # of all tenants; nothing was judged
            assert f"/runs/{workshop.first.run_id}" in metadata[SUMMARY].value, name
    written = sum(len(dg.serialize_value(event)) for event in again.all_events)
    assert written < 385_000  # characters of the event log, for work that was not done again


def test_a_release_says_what_it_was_made_of_from_the_file_on(workshop: Workshop) -> None:
    rows = pages(workshop.first)["release"]["made_of"].records
    steps = [str(row.data["artifact"]).replace("\u200b", "") for row in rows]
    assert steps[0] == "file"
    file = str(rows[0].data["details"]).replace("\u200b", "")
    assert file.startswith("data/rows.jsonl, ")
    assert file.endswith("licence not declared")
    order = [
        "task_dataset",
        "training_mixture",
        "training_plan",
        "fine_tuned_model",
        "evaluation",
        "model_export",
    ]
    assert [step for step in steps if step in order] == order
    export = present(read_head(workshop.store, PREFIX, "model_export"))
    assert rows[-2].data["digest"] == export.digest[:12]
    assert str(rows[-1].data["details"]).startswith("1, released by ")


def test_a_release_keeps_its_report_beside_its_log(workshop: Workshop) -> None:
    shown = pages(workshop.first)["release"]
    assert shown["report"].value == report_path(PREFIX, 1)
    kept = workshop.store.read(report_path(PREFIX, 1)).decode()
    assert kept == version_report(workshop.settings, VariantKey("acme", "places"), 1)
    export = present(read_head(workshop.store, PREFIX, "model_export"))
    dataset = present(read_head(workshop.store, PREFIX, "task_dataset"))
    for said in ("acme.places version 1", "data/rows.jsonl", export.digest[:12], dataset.digest[:12]):
        assert said in kept
    assert "Where is the permit" not in kept


def test_a_release_stands_where_the_rest_cannot_be_read_and_says_so(workshop: Workshop) -> None:
    """The figures of its data set are another version's."""
    store, rows = workshop.store, present(read_head(workshop.store, PREFIX, "task_dataset"))
    manifest, report = store.read(rows.manifest_path), store.read(report_path(PREFIX, 1))
    other = json.loads(manifest)
    del other["predicate"]["figures"]["rows"]
    store.write_json(rows.manifest_path, other)
    store.remove([report_path(PREFIX, 1)])
    try:
        again = workshop.materialize("acme.places", "release")
        shown = again.asset_materializations_for_node("release")[0].metadata
        said = "could not be made: KeyError: 'rows'"
        assert [shown[name].value for name in ("version", "report")] == [1, said]
        assert shown["made_of"].value != said  # without the figure that is gone
    finally:
        store.write(rows.manifest_path, manifest)
        store.write(report_path(PREFIX, 1), report)


def test_a_mistake_is_one_line_on_the_assets_page_and_no_stack(fresh: Workshop) -> None:
    edit(fresh.folder / "tenants/acme/places.yaml", lambda content: content.update(base_model="models/none"))
    result = fresh.materialize("acme.places", "declaration", "base_model", raises=False)
    (event,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    error = present(event.step_failure_data.error)
    assert error.stack == []
    assert error.cause is None
    line = present(event.step_failure_data.user_failure_data).metadata[FAILURE].value
    assert error.message == line
    (seen,) = fresh.instance.fetch_observations(dg.AssetKey("base_model"), limit=9).records
    observed = present(seen.asset_observation)
    assert (observed.partition, observed.description) == ("acme.places", line)
    assert "**Failed:**" in str(observed.metadata[SUMMARY].value)


def test_a_description_is_shown_as_it_is_written() -> None:
    for asset in CHAIN:
        (spec,) = asset.specs
        assert not re.search(r"^(    |\t)", present(spec.description), re.MULTILINE), spec.key
        assert not re.search(r"[<*#]", re.sub(r"`[^`]*`", "", present(spec.description))), spec.key
