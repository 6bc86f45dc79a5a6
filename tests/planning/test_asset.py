"""training_plan through Dagster: what it shows, and what makes it plan again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.spec import VariantKey
from ft_dagster.store import Artifact, read_head
from ft_dagster.versions.newest_plan import newest_plan
from tests.e2e.project import GENERAL, UP_TO_PLAN, edit, write_lines, write_project
from tests.e2e.workshop import Workshop
from tests.long import mostly_long
from tests.planning.llama import METHODS
from tests.present import present

pytestmark = pytest.mark.slow
KEY = "acme.places"
SHORT = {"max_length": 128}
EXPORT = {"full": "merged"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    folder = write_project(tmp_path_factory.mktemp("project"), tiny_model_folder)
    for tenant in ("acme", "globex"):
        edit(folder / "tenants" / tenant / "places.yaml", _without_benchmarks)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        shop.materialize(KEY, *UP_TO_PLAN)
        yield shop


def _without_benchmarks(declared: dict[str, Any]) -> None:
    declared["evaluation"] = {"general": []}
    declared["data"]["decontaminate"] = {"enabled": False}


def planned(workshop: Workshop, **more: Any) -> tuple[dict[str, Any], Artifact]:
    """The metadata of training_plan after a change of the declaration, and its digest."""
    edit(workshop.folder / "tenants" / "acme" / "places.yaml", lambda declared: declared.update(more))
    result = workshop.materialize(KEY, "declaration", "training_mixture", "training_plan")
    (event,) = result.asset_materializations_for_node("training_plan")
    head = present(read_head(workshop.store, "tenants/acme/places", "training_plan"))
    return {name: value.value for name, value in event.metadata.items()}, head


@pytest.mark.parametrize("method", mostly_long(METHODS, every=3))
def test_the_plan_of_every_method_is_shown_readably(workshop: Workshop, method: str) -> None:
    shown, head = planned(workshop, method=method, training=SHORT, export=EXPORT.get(method, "adapter"))
    assert shown["method"] == method
    assert shown["memory_gb"] > 0
    assert shown["picture"].startswith("![")
    for part, words in {
        "plan": ("training.learning_rate",),
        "ranking": (method, "yes"),
        "cost": ("rule of thumb",),
        "storage": ("checkpoint",),
    }.items():
        rows = [str(record.data).replace(r"\u200b", "") for record in shown[part].records]
        assert len(rows) > 3
        assert any(all(word in row for word in words) for row in rows), rows
    assert head.figures["trainable_parameters"] > 0
    plan = present(newest_plan(workshop.settings.open_store(), VariantKey.parse(KEY)))
    assert {row.field for row in plan.plan.reasons} >= {"method.name", "training.deepspeed.stage"}


@pytest.mark.parametrize(
    "change",
    [
        {"training": {**SHORT, "report_to": ["tensorboard"]}},
        {"export": "merged"},
        {"evaluation": {"limit": 3, "general": []}},
        {"resources": {"cpu_slots": 1, "gpu_kind": "A100", "sharing": "shared", "priority": 3}},
    ],
    ids=["report_to", "export", "evaluation", "resources"],
)
def test_what_acts_on_no_weight_plans_nothing_again(workshop: Workshop, change: dict[str, Any]) -> None:
    _, before = planned(workshop, method="lora", training=SHORT, export="adapter")
    shown, after = planned(workshop, **change)
    assert shown["reused"] is True
    assert after.digest == before.digest


def test_warnings_follow_the_declaration_where_the_plan_is_reused(workshop: Workshop) -> None:
    same = {"method": "lora", "training": SHORT}
    tenants = workshop.folder / "tenants"
    shutil.copy(tenants / "acme" / "places.yaml", tenants / "acme" / "again.yaml")
    merged, _ = planned(workshop, **same, export="merged")
    adapter, _ = planned(workshop, **same, export="adapter")
    (tenants / "acme" / "again.yaml").unlink()
    assert "for each of the tenant's 2 variants on this base" in merged["warnings"]
    assert "merged" not in adapter["warnings"]


def test_full_chosen_by_the_plan_needs_the_export_it_can_have(workshop: Workshop) -> None:
    write_lines(workshop.folder / "data" / "books.jsonl", [{"text": text} for text in GENERAL[:100]])
    books = {"sources": ["data/books.jsonl"], "decontaminate": {"enabled": False}}
    asked = {"task": ["tasks/sea_quiz.yaml"], "general": [], "limit": 12}
    knowledge = {
        "objective": "domain_knowledge",
        "method": "auto",
        "export": "adapter",
        "data": books,
        "evaluation": asked,
    }
    edit(workshop.folder / "tenants" / "globex" / "places.yaml", lambda declared: declared.update(knowledge))
    result = workshop.materialize("globex.places", *UP_TO_PLAN, raises=False)
    assert "by its plan, method full trains the whole model" in workshop.failure(result)


@pytest.mark.long
def test_a_gate_on_a_metric_that_its_task_has_not_is_refused_before_anything_is_trained(
    workshop: Workshop,
) -> None:
    file = workshop.folder / "tenants" / "globex" / "places.yaml"
    asked = {
        "objective": "instruction",
        "method": "lora",
        "data": {"sources": ["data/rows.jsonl"]},
        "evaluation": {"task": ["tasks/sea_quiz.yaml"], "general": [], "limit": 12},
        "export": "adapter",
    }
    edit(file, lambda declared: declared.update(asked))
    edit(file, lambda declared: declared["gates"].update(metrics={"sea_quiz": "exact_match"}))
    result = workshop.materialize("globex.places", *UP_TO_PLAN, raises=False)
    assert not result.success
    said = workshop.failure(result)
    assert "gates.metrics.sea_quiz" in said
    assert "It has: acc, acc_norm" in said
    edit(file, lambda declared: declared["gates"].update(metrics={"own_task": "exact_match"}))
    said = workshop.failure(workshop.materialize("globex.places", *UP_TO_PLAN, raises=False))
    assert "gates.metrics.own_task: no such task is asked" in said  # a declared one is, in its place
    edit(file, lambda declared: declared["gates"].update(metrics={"sea_quiz": "acc"}))
    assert workshop.materialize("globex.places", *UP_TO_PLAN).success


def test_a_database_that_is_not_there_is_refused_before_anything_is_trained(workshop: Workshop) -> None:
    file = workshop.folder / "tenants" / "globex" / "places.yaml"
    before = file.read_text("utf-8")
    sql = {"general": [], "kind": "sql", "database": "data/gone.sqlite"}
    edit(file, lambda declared: declared.update(objective="task_specific", evaluation=sql))
    edit(file, lambda declared: declared["gates"].update(metrics={}))
    result = workshop.materialize("globex.places", *UP_TO_PLAN, raises=False)
    file.write_text(before, "utf-8")
    assert not result.success
    assert "evaluation.database" in workshop.failure(result)


def test_a_setting_that_the_base_cannot_have_names_the_declaration(workshop: Workshop) -> None:
    edit(
        workshop.folder / "tenants" / "globex" / "places.yaml",
        lambda declared: declared.update(method={"name": "lora", "rank": 512}, export="adapter"),
    )
    result = workshop.materialize("globex.places", *UP_TO_PLAN, raises=False)
    assert not result.success
    message = workshop.failure(result)
    assert "tenants/globex/places.yaml" in message
    assert "method.rank" in message


@pytest.mark.parametrize(
    ("resources", "host", "words"),
    [
        ({"gpus": 9}, {"gpus": ["0", "1"]}, "resources.gpus: acme.places asks for more GPUs"),
        ({"cpu_slots": 2}, {"quota": {"acme": 1}}, "resources.cpu_slots: acme may hold 1 CPU slots at once"),
    ],
    ids=["gpus", "quota"],
)  # fmt: skip
def test_more_than_the_host_can_ever_lend_is_refused_at_the_plan(
    workshop: Workshop,
    resources: dict[str, Any],
    host: dict[str, Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings, declared = workshop.folder / "ft_dagster.yaml", workshop.folder / "tenants/acme/places.yaml"
    before = settings.read_text("utf-8"), declared.read_text("utf-8")
    edit(settings, lambda content: content["host"].update(host))
    edit(declared, lambda content: content.update(resources=resources))
    try:
        result = workshop.materialize(KEY, "declaration", "training_plan", raises=False)
    finally:
        settings.write_text(before[0], "utf-8")
        declared.write_text(before[1], "utf-8")
    message = workshop.failure(result)
    assert message.startswith(f"{declared}: {words}")
    assert "ft_dagster.yaml" in message
