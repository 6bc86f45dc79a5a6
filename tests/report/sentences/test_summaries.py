"""The first lines of a page say a thing once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.lineage.version_status import VersionStatus
from ft_dagster.report.sentences.next_step import Result, next_step
from ft_dagster.report.sentences.summaries import (
    dataset_summary,
    evaluation_summary,
    judged_summary,
    release_summary,
)
from tests.verdicts import stored_rule

PASSED = Verdict.from_json(
    {"passed": True, "outcome": "pass", "rules": [stored_rule(base=0.5, tuned=0.6, questions=40)]}
)


def test_a_version_that_is_served_is_said_to_be_once() -> None:
    said = release_summary(VersionStatus(1, 1, 1, was_served=True), "Passed", "nothing")
    assert said == ("Version 1 is in production", "Passed", "nothing")


def test_a_data_set_says_how_many_questions_no_row_could_be_held_against() -> None:
    figures = DatasetFigures(rows={"train": 90, "test": 60}, read=150, dropped={})
    assert dataset_summary(figures).good == "No row was dropped"
    assert dataset_summary(
        replace(figures, too_short_to_look_for=3), "since version 1: 2 new, 0 gone"
    ).good == ("No row was dropped; 3 questions too short to look for; since version 1: 2 new, 0 gone")


def test_a_data_set_heeds_what_its_rows_cannot_decide_and_says_nothing_of_few_that_can() -> None:
    few = DatasetFigures(rows={"train": 90, "test": 20}, read=110, dropped={})
    assert dataset_summary(few).next.startswith("Open training_mixture")
    said = dataset_summary(few, warnings=["20 rows are too few", "so are 2 groups"]).next
    assert said == "Read the 2 warnings below; first: 20 rows are too few"


def test_a_version_that_waits_says_what_is_served_and_for_whom() -> None:
    assert release_summary(VersionStatus(2, 1, 2), "Passed", "version 2 waits for ann") == (
        "Version 2; in production: version 1", "Passed", "version 2 waits for ann",
    )  # fmt: skip
    assert release_summary(VersionStatus(1, None, 1), "Passed", "x").what == "Version 1; in production: none"


@pytest.mark.parametrize(
    "status",
    [
        None,
        VersionStatus(1, 1, 1, was_served=True),
        VersionStatus(1, None, 1),
        VersionStatus(1, None, 2),
        VersionStatus(1, None, 1, was_served=True, rolled_back="worse"),
        VersionStatus(1, 2, 2, was_served=True),
    ],
    ids=["judged", "released", "waiting", "not approved", "rolled back", "superseded"],
)
def test_the_pages_of_a_verdict_stay_true_whatever_becomes_of_the_model(status: VersionStatus | None) -> None:
    """They are written before the release, and not again at each entry of its log."""
    result = Result("acme.exam", PASSED, status=status)
    shown = [evaluation_summary(result), judged_summary([("version 1", "production")], "Passed", result)]
    assert shown[0].what.startswith("Accuracy of exam 50.0% → 60.0% on 40 questions. Passed. ")
    for page in shown:
        assert page.next == (
            "Open release, or ask `ft-dagster status acme.exam`: both show what became of this model"
        )


def test_what_too_few_texts_leave_undecided_asks_for_texts_and_not_for_questions() -> None:
    """evaluation.limit moves no held-out text: all are read."""
    open_rule = {"outcome": "undecided", "passed": False, "needed": 46}

    def said(**rule: object) -> str:
        rules = [stored_rule(), stored_rule(**open_rule, **rule)]
        verdict = Verdict.from_json({"passed": False, "outcome": "undecided", "rules": rules})
        return next_step(Result("acme.exam", verdict, limit=12))

    assert said(rule="general_loss", metric="general_loss", questions=26, units=13) == (
        "Hold out about 33 texts (data.general.held_out; 13 were read), "
        "or allow more (gates.general_loss_margin, gates.loss_tail)"
    )
    assert said(rule="general_benchmark").startswith("Ask about 66 questions (evaluation.limit, now 12)")
    assert said(rule="degeneration", higher_is_better=False) == (
        "Allow a larger rise of exam acc (gates), or train otherwise: asking more would not decide it"
    )


def test_a_first_version_says_which_verdict_stands() -> None:
    shown = judged_summary(
        [], "Nothing to compare: nothing is in production yet", Result("acme.exam", PASSED)
    )
    assert shown.what == "The verdict of evaluation stands: passed"
