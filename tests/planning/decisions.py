"""Decisions by the rule of thumb, and the cases that they are held to."""

from __future__ import annotations

from typing import Any, NamedTuple

from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.methods.decision import Decision, MethodRule, decide
from tests.planning.llama import METHODS
from tests.planning.memory_formula import (
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

CPU = Hardware("cpu", 1, "CPU with 2 cores", memory_bytes=8_000_000_000)


UNLISTED = Hardware("gpu", 2, "an unlisted GPU", memory_bytes=48_000_000_000)


def decided(shape: Shape, gpus: str | Hardware, **more: Any) -> Decision:
    asked = question(shape, gpus, **more)
    return decide(asked, candidates(shape, asked.hardware))


def rule(decision: Decision, method: str, name: str) -> MethodRule:
    """What rule `name` said of `method`; the test fails where it does not apply."""
    return present(next((rule for rule in decision.row(method).rules if rule.rule == name), None))


class Case(NamedTuple):
    name: str
    shape: Shape
    gpus: str | Hardware
    asked: dict[str, Any]
    method: str | None
    fits: set[str]
    reasons: list[tuple[str, str, str, str | None, str]]  # method, rule, verdict, outvoted by, words


LORA_LIKE = {"lora", "qlora", "lora_8bit"}


ADAPTERS = LORA_LIKE | {"prompt_tuning", "prefix_tuning"}


ALL = set(METHODS)


KNOWLEDGE = {"objective": "domain_knowledge"}


CASES = [
    Case(
        "13B, 2 A100, 200k, instruction, 5 variants, $1000",
        LLAMA_13B, "2xA100-80GB", {"examples": 200_000, "variants": 5, "budget_usd": 1000}, "lora", ADAPTERS,
        [
            ("lora", "objective", "for", None, "behaviour and format"),
            ("lora", "dataset_size", "for", None, "200,000 examples, below 1M: lora matches full"),
            ("lora", "variants", "for", None, "served as one base of 26.0 GB with 5 adapters"),
            ("lora", "budget", "for", None, "within the budget of $1,000.00"),
            ("full", "fits", "against", None, "120.4 GB on each device (micro-batch 1 of 512 tokens, "),
            ("full", "variants", "against", None, "130.2 GB stored; served as 5 copies"),
        ],
    ),
    Case(
        "70B and one A100 80",
        LLAMA_70B, "A100-80GB", {}, "qlora", {"qlora"},
        [
            ("full", "fits", "against", None, "1,163.2 GB on the one device"),
            ("lora", "fits", "against", None, "148.7 GB on the one device"),
            ("lora", "usual", "for", "fits", "usual choice"),
            ("lora_8bit", "fits", "against", None, "92.1 GB on the one device"),
            ("qlora", "fits", "for", None, "63.3 GB on the one device"),
        ],
    ),
    Case(
        "facts, and full fits",
        LLAMA_7B, "8xA100-80GB", KNOWLEDGE, "full", ALL,
        [
            ("full", "objective", "for", None, "facts are said to need all weights"),
            ("lora", "objective", "against", None, "the style of a text and not its facts"),
            ("lora", "usual", "for", "objective", "usual choice"),
        ],
    ),
    Case(
        "facts, and full does not fit",
        LLAMA_7B, "A100-80GB", KNOWLEDGE, "lora", ADAPTERS,
        [
            ("full", "objective", "for", "fits", "facts are said to need all weights"),
            ("full", "fits", "against", None, "2 of them would hold it"),
            ("lora", "objective", "against", "fits", "not its facts"),
        ],
    ),
    Case(
        "facts for ten variants",
        LLAMA_7B, "8xA100-80GB", {**KNOWLEDGE, "variants": 10}, "full", ALL,
        [
            ("full", "variants", "against", "objective", "10 variants on this base: 134.8 GB"),
            ("lora", "variants", "for", "objective", "19.9 GB stored"),
        ],
    ),
    Case(
        "facts beyond the budget",
        LLAMA_13B, "8xA100-80GB", {**KNOWLEDGE, "examples": 500_000, "budget_usd": 70.5}, "full", ALL,
        [
            ("full", "budget", "against", "objective", "of $70.50, and one epoch is beyond it too"),
            ("lora", "budget", "for", "objective", "within the budget of $70.50"),
        ],
    ),
    Case(
        "one variant, everything fits",
        LLAMA_8B, "8xH100", {}, "lora", ALL,
        [
            ("lora", "usual", "for", None, "usual choice"),
            ("full", "objective", "neither", None, "full can teach"),
        ],
    ),
    Case(
        "one narrow task, nothing else matters",
        LLAMA_8B, "8xH100", {"objective": "task_specific"}, "full", ALL,
        [
            ("full", "narrow_task", "for", None, "nobody asks for general ability"),
            ("lora", "usual", "for", "narrow_task", "usual choice"),
        ],
    ),
    Case(
        "one narrow task whose model must stay general",
        LLAMA_8B, "8xH100", {"objective": "task_specific", "general_matters": True}, "lora", ALL,
        [("full", "narrow_task", "neither", None, "general ability is to be kept")],
    ),
    Case(
        "one narrow task on a small base that must stay general",
        SMOL, CPU, {"objective": "task_specific", "general_matters": True}, "full", ALL,
        [
            ("full", "narrow_task", "for", None, "a size at which full was measured to forget less"),
            ("lora", "usual", "for", "narrow_task", "usual choice"),
        ],
    ),
    Case(
        "a narrow task for twelve tenants",
        LLAMA_8B, "8xH100", {"objective": "task_specific", "variants": 12}, "lora", ALL,
        [
            ("full", "narrow_task", "for", "variants", "bends all weights"),
            ("full", "variants", "against", None, "12 copies"),
        ],
    ),
    Case(
        "twenty million examples",
        LLAMA_8B, "8xH100", {"examples": 20_000_000}, "full", ALL,
        [
            ("full", "dataset_size", "for", None, "more than 10M"),
            ("lora", "dataset_size", "against", None, "falls behind full"),
        ],
    ),
    Case(
        "three million examples",
        LLAMA_8B, "8xH100", {"examples": 3_000_000}, "lora", ALL,
        [
            ("lora", "dataset_size", "neither", None, "undetermined"),
            ("full", "dataset_size", "neither", None, "a bake-off decides"),
        ],
    ),
    Case(
        "new tokens for an assistant",
        LLAMA_8B, "2xA100-80GB", {"new_tokens": 12}, "lora", ALL,
        [
            ("lora", "new_tokens", "for", None, "12 new tokens: their rows are trained beside the adapter"),
            ("full", "new_tokens", "neither", None, "and so does lora"),
            ("prompt_tuning", "new_tokens", "against", None, "cannot train their rows"),
        ],
    ),
    Case(
        "13B on two 24 GB cards",
        LLAMA_13B, "2xRTX4090", {}, "lora", {"lora", "qlora", "lora_8bit"},
        [
            ("lora", "fits", "for", None, "ZeRO-3 over 2"),
            ("prefix_tuning", "fits", "against", None, "no number of them holds it"),
        ],
    ),
    Case(
        "13B on one 24 GB card",
        LLAMA_13B, "RTX4090", {}, "qlora", {"qlora", "lora_8bit"},
        [("lora", "fits", "against", None, "28.7 GB on the one device")],
    ),
    Case(
        "whole models are to be served",
        LLAMA_8B, "8xH100", {"serving": "copies", "variants": 3}, "lora", ALL,
        [
            ("lora", "serving", "for", None, "export: merged asks for whole models: 3 copies"),
            ("prefix_tuning", "serving", "against", None, "cannot be merged"),
        ],
    ),
    Case(
        "a narrow task with a deadline that full cannot keep",
        LLAMA_8B, "8xH100", {"objective": "task_specific", "examples": 400_000, "deadline_hours": 0.441},
        "lora", ALL,
        [
            ("full", "deadline", "against", None, "of 26m 28s, and one epoch is beyond it too"),
            ("lora", "deadline", "against", None, "1 of its 3 epochs keep within it"),
            ("full", "narrow_task", "for", "deadline", "bends all weights"),
        ],
    ),
    Case(
        "70B on eight cards of 24 GB",
        LLAMA_70B, "8xRTX3090", {}, "lora", {"lora"},
        [
            ("lora", "fits", "for", None, "ZeRO-3 over 8"),
            ("qlora", "fits", "against", None, "no number of them holds it"),
            ("lora_8bit", "fits", "against", None, "no number of them holds it"),
        ],
    ),
    Case(
        "nothing fits",
        LLAMA_70B, "T4", {}, None, set(),
        [("qlora", "fits", "against", None, "does not fit; no number of them holds it")],
    ),
    Case(
        "a small model on two cores, with a budget that cannot be compared",
        SMOL, CPU, {"examples": 500, "budget_usd": 10}, "lora", ALL,
        [("lora", "budget", "neither", None, "unknown peak (CPU with 2 cores)")],
    ),
    Case(
        "memory and count of a GPU nobody listed",
        LLAMA_8B, UNLISTED, {}, "lora", ADAPTERS,
        [("full", "fits", "against", None, "of 48.0 GB")],
    ),
]  # fmt: skip
