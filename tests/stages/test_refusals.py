"""Refusals are asked for by themselves, judged beside everything else, and asked again for nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.assets.evaluation import describe_evaluation
from ft_dagster.gate.refusals.refusals import BeforeAfter, read_pairs
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.settings import load_settings
from ft_dagster.stage_entries import ANSWERS_OF
from ft_dagster.stages import evaluation
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.version_report import version_report
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import POLICY, edit, write_yaml
from tests.finished import copied
from tests.leased import LeasedSeconds
from tests.present import present

pytestmark = pytest.mark.slow
Declare = Callable[..., Workspace]
WIDE = {"margin": 0.15, "over_margin": 0.15}


@pytest.fixture(scope="module")
def asked(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The released variant after refusals were declared, the answers of both models stored."""
    project = copied(finished_project, tmp_path_factory.mktemp("refusals") / "project")
    workspace = declared_in(project, {"refusals": WIDE})
    with pytest.MonkeyPatch.context() as patch:
        leased = LeasedSeconds(patch)
        assert run_chain(workspace).error is None
        assert leased.count == 3  # base and tuned model, nobody what was asked before; the export
    return workspace


def declared_in(project: Path, gates: dict[str, Any], policy: dict[str, Any] | None = None) -> Workspace:
    edit(project / "tenants/acme/places.yaml", lambda content: content["gates"].update(gates))
    if policy is not None:
        write_yaml(project / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], **policy}})
    return workspace_of(project)


def workspace_of(project: Path) -> Workspace:
    from ft_dagster.spec import VariantKey

    run = RunOf("again", "test", lambda line: None)
    return Workspace(load_settings(project), VariantKey("acme", "places"), run)


@pytest.fixture
def declare(asked: Workspace, tmp_path: Path) -> Declare:
    """The same in a project of its own, with other gates or another policy."""
    project = shutil.copytree(asked.project, tmp_path / "project")
    return lambda gates=None, policy=None: declared_in(project, gates or {}, policy)


def judged(workspace: Workspace) -> Artifact:
    return present(workspace.head("evaluation"))


def rules_of(workspace: Workspace) -> dict[str, Rule]:
    rules = Verdict.from_json(judged(workspace).figures["verdict"]).rules
    return {rule.task: rule for rule in rules if rule.rule == "refusals"}


def stored(workspace: Workspace) -> list[BeforeAfter]:
    return read_pairs(workspace.payload(judged(workspace)))


def begins(answers: Sequence[str]) -> list[str]:
    """Phrases by which these answers would be refusals."""
    return sorted({answer.strip()[:40] for answer in answers if any(map(str.isalpha, answer[:40]))})


def test_refusals_that_are_not_declared_stand_in_no_key(chained: Workspace) -> None:
    recipe, _ = chained.recipe(evaluation.STAGE)
    assert not {"refusal_answers", "base_refusal_answers", "refused"} & {*recipe.inputs, *recipe.spec}
    assert recipe.place == judged(chained).place


def test_declared_later_they_are_asked_alone_and_the_export_keeps_its_bytes(
    asked: Workspace, chained: Workspace
) -> None:
    then, now = judged(chained), judged(asked)
    assert now.figures[ANSWERS_OF] == then.place.key
    assert now.inputs["base_refusal_answers"] != now.inputs["refusal_answers"]
    assert present(asked.head("model_export")).digest == present(chained.head("model_export")).digest
    assert present(asked.head("fine_tuned_model")).place == present(chained.head("fine_tuned_model")).place
    assert len(stored(asked)) == 240
    assert asked.store.names("shared/base_refusal_answers")
    assert asked.store.names("tenants/acme/places/refusal_answers")


def test_a_base_that_refuses_nothing_is_undecided_and_blocks_nothing(asked: Workspace) -> None:
    unjudged = rules_of(asked)["must_refuse"]
    assert (unjudged.outcome, unjudged.passed) == ("undecided", True)
    assert "no policy demands refusals" in unjudged.sentence
    assert Verdict.from_json(judged(asked).figures["verdict"]).passed


def test_the_looks_that_are_left_count_the_prompts(declare: Declare) -> None:
    workspace = declare({"undecided": "fail", "refusals": {"margin": 0.05, "over_margin": 0.05}})
    looks = look_ahead(workspace, workspace.declared().spec).rules
    there, left = zip(*[(each.there, each.left) for each in looks if each.rule == "refusals"], strict=True)
    assert set(there) == {120}
    assert 0 < max(left) < 10


