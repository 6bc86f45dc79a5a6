"""docs/method-choice.md prints figures of cost, storage, serving and questions: they are the code's."""

import re
from pathlib import Path

import pytest

from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.power import PairedTest
from ft_dagster.planning.cost.published_costs import beside_published
from ft_dagster.planning.cost.serving import serve_copies
from ft_dagster.planning.cost.training_cost import utilization_of
from ft_dagster.planning.methods import rules
from ft_dagster.planning.methods.question import Figures, Question, figures_of
from ft_dagster.spec.variant import EvaluationSpec
from tests.planning.llama import A100_80
from tests.planning.memory_formula import CATALOGUE, LLAMA_7B, LLAMA_13B, LLAMA_70B, Shape, candidate
from tests.present import present

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "method-choice.md").read_text("utf-8")
SHOWN = ("full", "lora", "qlora")
TOKENS = 512


def row(*cells: object) -> None:
    assert f"| {' | '.join(str(cell) for cell in cells)} |" in PAGE


def flops(method: str, shape: Shape) -> int:
    return (8 if method == "full" else 6) * shape.parameters


def figures(method: str, variants: int) -> Figures:
    hardware = CATALOGUE.gpus("8xA100-80GB")
    asked = Question("instruction", 50_000, 50_000 * TOKENS, LLAMA_7B.parameters, hardware, variants=variants)
    return figures_of(asked, candidate(method, LLAMA_7B, hardware))


@pytest.mark.parametrize(("billions", "shape"), [(7, LLAMA_7B), (13, LLAMA_13B), (70, LLAMA_70B)])
def test_counted_costs_stand_beside_the_repeated_ones(billions: int, shape: Shape) -> None:
    beside = [present(beside_published(name, shape.parameters, flops(name, shape), TOKENS)) for name in SHOWN]
    row(f"{billions}B, repeated", *(f"${one.published_usd[0]:,}-{one.published_usd[1]:,}" for one in beside))
    row(f"{billions}B, counted", *(f"${one.counted.usd:,.0f}" for one in beside))


def test_the_hidden_costs_are_the_plans() -> None:
    one, ten = ([figures(name, count) for name in SHOWN] for count in (1, 10))
    row("one variant released", *(f"{f.storage.gigabytes:.1f} GB" for f in one))
    row("ten variants released", *(f"{f.storage.gigabytes:.1f} GB" for f in ten))
    row("ten variants, a month at $0.023 a GB", *(f"${f.storage.gigabytes * 0.023:.2f}" for f in ten))
    kept = [f.storage.checkpoints_bytes / 6 for f in one]
    shown = [f"{b / 1e9:.1f} GB" if b > 1e9 else f"{b / 1e6:.0f} MB" for b in kept]
    row("a checkpoint to resume from exactly", *shown)
    gpus = [present(f.serving.gpus) for f in ten]
    row("serving ten variants", *(f"{count} GPU{'s' if count > 1 else ''}" for count in gpus))
    row("one training", *(f"${f.usd:.0f}" for f in one))
    tries = [present(present(f.experiments).usd) for f in one]
    row("10 to 20 trainings", *(f"${low:.0f}-{high:.0f}" for low, high in tries))


def test_the_default_utilizations_are_the_codes() -> None:
    for name in SHOWN:
        assert re.search(rf"\| `{name}`[^|]*\| {utilization_of(name).value:.2f} \|", PAGE)
    assert f"| `lora_8bit` | {utilization_of('lora_8bit').value:.2f} |" in PAGE


def test_the_questions_of_a_margin_are_the_formulas() -> None:
    level, margins = level_of(ALPHA), (0.01, 0.02, 0.03, 0.05, 0.10)
    row("questions", *(f"{PairedTest(alpha=level).questions_needed(margin):,}" for margin in margins))
    limit = present(EvaluationSpec().most)
    seen = 100 * PairedTest(alpha=level).margin_seen(limit)
    assert f"The default of {limit} questions shows {seen:.1f} points" in PAGE


def test_ten_70b_are_as_many_cards_as_the_page_says() -> None:
    assert serve_copies(2 * LLAMA_70B.parameters, 10, A100_80).gpus == 30


def test_every_rule_is_explained() -> None:
    for rule in rules.ORDER:
        assert f"`{rule.__name__}`" in PAGE


@pytest.mark.parametrize("wrong", ["14 bytes", "needs 80 GB", "preserves capabilities", "83.9M"])
def test_no_figure_that_does_not_hold_is_repeated(wrong: str) -> None:
    assert wrong not in PAGE
