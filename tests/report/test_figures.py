"""Figures as text, markdown tables, and the terminal's table of variants."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.figures import (
    SIZES,
    TIMES,
    breakable,
    cell,
    change,
    count,
    duration,
    in_one_unit,
    percent,
    points,
    release_table,
    size,
)
from ft_dagster.report.tables.variant_row import VariantRow
from ft_dagster.strict_json import dumps
from tests.verdicts import stored_rule

RULES = [
    stored_rule(rule="task", metric="answer_loss", base=4.66, tuned=1.42),
    stored_rule(rule="general_benchmark", metric="acc", base=0.5, tuned=0.48),
    stored_rule(rule="general_benchmark", metric="acc", base=0.8, tuned=0.82),
    stored_rule(rule="general_loss", metric="token_loss", base=3.41, tuned=3.44),
]


def judged(rules: list[dict[str, Any]], passed: bool = True, outcome: str | None = None) -> Verdict:
    said = {} if outcome is None else {"outcome": outcome}
    return Verdict.from_json({"passed": passed, "rules": rules, **said})


ROW = VariantRow(
    variant="hospital.icd10-coder",
    method="lora",
    rows_kept=3201,
    rows_dropped=45,
    general_share=0.0799,
    trained_tokens=45678,
    verdict=judged(RULES),
    export="adapter",
    size_bytes=19_600_000,
    digest="0123456789abcdef" * 4,
    version=2,
)


def printed(rows: list[VariantRow], width: int) -> str:
    console = Console(width=width, record=True, file=None, no_color=True)
    with console.capture() as capture:
        console.print(release_table(rows))
    return capture.get()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1234567), "1,234,567"),
        (size(999), "999 B"),
        (size(1_234_000_000), "1.2 GB"),
        (size(999_960), "1.0 MB"),
        (size(2.5e13), "25.0 TB"),
        (duration(4.2), "4.2s"),
        (duration(59.97), "1m 00s"),
        (duration(200), "3m 20s"),
        (duration(7500), "2h 05m"),
        (percent(0.0799), "8.0%"),
        (points(0.032), "+3.2 points"),
        (points(-0.05), "-5.0 points"),
        (change("acc", 0.41, 0.55), "41.0% → 55.0%"),
        (change("answer_loss", 0.41, 0.25), "0.41 → 0.25"),
        (change("perplexity", 12.0, 9.5), "12.00 → 9.50"),
        (change("acc", None, 0.5), "- → 50.0%"),
        (size(None), "-"),
        (in_one_unit([54e7, 12e3, None, 0], SIZES), ["540.0 MB", "<0.1 MB", "-", "0.0 MB"]),
        (in_one_unit([999, 12], SIZES), ["999 B", "12 B"]),
        (in_one_unit([7200, 90, 1], TIMES), ["2.0 h", "<0.1 h", "<0.1 h"]),
        (in_one_unit([95, None], TIMES), ["1.6 min", "-"]),
        (in_one_unit([None], TIMES), ["-"]),
    ],
)
def test_a_figure_is_shown_as_people_read_it(shown: object, expected: object) -> None:
    assert shown == expected


def test_a_cell_has_a_value_as_people_read_it() -> None:
    assert [cell(value) for value in (1234, None, True, 0.25, "x")] == ["1,234", "-", "yes", "0.25", "x"]


def test_long_words_alone_get_places_to_be_broken() -> None:
    assert breakable("short words stay", 12) == "short words stay"
    assert breakable("training_mixture", 12) == "training_\u200bmixture"
    assert breakable("a" * 40, 12) == f"{'a' * 16}\u200b{'a' * 16}\u200b{'a' * 8}"
    assert breakable("models/base/x" * 2) == "models/base/x" * 2


def test_the_table_of_variants_fits_in_120_columns_and_says_all() -> None:
    text = printed([ROW, replace(ROW, verdict=judged(RULES, passed=False))], 120)
    assert max(map(len, text.splitlines())) <= 120
    for said in (
        "hospital.icd10-coder", "lora", "3,201", "45", "8.0%", "45,678", "answer_loss", "4.66 → 1.42",
        "65.0% → 65.0%", "loss 3.41 → 3.44", "passed", "failed", "adapter", "19.6 MB", "0123456789ab",
        "version 2",
    ):  # fmt: skip
        assert said in text


def test_the_table_of_variants_folds_at_80_columns() -> None:
    text = printed([ROW], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_variant_whose_stages_have_not_run_is_shown_with_dashes() -> None:
    assert "acme.new" in printed([VariantRow("acme.new")], 120)


@pytest.mark.parametrize(
    ("passed", "outcome", "said"),
    [(True, "undecided", "passed with warnings"), (False, "undecided", "undecided"), (False, None, "failed")],
)
def test_what_was_let_pass_without_proof_says_so_and_an_older_verdict_is_passed_or_failed(
    passed: bool, outcome: str | None, said: str
) -> None:
    row = replace(ROW, verdict=judged(RULES, passed, outcome))
    assert row.judged == said
    shown = row.to_json()
    assert (shown["gate"], shown["outcome"]) == (passed, outcome or "fail")


def test_a_row_is_plain_json() -> None:
    shown = ROW.to_json()
    assert json.loads(dumps(shown)) == shown
    assert shown["verdict"] == ROW.sentence
    assert [rule["metric"] for rule in shown["rules"]] == ["answer_loss", "acc", "acc", "token_loss"]
    assert VariantRow("acme.new").to_json() == {
        **dict.fromkeys(shown), "variant": "acme.new", "rules": [], "validation_loss": [None, None],
        "older_stages": [],
    }  # fmt: skip


def test_a_benchmark_that_is_not_a_number_gives_no_mean() -> None:
    rules = [
        stored_rule(rule="general_benchmark", metric="acc", base=0.5, tuned=None),
        stored_rule(rule="general_benchmark", metric="acc", base=0.7, tuned=0.7),
    ]
    assert "60.0% → -" in printed([replace(ROW, verdict=judged(rules))], 120)
