"""The READMEs' tables and sentences about the demo are what `benchmarks/demo.json` and `sciq.json` say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.demo_figures import FILE, PAGES, table_of, with_table
from ft_dagster.gate.level import level_of
from ft_dagster.gate.paired import compare_paired

ROOT = Path(__file__).resolve().parents[2]
README = " ".join((ROOT / "README.md").read_text("utf-8").split())


@pytest.fixture(scope="module")
def variants() -> dict[str, dict[str, Any]]:
    return {each["variant"]: each for each in json.loads(FILE.read_text("utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tables_of_the_demo_are_those_of_its_stored_figures(
    page: Path, variants: dict[str, dict[str, Any]]
) -> None:
    text, head = page.read_text("utf-8"), PAGES[page]
    assert with_table(text, head, table_of(head, list(variants.values()))) == text


def test_what_is_undecided_is_not_said_to_have_passed(variants: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for name, of in variants.items():
        proved = all(rule["outcome"] == "pass" for rule in of["rules"])
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert (f"| {'passed' if proved else 'passed with warnings'} |") in row


def test_what_the_coder_learned_is_what_was_measured(variants: dict[str, dict[str, Any]]) -> None:
    coder = variants["meditech.icd-coder"]
    (task,) = (rule for rule in coder["rules"] if rule["rule"] == "task")
    right, asked = round(task["tuned"] * task["questions"]), task["questions"]
    assert task["base"] == 0
    said = f"Of {asked} held-out ones the base names none right and the released adapter {right}"
    share, commonest = task["tuned"], coder["commonest_answer"]
    assert f"{said} ({share:.0%}; always naming the commonest: {commonest:.0%})" in README
    assert f"{coder['steps']} steps" in README


def test_what_500_questions_of_sciq_show_is_counted_from_their_answers() -> None:
    content = json.loads((FILE.parent / "sciq.json").read_text("utf-8"))
    base, tuned = (np.array([*map(int, content[side])], float) for side in ("base", "tuned"))
    found = compare_paired(tuned - base, [None] * len(base), bound=1.0, level=level_of(0.05))
    said = (
        f"SciQ falls from {base.mean():.1%} to {tuned.mean():.1%} of {len(base)} questions "
        f"(95% interval of the change: {100 * found.low:.1f} to {100 * found.high:.1f} points)"
    )
    assert said in README


def test_how_far_a_change_of_40_questions_may_be_from_what_was_measured_is_said(
    variants: dict[str, dict[str, Any]],
) -> None:
    rules = [rule for of in variants.values() for rule in of["rules"] if rule["rule"] == "general_benchmark"]
    assert {rule["questions"] for rule in rules} == {40}
    reach = [100 * abs(end - rule["difference"]) for rule in rules for end in rule["interval"]]
    said = f"On 40 questions the 95% interval of a change reaches {min(reach):.0f} to {max(reach):.0f} points"
    assert said in README
