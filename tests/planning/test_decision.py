"""Whole decisions as a table, by dry run; what the rules say of given figures, by memory_formula.py."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.estimate import RankedRow
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.methods.decision import Decision, decide
from ft_dagster.planning.recommend import RecommendationRequest, recommend_method
from tests.long import mostly_long
from tests.planning.decisions import ALL, CASES, CPU, KNOWLEDGE, LORA_LIKE, Case, decided, rule
from tests.planning.memory_formula import (
    CATALOGUE,
    LLAMA_7B,
    LLAMA_8B,
    LLAMA_13B,
    LLAMA_70B,
    SMOL,
    Shape,
    candidates,
    question,
)
from tests.present import present

SHIPPED = {
    LLAMA_7B: "Llama-2-7B", LLAMA_8B: "Llama-3-8B", LLAMA_13B: "Llama-2-13B", LLAMA_70B: "Llama-3-70B"
}  # fmt: skip


def surveyed(shape: Shape, gpus: str | Hardware, folder: Path, **more: Any) -> Decision:
    """Decided by dry run of the real architecture: rows of 512 tokens, one at a time."""
    kept = more.pop("general_matters", False) or more.get("objective") != "task_specific"
    given = {"examples": 50_000, **more, "general_share": 0.08 if kept else 0}
    model = SHIPPED.get(shape) or str(configured(shape, folder))
    asked = RecommendationRequest(model=model, max_length=512, micro_batch=1, **given)
    return recommend_method(asked, CATALOGUE.gpus(gpus) if isinstance(gpus, str) else gpus).decision


def configured(shape: Shape, folder: Path) -> Path:
    """A config.json of that shape: heads of 64."""
    sizes = {
        "model_type": "llama", "hidden_size": shape.hidden, "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.hidden // 64,
        "num_key_value_heads": shape.key_value // 64, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes), "utf-8")
    return folder


def warned(decision: Decision, method: str, text: str) -> bool:
    return any(text in line for line in decision.row(method).warnings)


assert len(CASES) >= 14


@pytest.mark.slow
@pytest.mark.parametrize("case", mostly_long(CASES, every=4), ids=[case.name for case in CASES])
def test_a_decision_and_its_reasons(case: Case, tmp_path: Path) -> None:
    decision = surveyed(case.shape, case.gpus, tmp_path, **case.asked)
    assert decision.method == decision.recommended == case.method
    assert {row.method for row in decision.ranking if row.fits} == case.fits
    for method, name, verdict, outvoted_by, words in case.reasons:
        said = rule(decision, method, name)
        assert words in said.sentence
        assert (said.verdict, said.outvoted_by) == (verdict, outvoted_by), said


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_method_is_ranked_with_every_figure(case: Case) -> None:
    shown = [RankedRow.of(row) for row in decided(case.shape, case.gpus, **case.asked).ranking]
    assert {row.method for row in shown} == ALL
    names = {tuple(rule.rule for rule in row.rules) for row in shown}
    assert len(names) == 1  # the same rules are put to each
    for row in shown:
        assert set(asdict(row)) == {
            "method", "fits", "gpus_needed", "memory_gb_per_gpu", "hours", "cost_usd", "storage_gb",
            "serving_gpus", "days_to_candidate", "warnings", "rules",
        }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_fits_ranks_above_what_does_not(case: Case) -> None:
    fits = [row.fits for row in decided(case.shape, case.gpus, **case.asked).ranking]
    assert fits == sorted(fits, reverse=True)


def test_knowledge_by_an_adapter_is_warned_of_first_and_loud() -> None:
    decision = decided(LLAMA_7B, "A100-80GB", **KNOWLEDGE)
    assert decision.row("lora").warnings[0].startswith("NEW KNOWLEDGE BY LORA: style is learned")
    assert not warned(decision, "full", "NEW KNOWLEDGE")


def test_a_tight_fit_is_said_with_what_is_left() -> None:
    decision = decided(LLAMA_70B, "A100-80GB")
    assert warned(decision, "lora_8bit", "tight: 82.5 of 85.9 GB leaves 3.4 GB")
    assert not warned(decision, "qlora", "tight")


def test_between_one_and_ten_million_a_bake_off_is_named() -> None:
    decision = decided(LLAMA_8B, "8xH100", examples=3_000_000)
    assert decision.bake_off
    assert "ft-dagster bakeoff" in decision.notes[0]
    assert not decided(LLAMA_8B, "8xH100", examples=900_000).bake_off


def test_a_declared_method_is_obeyed_and_the_difference_said() -> None:
    decision = decided(LLAMA_8B, "8xH100", method="full")
    assert (decision.method, decision.recommended, decision.fits) == ("full", "lora", True)
    assert "full is declared and obeyed; lora ranks first by usual" in decision.notes[0]
    assert "GB against" in decision.notes[0]
    assert " to train and judge" in decision.notes[0]


def test_a_declared_method_that_ranks_first_is_no_difference() -> None:
    decision = decided(LLAMA_8B, "8xH100", method="lora")
    assert not any("obeyed" in note for note in decision.notes)


def test_a_declared_method_that_does_not_fit_is_not_recommended() -> None:
    decision = decided(LLAMA_70B, "A100-80GB", method="full")
    assert (decision.method, decision.recommended, decision.fits) == ("full", "qlora", False)


def test_where_nothing_fits_what_needs_least_is_named() -> None:
    decision = decided(LLAMA_70B, "T4")
    assert decision.notes[0].startswith("nothing fits 1 x T4 of 16.1 GB: qlora needs least, 45.2 GB")


def test_one_training_within_the_budget_says_what_the_tries_before_it_cost() -> None:
    decision = decided(LLAMA_13B, "2xA100-80GB", examples=200_000, budget_usd=1000)
    assert warned(decision, "lora", "the 10 to 20 before a production candidate cost $970 to $1,940")


def test_a_limit_that_the_recommended_one_breaks_names_who_keeps_it() -> None:
    asked = {**KNOWLEDGE, "examples": 500_000, "budget_usd": 85}
    (note,) = [
        line for line in decided(LLAMA_13B, "8xA100-80GB", **asked).notes if "beyond the budget" in line
    ]
    assert "within it: lora" in note


def test_a_limit_that_all_break_says_so() -> None:
    notes = decided(LLAMA_8B, "8xH100", budget_usd=0.01).notes
    assert any("so is every method that fits" in note for note in notes)


def test_a_card_without_bf16_is_warned_of() -> None:
    assert warned(decided(LLAMA_7B, "2xV100-32GB"), "lora", "V100-32GB has no bf16 arithmetic")


def test_a_learned_utilization_changes_the_hours() -> None:
    slow = present(decided(LLAMA_8B, "A100-80GB").row("lora").figures.hours)
    quick = decided(LLAMA_8B, "A100-80GB", learned_utilization={"lora": 0.6}).row("lora").figures.hours
    assert quick == pytest.approx(slow / 2)


def test_judging_is_part_of_the_cost() -> None:
    without, judged = (
        present(decided(LLAMA_8B, "A100-80GB", questions=count).row("lora").figures.usd)
        for count in (0, 2000)
    )
    assert judged > without


BAD = [
    ({"budget_usd": -1}, "budget"),
    ({"budget_usd": 0}, "budget"),
    ({"budget_usd": float("nan")}, "budget"),
    ({"deadline_hours": -2}, "deadline"),
    ({"examples": 0}, "examples"),
    ({"tokens": 0}, "tokens"),
    ({"variants": 0}, "variants"),
    ({"new_tokens": -1}, "new_tokens"),
    ({"objective": "poetry"}, "objective"),
    ({"method": "houlsby"}, "method"),
]


@pytest.mark.parametrize(("asked", "field"), BAD)
def test_what_has_no_answer_is_refused(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as error:
        question(LLAMA_8B, "A100-80GB", **asked)
    assert error.value.field == field
    assert error.value.fix


def test_a_model_of_no_size_is_refused() -> None:
    with pytest.raises(UserError, match="parameters"):
        replace(question(LLAMA_8B, "A100-80GB"), parameters=0)


@pytest.mark.parametrize("gpus", ["0xA100-80GB", "2xA100-60GB", "-1xH100"])
def test_gpus_that_cannot_be_are_refused(gpus: str) -> None:
    with pytest.raises(UserError) as error:
        CATALOGUE.gpus(gpus)
    assert error.value.field == "gpus"


def test_a_declared_method_without_figures_is_refused() -> None:
    asked = question(LLAMA_8B, "A100-80GB", method="full")
    with pytest.raises(UserError, match="not planned"):
        decide(asked, [one for one in candidates(LLAMA_8B, asked.hardware) if one.method != "full"])


def test_figures_that_contradict_themselves_are_a_mistake_of_the_program() -> None:
    asked = question(LLAMA_70B, "A100-80GB")
    wrong = [replace(one, fits=True) for one in candidates(LLAMA_70B, asked.hardware)]
    with pytest.raises(ValueError, match="said to fit"):
        decide(asked, wrong)


def test_a_wish_for_adapters_outvotes_a_narrow_task() -> None:
    decision = decided(LLAMA_8B, "8xH100", objective="task_specific", serving="adapters")
    assert decision.method == "lora"
    assert (
        "export: adapter asks for one base with adapters; full is 1 copy"
        in rule(decision, "full", "serving").sentence
    )
    assert rule(decision, "full", "narrow_task").outvoted_by == "serving"


def test_the_number_of_variants_outvotes_the_budget() -> None:
    """Where adapters were measured slow, only full is within; five variants still share one base."""
    slow = dict.fromkeys(LORA_LIKE, 0.1)
    asked = {"objective": "task_specific", "examples": 400_000, "learned_utilization": slow}
    usd = present(decided(LLAMA_8B, "8xH100", **asked).row("full").figures.usd)
    decision = decided(LLAMA_8B, "8xH100", **asked, variants=5, budget_usd=1.01 * usd)
    assert decision.method == "lora"
    assert rule(decision, "full", "budget").outvoted_by == "variants"
    assert any("lora is beyond the budget" in note and "within it: full" in note for note in decision.notes)


def test_adapters_on_a_cpu_are_told_what_one_copy_of_their_base_saves() -> None:
    shared = "3 variants on this base: those that train at once hold its 0.3 GB once, 0.3 GB less for each"
    for variants, method, told in ((3, "lora", True), (1, "lora", False), (3, "full", False)):
        decision = decided(SMOL, CPU, variants=variants, method=method)
        assert any(shared in note for note in decision.notes) == told


def test_of_equal_methods_the_one_within_the_budget_is_taken() -> None:
    """Lora measured slow, qlora not: two of qlora's epochs keep within what not one of lora's does."""
    asked = {"examples": 400_000, "variants": 5, "learned_utilization": {"lora": 0.1}, "budget_usd": 50}
    decision = decided(LLAMA_8B, "8xH100", **asked)
    assert decision.method == "qlora"
    assert rule(decision, "lora", "usual").outvoted_by == "budget"


def test_adapters_are_served_on_the_base_they_were_trained_on() -> None:
    decision = decided(LLAMA_70B, "A100-80GB", variants=10)
    gpus = {row.method: RankedRow.of(row).serving_gpus for row in decision.ranking}
    assert (gpus["full"], gpus["lora"], gpus["qlora"]) == (30, 3, 1)


def test_lora_is_said_to_match_full_while_it_has_a_parameter_for_each_trained_token() -> None:
    def said(trained_tokens: int | None) -> str:
        decision = decided(LLAMA_8B, "8xH100", trained_tokens=trained_tokens)
        (rule,) = (rule for rule in decision.row("lora").rules if rule.rule == "dataset_size")
        return rule.sentence

    assert said(None) == said(10**6) == "50,000 examples, below 1M: lora matches full"
    assert said(10**8).endswith("for each trained token, and it has 41,943,040 for 100,000,000")
