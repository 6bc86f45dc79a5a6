"""What is said beside a plan of the version before."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.evaluation.tasks.texts import write_texts
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stages import evaluation_texts, training_plan
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.spectrum import Layer, advice, summary
from ft_dagster.versions.check import check_variant
from ft_dagster.versions.plan_warnings import idle_limit, rank_of_before, still_undecided
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace import past
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit
from tests.evaluation.questions import write_task
from tests.stored_figures import stored_training
from tests.verdicts import stored_rule

COLLAPSED = [Layer("q", 16, (1.0, *([1e-6] * 15)))]
ALIKE = [Layer("q", 16, (1.0,) * 16)]


def test_the_spectrum_of_the_version_before_is_said_of_the_next_plan_of_its_method() -> None:
    for layers, rank in ((COLLAPSED, 1), (ALIKE, 32)):
        said = advice(summary(layers))
        before = TrainingFigures.from_json(
            stored_training(method="lora", advice=["overfitting: less", *said])
        )
        (line,) = rank_of_before(before, "lora")
        assert line.startswith("of the version before: ")
        assert line.endswith((f"try rank {rank}", f"try {rank}"))
        assert rank_of_before(before, "full") == []


def test_what_would_decide_the_verdict_before_is_said_of_questions_and_of_texts() -> None:
    def said(limit: int | None, **rule: object) -> tuple[str, ...]:
        rules = [stored_rule(), stored_rule(outcome="undecided", passed=False, **rule)]
        return still_undecided(
            Verdict.from_json({"passed": False, "outcome": "undecided", "rules": rules}), limit
        )

    before = "as its newest evaluation measured, "
    assert said(400, needed=900) == (
        f"{before}about 900 questions would decide exam acc; evaluation.limit is 400",
    )
    assert said(1000, needed=900) == ()
    texts = {"rule": "general_loss", "metric": "general_loss", "questions": 26, "units": 13}
    assert said(1000, needed=46, **texts) == (
        f"{before}about 23 texts would decide exam general_loss; the corpus held out 13",
    )
    assert said(400, needed=10**7) == (
        f"{before}no number of questions that could be had would decide exam acc; "
        "allow a larger fall (gates)",
    )
    let_pass = stored_rule(outcome="undecided", needed=10**7)
    passed = Verdict.from_json({"passed": True, "outcome": "undecided", "rules": [let_pass]})
    assert still_undecided(passed, 400) == ()


def test_how_long_a_question_takes_is_known_from_the_tenants_other_variants_on_the_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = {
        "tenants/acme/a": None,
        "tenants/acme/damaged": None,
        "tenants/acme/b": 0.5,
    }

    def head(store: object, prefix: str, stage: str) -> Any:
        assert stage == "evaluation"
        if prefix.endswith("damaged"):
            raise UserError("another one by now", fix="Run it again")
        seconds = took[prefix]
        return (
            None if seconds is None else SimpleNamespace(figures={"seconds": 40 * seconds, "questions": 40})
        )

    monkeypatch.setattr(past, "read_head", head)
    keys = [VariantKey(*prefix.split("/")[1:]) for prefix in took]
    asked = past.Past(cast(Any, None), keys[0], Path(), Path())
    assert asked.seconds_per_question(keys) == 0.5
    assert asked.seconds_per_question(keys[:2]) is None
    many = [VariantKey("acme", f"v{number}") for number in range(past.VARIANTS_ASKED)]
    took |= {f"tenants/acme/{key.variant}": None for key in many}
    assert asked.seconds_per_question([*many, keys[2]]) is None
    took["tenants/acme/a"] = 2.0
    assert asked.seconds_per_question(keys) == 2.0


def test_what_a_plan_counts_beside_the_tasks_is_counted_where_the_time_of_a_question_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [{"rule": "task", "questions": 30}, {"rule": "general_loss", "questions": 200}]
    figures: dict[str, Any] = {"seconds": 400, "questions": 999, "verdict": {"rules": rules}}
    monkeypatch.setattr(past, "read_head", lambda *place: SimpleNamespace(figures=figures))
    key = VariantKey("acme", "a")
    asked = past.Past(cast(Any, None), key, Path(), Path())
    assert asked.seconds_per_question([key]) == pytest.approx(400 / 30)
    figures |= {"membership": {"trained_on": 50, "held_out": 20}, "platform_canaries": None}
    assert asked.seconds_per_question([key]) == 4.0
    figures |= {"platform_canaries": {"planted": 45, "references": 255}}
    assert asked.seconds_per_question([key]) == 1.0


@pytest.mark.slow
def test_a_kept_plan_whose_limit_would_not_act_is_not_trained_by(chained: Workspace) -> None:
    figures = chained.upstream("training_plan").figures
    training_plan.after(chained, chained.upstream("training_plan"))
    sharded = {
        **figures["training"],
        "watch": {**figures["training"]["watch"], "benchmark_limit": 0.05},
        "deepspeed": {**figures["training"]["deepspeed"], "stage": 3},
    }
    kept: Any = SimpleNamespace(figures={**figures, "training": sharded})
    with pytest.raises(UserError, match="no questions are asked") as caught:
        training_plan.after(chained, kept)
    assert caught.value.file == str(chained.declared_in)


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "least"), [(0.02, 183), (0.05, 72)])
def test_check_and_plan_say_how_many_texts_a_loss_takes(
    chained: Workspace, tmp_path: Path, tail: float, least: int
) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project", ignore=lambda *_: [".ft_dagster"])
    gates = {"loss_tail": tail, "general_loss_margin": 0.2}
    edit(project / "tenants/acme/places.yaml", lambda content: content["gates"].update(gates))
    settings = load_settings(project)
    summary = check_variant(settings, chained.key)["summary"]
    for what in ("general text", "the test split"):
        assert f"{what} is judged by its loss, of {least} texts or more" in summary
    said = [line for line in plan_variant(settings, chained.key).warnings if "judged by its loss" in line]
    assert [line.split(" is judged")[0] for line in said] == ["general text", "the test split"]
    rise = f"and from {least} on that {100 * tail:g}% or more rise by more (gates.loss_tail)"
    assert all(rise in line for line in said)
    assert not any(
        "judged by its loss" in line for line in plan_variant(chained.settings, chained.key).warnings
    )


def test_a_limit_that_its_questions_could_never_show_is_warned_of() -> None:
    def warned(questions: int, **training: Any) -> list[str]:
        watch = {"questions": questions, "benchmark_limit": 0.05}
        declared = {
            "description": "x",
            "owners": ["a@b.example"],
            "base_model": "base",
            "data": {"sources": ["rows.jsonl"]},
            "evaluation": {"general": ["arc_easy", "sciq"]},
            "training": {"watch": watch, **training},
        }
        return idle_limit(VariantSpec.model_validate(declared))

    (line,) = warned(3)
    assert "6 questions show no fall at 5% over 8 looks, and 8 are the least" in line
    assert (warned(4), warned(3, evaluations=2)) == ([], [])
    assert "over 16 looks, and 9 are the least" in warned(4, on_bad_rate="lower")[0]


def test_a_plan_says_how_the_examples_of_a_task_are_drawn(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = write_task(
        tmp_path, "same", num_fewshot=5, fewshot_split="test", fewshot_config={"sampler": "first_n"}
    )
    drawn = write_task(tmp_path, "drawn", num_fewshot=3, fewshot_split="test")
    without = write_task(tmp_path, "without")
    tasks = tasks_digest([each.name for each in (same, drawn, without)], tmp_path)
    request = TextsRequest(tasks=tasks, project=tmp_path, output=tmp_path)
    (tmp_path / "payload").mkdir()
    texts = SimpleNamespace(figures=write_texts(request))
    monkeypatch.setattr(evaluation_texts, "read_for", lambda workspace: texts)
    first, second = plan_variant(chained.settings, chained.key).few_shot
    assert first.startswith(
        "same has the same 5 examples before all questions (first_n): where base and method allow it "
        "they are computed once"
    )
    assert second.startswith(
        "drawn draws 3 examples anew for each question (lm-eval's default): nothing is shared"
    )
    assert second.endswith("about 4 times as long as without them")
