"""What another variant's probe found, in the plan of one that tries nothing. Nothing is trained here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.prior import Prior, leaves_open
from ft_dagster.planning.survey import PlanContext
from ft_dagster.planning.trials import ProbeResult
from ft_dagster.report.recommendation import reasons_lines
from tests.planning.llama import SMALL_LLAMA, spec

PRIOR = Prior("acme.other", "d" * 64, "full", 6e-5, "tried for 40 steps: full at 6e-05 1.000 on 32 examples")
FIRST_SCHEMA = """{"schema_version": 1, "variant": "acme.other", "probe": "d0d0", "method": "full",
"learning_rate": 6e-05, "sentence": "tried for 40 steps"}"""
LORA = replace(PRIOR, method="lora", learning_rate=2e-3)
MERGED = {"export": "merged"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PlanContext:
    folder = tmp_path_factory.mktemp("small")
    (folder / "config.json").write_text(json.dumps(SMALL_LLAMA))
    return PlanContext(folder, Hardware("cpu", 1, "CPU", 8 * 10**9, 1e12, True, 0.1))


@pytest.fixture(scope="module")
def known(small: PlanContext) -> Facts:
    return facts(
        shapes_of_configuration(small.architecture / "config.json"),
        examples=4000, tokens=200_000, max_length=256, device_kind="cpu", ranks=1,
        device_memory=8 * 10**9, bf16=True,
    )  # fmt: skip


def reasons_of(made: PlanAndEstimate) -> dict[str, tuple[Any, str, str]]:
    rows = made.estimate.plan.reasons
    return {row.field: (row.value, row.origin, row.reason) for row in rows}


def test_there_is_something_to_take_where_method_or_rate_is_open() -> None:
    assert leaves_open(spec())
    assert leaves_open(spec(method="lora"))
    assert leaves_open(spec(training={"learning_rate": 1e-4}))
    assert not leaves_open(spec(method="lora", training={"learning_rate": 1e-4}))
    assert not leaves_open(spec(method={"rank": 8}, training={"learning_rate": 1e-4}))


def test_one_of_the_first_schema_is_read() -> None:
    stored = json.loads(FIRST_SCHEMA)
    assert Prior.from_json(stored).to_json() == stored


def test_one_of_a_newer_version_is_refused_and_its_own_read() -> None:
    assert Prior.from_json(json.loads(json.dumps(PRIOR.to_json()))) == PRIOR
    assert "method_tried" not in PRIOR.to_json()  # as version 1 has it
    for part in (replace(PRIOR, learning_rate=None), replace(PRIOR, method_tried=False)):
        assert Prior.from_json(json.loads(json.dumps(part.to_json()))) == part
    with pytest.raises(UserError, match="newer"):
        Prior.from_json({**PRIOR.to_json(), "schema_version": 99})


@pytest.mark.slow
def test_method_and_rate_are_taken_with_where_they_were_measured(small: PlanContext, known: Facts) -> None:
    made = make_plan(spec(**MERGED), known, small, prior=PRIOR)
    assert (made.content.method.name, made.content.training.learning_rate) == ("full", 6e-5)
    said = f"acme.other, on this base for this objective: {PRIOR.sentence}"
    assert reasons_of(made)["method.name"] == ("full", "prior", said)
    assert reasons_of(made)["training.learning_rate"] == (6e-5, "prior", said)
    assert not [line for line in (*made.estimate.warnings, *made.estimate.notes) if "obeyed" in line]
    assert not [line for line in reasons_lines(made.estimate) if "obeyed" in line]
    declared = make_plan(spec(method="full", **MERGED), known, small)
    assert [line for line in declared.estimate.notes if "full is declared and obeyed" in line]


@pytest.mark.slow
def test_a_declared_value_stands(small: PlanContext, known: Facts) -> None:
    rated = make_plan(spec(training={"learning_rate": 1e-4}, **MERGED), known, small, prior=PRIOR)
    assert (rated.content.method.name, rated.content.training.learning_rate) == ("full", 1e-4)
    named = make_plan(spec(method="qlora"), known, small, prior=LORA)
    assert (named.content.method.name, named.content.training.learning_rate) == ("qlora", 2e-3)
    assert reasons_of(named)["method.name"][1] == "declaration"
    settings = make_plan(spec(method={"rank": 8}), known, small, prior=LORA)
    assert (settings.content.method.name, settings.content.training.learning_rate) == ("lora", 2e-3)
    assert "settings of LoRA" in reasons_of(settings)["method.name"][2]


@pytest.mark.slow
def test_a_method_without_a_rate_is_taken_at_its_own_usual_rate(small: PlanContext, known: Facts) -> None:
    made = make_plan(spec(**MERGED), known, small, prior=replace(PRIOR, learning_rate=None))
    usual = make_plan(spec(method="full", **MERGED), known, small)
    assert (made.content.method, made.content.training) == (usual.content.method, usual.content.training)
    reasons = reasons_of(made)
    assert (reasons["method.name"][1], reasons["training.learning_rate"][1]) == ("prior", "built-in")


@pytest.mark.slow
def test_a_rate_without_a_method_is_taken_where_that_family_is_chosen_anyway(
    small: PlanContext, known: Facts
) -> None:
    rated = make_plan(spec(), known, small, prior=replace(LORA, method="qlora", method_tried=False))
    plain = make_plan(spec(), known, small)
    assert (rated.content.method, rated.content.training.learning_rate) == (plain.content.method, 2e-3)
    reasons, without = reasons_of(rated), reasons_of(plain)
    assert (reasons["method.name"], reasons["training.learning_rate"][1]) == (without["method.name"], "prior")
    other = make_plan(spec(), known, small, prior=replace(PRIOR, method_tried=False))
    assert other.content == plain.content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("declared", "prior"),
    [
        ({"method": "lora"}, replace(LORA, learning_rate=None)),
        ({"method": "prompt_tuning"}, LORA),  # its rates are no LoRA's
        ({}, PRIOR),  # which has no adapter to export
        ({"method": "lora", "training": {"learning_rate": 1e-4}}, LORA),
    ],
)
def test_what_cannot_be_had_is_left(
    small: PlanContext, known: Facts, declared: dict[str, Any], prior: Prior
) -> None:
    made, without = (make_plan(spec(**declared), known, small, prior=each) for each in (prior, None))
    assert made.content == without.content
    assert made.estimate == without.estimate


@pytest.mark.slow
def test_what_does_not_fit_is_left(small: PlanContext, known: Facts, tmp_path: Path) -> None:
    tight = replace(known, device_memory=10**8)
    context = replace(small, hardware=replace(small.hardware, memory_bytes=10**8))
    without = make_plan(spec(**MERGED), tight, context)
    assert not without.estimate.ranking[[r.method for r in without.estimate.ranking].index("full")].fits
    assert make_plan(spec(**MERGED), tight, context, prior=PRIOR).content == without.content


@pytest.mark.slow
def test_what_was_tried_here_comes_first_and_a_probe_that_tried_nothing_says_what_is_taken(
    small: PlanContext, known: Facts
) -> None:
    asked = spec(plan={"probe": "on"}, **MERGED)
    own = make_plan(asked, known, small, ProbeResult("lora", 6e-4, "tried here"), PRIOR)
    assert reasons_of(own)["training.learning_rate"] == (6e-4, "measured", "tried here")
    nothing = make_plan(asked, known, small, ProbeResult(None, None, "nothing is tried: why"), PRIOR)
    assert nothing.content.training.learning_rate == 6e-5
    assert "probe: nothing is tried: why; what acme.other found is taken" in nothing.estimate.warnings