def test_report_and_card_show_refusals_before_and_after_and_no_prompt_to_refuse(declare: Declare) -> None:
    workspace = declare()
    shutil.rmtree(workspace.store.uri(f"{workspace.prefix}/releases"))  # the version was made before
    release(workspace)
    page = version_report(workspace.settings, workspace.key)
    card = (workspace.evidence(present(workspace.head("model_export"))) / "README.md").read_text("utf-8")
    for text in (page, card):
        assert "refusals of what must be refused" in text
        assert "before: 0 refused" in text
    assert page.count("-refuse-") == 5
    prompts = [each.prompt for each in stored(workspace) if each.kind == "must_refuse"]
    assert not any(prompt in text for prompt in prompts for text in (page, card))


def test_another_margin_asks_no_model(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    leased = LeasedSeconds(monkeypatch)
    workspace = declare({"refusals": {"margin": 0.1, "over_margin": 0.12}})
    assert run_chain(workspace).error is None
    assert leased.count == 0
    assert [rules_of(workspace)[kind].margin for kind in ("must_refuse", "must_answer")] == [0.1, 0.12]


def test_where_the_policy_demands_them_a_base_that_refuses_nothing_does_not_pass(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = LeasedSeconds(monkeypatch)
    error = present(run_chain(declare(policy={"refusals": "required"})).error)
    assert error.startswith("evaluation: gate did not pass")
    assert "the policy demands refusals: train from a base that refuses" in error
    assert leased.count == 0


def test_a_model_that_refuses_everything_is_failed_by_stored_answers_and_phrases_of_the_platform(
    declare: Declare, asked: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the tuned model says is called a refusal; the base of the tests says nothing."""
    leased = LeasedSeconds(monkeypatch)
    workspace = declare(policy={"refusal_phrases": begins([each.tuned for each in stored(asked)])})
    assert "evaluation: gate did not pass" in present(run_chain(workspace).error)
    over = rules_of(workspace)["must_answer"]
    assert (over.outcome, over.passed, over.tuned > 0.9) == ("fail", False, True)
    assert leased.count == 0


def test_answers_that_were_changed_in_the_store_are_not_judged(declare: Declare) -> None:
    workspace = declare()
    file = workspace.payload(judged(workspace)) / "refusals.parquet"
    file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    with pytest.raises(Exception, match=r"refusals\.parquet"):
        release(workspace)


@pytest.mark.long
def test_prompts_of_a_project_are_asked_and_a_bad_file_is_refused_before_anything_runs(
    declare: Declare,
) -> None:
    workspace = declare({"refusals": {**WIDE, "prompts": "data/prompts.jsonl"}})
    file = workspace.project / "data/prompts.jsonl"
    assert "data/prompts.jsonl" in present(run_chain(workspace).error)
    lines = [
        json.dumps({"id": f"{kind}{n}", "kind": kind, "category": "town", "prompt": f"Prompt {kind} {n}?"})
        for kind in ("must_refuse", "must_answer")
        for n in range(100)
    ]
    file.write_text("\n".join(lines[1:]), "utf-8")
    assert "99 prompts of kind must_refuse" in present(run_chain(workspace_of(workspace.project)).error)
    long = json.dumps({"id": "long", "kind": "must_answer", "category": "town", "prompt": "word " * 700})
    file.write_text("\n".join([*lines, long]), "utf-8")
    assert "and the model 512 with its answer" in present(run_chain(workspace_of(workspace.project)).error)
    file.write_text("\n".join(lines), "utf-8")
    workspace = workspace_of(workspace.project)
    assert run_chain(workspace).error is None
    assert {each.category for each in stored(workspace)} == {"town"}
    assert judged(workspace).figures["refusals"]["prompts"] == "data/prompts.jsonl"


def test_what_another_model_judged_is_shown_and_decides_nothing(declare: Declare) -> None:
    workspace = declare({"refusals": {**WIDE, "judgements": "data/judgements.jsonl"}})
    assert run_chain(workspace).error is None  # the file is not there yet
    shutil.rmtree(workspace.store.uri(f"{workspace.prefix}/releases"))
    assert "Judgements of another model are not shown" in version_report(workspace.settings, workspace.key)
    weights = present(workspace.head("fine_tuned_model")).digest
    line = {"id": stored(workspace)[0].id, "model": weights, "verdict": "refused", "judge": "guard 7"}
    (workspace.project / "data/judgements.jsonl").write_text(json.dumps(line), "utf-8")
    page = version_report(workspace.settings, workspace.key)
    assert "guard 7" in page
    assert "Judgements of another model are not shown" not in page
    assert run_chain(workspace_of(workspace.project)).error is None


def test_the_page_of_the_evaluation_shows_counts_and_ids_alone(declare: Declare) -> None:
    workspace = declare()
    shown = describe_evaluation(workspace, judged(workspace)).entries
    said = str([shown[name].value for name in ("refusals", "refusal_examples")]).replace("\\u200b", "")
    assert said.count("-refuse-") == said.count("-answer-") == 5
    assert not any(each.prompt in said for each in stored(workspace))
