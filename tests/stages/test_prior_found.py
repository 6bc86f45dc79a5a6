"""What a probe hands on to another variant is what it tried, and nothing that its declaration said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.planning.prior import Prior
from ft_dagster.planning.trials import ProbeResult, TriedArm
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import prior
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.stages.workspace import RunOf, Workspace
from ft_dagster.store import Artifact, Attempt, write_head
from ft_dagster.store.make import Recipe, make_artifact
from tests.e2e.project import POLICY, edit, write_project, write_yaml

VICTIM = "acme.places"
OTHERS = ("acme.other", "globex.places")
Arms = Sequence[tuple[str, float, int | None]]
RATES: Arms = [("lora", 4e-4, None), ("lora", 1e-3, None), ("lora", 1e-4, None)]
BOTH: Arms = [("lora", 4e-4, None), ("full", 6e-5, None), ("lora", 1e-3, None), ("full", 2e-4, None)]
DECLARED_RATE: Arms = [("lora", 2e-2, None), ("full", 2e-2, None)]
RANKS: Arms = [("lora", 2e-2, 16), ("lora", 2e-2, 8)]  # method and rate were declared
STRANGE: Arms = [("lora", 1e-6, None), ("lora", 5e-2, None)]  # of a version that tried other rates


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """acme.places, with its base; the others declare a probe, and both tenants tell theirs."""
    folder = write_project(tmp_path_factory.mktemp("told") / "project", tiny_model_folder)
    write_yaml(folder / "policy.yaml", {**POLICY, "share_probes": "platform"})
    tenants = folder / "tenants"
    edit(tenants / "globex" / "places.yaml", lambda content: content.update(plan={"probe": "on"}))
    (tenants / "acme" / "other.yaml").write_text((tenants / "globex" / "places.yaml").read_text())
    settings = load_settings(folder)
    workspace = Workspace(settings, VariantKey.parse(VICTIM), RunOf("test", "test", lambda line: None))
    outcome = run_chain(workspace, up_to("base_model"))
    assert outcome.error is None, outcome.error
    return workspace


def tried(workspace: Workspace, variant: str, arms: Arms, best: int = 0) -> None:
    """Let the newest plan of a variant be by a probe with these arms, of which that one was best."""
    method, rate, rank = arms[best]
    each = tuple(TriedArm(name, at, 4, {"8": 1.0}, rank=of) for name, at, of in arms)
    result = ProbeResult(method, rate, f"{method} at {rate:g} was best", (each,), rank)
    store, prefix = workspace.store, VariantKey.parse(variant).prefix
    work = workspace.settings.work_folder

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "probe.json").write_text(json.dumps(result.to_json()))
        return {"method": method, "learning_rate": rate, "sentence": result.sentence}

    inputs = {"base_model": workspace.upstream("base_model").digest}
    asked = {"spec": {"objective": "instruction"}, "arms": [list(arm) for arm in arms], "best": best}
    probe = make_artifact(store, work, Recipe("probe", prefix, inputs, asked), build)
    recipe = Recipe("training_plan", prefix, {"probe": probe.digest}, {})
    write_head(store, prefix, make_artifact(store, work, recipe, lambda attempt: {}), None)


def forget(workspace: Workspace) -> None:
    """Let no other variant have a plan."""
    for variant in OTHERS:
        head = f"{VariantKey.parse(variant).prefix}/heads/training_plan.json"
        Path(workspace.store.path(head)).unlink(missing_ok=True)


def found(workspace: Workspace, method: str) -> Prior | None:
    base: Artifact = workspace.upstream("base_model")
    named = workspace.spec.method.model_copy(update={"name": method, "rank": None})
    return prior.prior_of(workspace, workspace.spec.model_copy(update={"method": named}), base)


def of(each: Prior | None) -> tuple[str | None, float | None] | None:
    """The method and the rate that are handed on."""
    return None if each is None else (each.method if each.method_tried else None, each.learning_rate)


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize(
    ("arms", "open_method", "named_method"),
    [
        (BOTH, ("lora", 4e-4), ("lora", 4e-4)),
        (RATES, (None, 4e-4), (None, 4e-4)),
        (DECLARED_RATE, ("lora", None), None),
        (RANKS, None, None),
    ],
    ids=["both", "rates", "declared rate", "ranks"],
)
def test_what_was_declared_is_nobodys_prior_and_what_was_tried_still_is(
    victim: Workspace,
    variant: str,
    arms: Arms,
    open_method: tuple[str | None, float | None] | None,
    named_method: tuple[str | None, float | None] | None,
) -> None:
    forget(victim)
    tried(victim, variant, arms)
    assert of(found(victim, "auto")) == open_method
    assert of(found(victim, "lora")) == named_method


@pytest.mark.parametrize(("best", "rate"), [(0, 1e-4), (1, 2e-3)])
def test_a_rate_of_another_tenant_is_within_what_a_probe_may_try(
    victim: Workspace, best: int, rate: float
) -> None:
    forget(victim)
    tried(victim, "globex.places", STRANGE, best)
    assert of(found(victim, "lora")) == (None, rate)  # a third, and five times, of 4e-4
    tried(victim, "acme.other", STRANGE, best)
    assert of(found(victim, "lora")) == (None, STRANGE[best][1])  # the tenant's own


def test_one_that_hands_on_nothing_hides_none_that_does(victim: Workspace) -> None:
    forget(victim)
    tried(victim, "globex.places", RATES)
    tried(victim, "acme.other", RANKS)
    assert of(found(victim, "lora")) == (None, 4e-4)


def test_a_method_alone_hides_no_rate_from_a_variant_whose_settings_name_its_method(
    victim: Workspace,
) -> None:
    forget(victim)
    tried(victim, "globex.places", RATES)
    tried(victim, "acme.other", DECLARED_RATE)
    named = victim.spec.method.model_copy(update={"name": "auto", "rank": 16})
    spec = victim.spec.model_copy(update={"method": named})
    assert of(prior.prior_of(victim, spec, victim.upstream("base_model"))) == (None, 4e-4)


def test_of_older_probes_nothing_is_read_but_their_manifests(
    victim: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(victim)
    tried(victim, "globex.places", BOTH)
    tried(victim, "acme.other", RATES)
    read: list[str] = []
    payload = Workspace.payload

    def counted(desk: Workspace, artifact: Artifact) -> Path:
        read.append(artifact.place.prefix)
        return payload(desk, artifact)

    monkeypatch.setattr(Workspace, "payload", counted)
    assert of(found(victim, "auto")) == (None, 4e-4)
    assert read == ["tenants/acme/other"]
