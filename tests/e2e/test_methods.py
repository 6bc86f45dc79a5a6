"""Every method from a declaration to a release, through the graph: it learns, and its export is equal."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.lineage.release import production
from ft_dagster.store import Artifact, read_head
from ft_dagster.training.kept_base import KEPT_BASES, kept_bases
from tests.e2e.project import declaration, write_yaml
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.long
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = {
    "full": ({"name": "full"}, {"learning_rate": 5e-3}, "merged", {}),
    "full_over_two_ranks": (
        {"name": "full"}, {"learning_rate": 5e-3, "deepspeed": {"stage": 3}}, "merged",
        {"cpu_ranks": 2, "cpu_slots": 2},
    ),
    "qlora": ({"name": "qlora", "rank": 4}, {}, "adapter", {}),
    "qlora_merged": ({"name": "qlora", "rank": 4}, {}, "merged", {}),
    "lora_8bit": ({"name": "lora_8bit", "rank": 4}, {}, "adapter", {}),
    "dora": ({"name": "lora", "rank": 4, "use_dora": True}, {}, "merged", {}),
    "prompt_tuning": ({"name": "prompt_tuning"}, {"learning_rate": 0.05}, "adapter", {}),
    "prefix_tuning": ({"name": "prefix_tuning"}, {"learning_rate": 0.05}, "adapter", {}),
}  # fmt: skip
PREFIX = "tenants/acme/taught"


@pytest.fixture(scope="module", params=CASES)
def taught(
    request: pytest.FixtureRequest, workshop: Workshop, tiny_model_folder: Path
) -> tuple[str, dg.ExecuteInProcessResult]:
    """(name, the run) of acme.taught, declared and taken through the whole graph by one method."""
    method, training, export, resources = CASES[request.param]
    content = declaration(tiny_model_folder, method=method, export=export)
    content["training"].update(training)
    content["resources"].update(resources)
    content["gates"]["regression_margin"] = None  # each method takes the place of another
    write_yaml(workshop.folder / "tenants/acme/taught.yaml", content)
    return request.param, workshop.materialize("acme.taught", raises=False)


def stage(workshop: Workshop, name: str) -> Artifact:
    return present(read_head(workshop.store, PREFIX, name))


def test_it_is_released_with_a_fallen_loss_by_the_declared_method(
    taught: tuple[str, dg.ExecuteInProcessResult], workshop: Workshop
) -> None:
    name, run = taught
    assert run.success, workshop.failure(run)
    tuned = stage(workshop, "fine_tuned_model")
    assert tuned.figures["method"] == CASES[name][0]["name"]
    share = 0.98 if name.endswith("_tuning") else 0.95  # a soft prompt before a random model moves it little
    assert tuned.figures["validation_loss_best"] < share * tuned.figures["validation_loss_first"]
    released = present(production(workshop.store, PREFIX))
    assert released.weights == tuned.digest
    assert released.export == stage(workshop, "model_export").digest


def test_the_export_reloads_equal(taught: tuple[str, dg.ExecuteInProcessResult], workshop: Workshop) -> None:
    """By the certificate: the export, read back from disk, against the weights that were judged."""
    certificate = stage(workshop, "model_export").figures["certificate"]
    if CASES[taught[0]][2] == "adapter" or CASES[taught[0]][0]["name"] == "full":
        assert certificate["max_logit_difference"] == 0
    assert certificate["top1_agreement"] > 0.98


def test_every_value_and_its_origin_is_in_the_plan(
    taught: tuple[str, dg.ExecuteInProcessResult], workshop: Workshop
) -> None:
    plan = stage(workshop, "training_plan").folder(workshop.store, workshop.settings.cache_folder)
    content = json.loads((plan / "payload/plan.json").read_text())
    estimate = json.loads((plan / "evidence/estimate.json").read_text())
    reasons = {reason["field"]: reason for reason in estimate["plan"]["reasons"]}
    for field, value in content["training"].items():
        known = (
            {f"training.{field}.{inner}" for inner in value}
            if isinstance(value, dict)
            else {f"training.{field}"}
        )
        assert known <= reasons.keys()
    assert reasons["method.name"]["value"] == content["method"]["name"]
    assert all(reason["reason"] for reason in reasons.values())


def test_a_sharded_training_leaves_its_configuration_as_evidence(
    taught: tuple[str, dg.ExecuteInProcessResult], workshop: Workshop
) -> None:
    name, _ = taught
    evidence = (
        stage(workshop, "fine_tuned_model").folder(workshop.store, workshop.settings.cache_folder)
        / "evidence"
    )
    assert (evidence / "deepspeed.json").exists() == (name == "full_over_two_ranks")


def test_a_base_in_nf4_is_kept_for_the_next_training_on_it(
    taught: tuple[str, dg.ExecuteInProcessResult], workshop: Workshop
) -> None:
    if CASES[taught[0]][0]["name"] == "qlora":
        (kept,) = kept_bases(workshop.settings.cache_folder / KEPT_BASES)
        assert (kept.folder / "model.safetensors").is_file()
