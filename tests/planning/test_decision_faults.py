"""The folk version of this decision, fault by fault. Memory: memory_formula.py, not the dry run."""

import pytest

from ft_dagster.planning.methods.question import fewest_gpus
from tests.planning.decisions import CASES, Case, decided, rule
from tests.planning.llama import A100_80
from tests.planning.memory_formula import (
    CATALOGUE,
    LLAMA_7B,
    LLAMA_8B,
    LLAMA_13B,
    LLAMA_70B,
    bytes_on,
    candidate,
)
from tests.present import present

KNOWLEDGE = {"objective": "domain_knowledge"}


def test_hardware_is_not_overridden_once_it_has_spoken() -> None:
    for more in ({"variants": 50}, {"budget_usd": 1e9}, {"serving": "copies"}, {"examples": 20_000_000}):
        decision = decided(LLAMA_7B, "A100-80GB", **KNOWLEDGE, **more)
        assert decision.method == "lora"
        assert not decision.row("full").fits


def test_the_budget_is_used() -> None:
    """qlora on quantized weights is slower, so at a budget between the two only lora is within it."""
    asked = {"examples": 200_000, "variants": 5}
    usd = {
        name: present(decided(LLAMA_13B, "2xA100-80GB", **asked).row(name).figures.usd)
        for name in ("lora", "qlora")
    }
    between = decided(LLAMA_13B, "2xA100-80GB", **asked, budget_usd=sum(usd.values()) / 2)
    assert rule(between, "lora", "budget").verdict == "for"
    assert rule(between, "qlora", "budget").verdict == "against"
    assert any("beyond the limits: $" in line for line in between.row("qlora").warnings)


def test_the_computed_hours_are_used() -> None:
    asked = {"examples": 400_000, "objective": "task_specific"}
    free = decided(LLAMA_8B, "8xH100", **asked)
    assert free.method == "full"
    figures = {name: free.row(name).figures for name in ("lora", "full")}
    epoch = {name: present(found.hours) / found.epochs for name, found in figures.items()}
    assert decided(LLAMA_8B, "8xH100", **asked, deadline_hours=sum(epoch.values()) / 2).method == "lora"


def test_no_method_wins_a_limit_by_its_usual_number_of_epochs_alone() -> None:
    """Full's two epochs are quicker than lora's three; two of lora's are quicker still."""
    asked = {"examples": 400_000}
    free = decided(LLAMA_8B, "8xH100", **asked)
    hours = [present(free.row(name).figures.hours) for name in ("full", "lora")]
    assert hours[0] < hours[1]
    limited = decided(LLAMA_8B, "8xH100", **asked, deadline_hours=sum(hours) / 2)
    assert limited.method == "lora"
    assert "2.6 of its 3 epochs keep within it" in rule(limited, "lora", "deadline").sentence


def test_full_does_not_fall_straight_to_qlora() -> None:
    assert decided(LLAMA_7B, "A100-80GB", **KNOWLEDGE).method == "lora"
    assert decided(LLAMA_70B, "2xA100-80GB", **KNOWLEDGE).method == "lora"
    assert decided(LLAMA_70B, "A100-80GB", **KNOWLEDGE).method == "qlora"


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_data_parallel_copies_are_not_counted_as_sharding(count: int) -> None:
    hardware = CATALOGUE.gpus(f"{count}xA100-40GB")
    copies = candidate("lora_8bit", LLAMA_70B, hardware)
    assert copies.memory_bytes == bytes_on("lora_8bit", LLAMA_70B, 1, sharded=False)
    assert (copies.fits, copies.gpus_needed) == (False, None)


def test_no_gpu_too_many_is_asked_for() -> None:
    assert fewest_gpus(lambda n: 4 * A100_80 // n, A100_80) == 4  # what fills four exactly needs no fifth
    assert fewest_gpus(lambda n: (4 * A100_80 + 1) // n + 1, A100_80) == 5
    assert fewest_gpus(lambda n: A100_80, A100_80) == 1


def test_the_fewest_gpus_hold_it_and_one_less_does_not() -> None:
    hardware = CATALOGUE.gpus("A100-80GB")
    for method in ("full", "lora"):
        needed = present(candidate(method, LLAMA_70B, hardware).gpus_needed)
        assert bytes_on(method, LLAMA_70B, needed, sharded=True) <= A100_80
        assert bytes_on(method, LLAMA_70B, needed - 1, sharded=True) > A100_80


@pytest.mark.parametrize("declared", [None, "full", "lora"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_nothing_that_does_not_fit_is_ever_recommended(case: Case, declared: str | None) -> None:
    decision = decided(case.shape, case.gpus, **case.asked, method=declared)
    assert decision.recommended is None or decision.row(decision.recommended).fits
    assert decision.method == (declared or decision.recommended)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_rule_that_lost_says_to_which(case: Case) -> None:
    """A rule that liked a method better than the first one was outvoted by an earlier rule."""
    decision = decided(case.shape, case.gpus, **case.asked)
    names = [said.rule for said in decision.ranking[0].rules]
    for row in decision.ranking:
        for said in row.rules:
            if said.outvoted_by:
                assert names.index(said.outvoted_by) < names.index(said.rule)
