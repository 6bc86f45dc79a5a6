"""Five answers before and after: chosen by a hash that favours no model, and only where rows may be shown."""

from __future__ import annotations

import pytest

from ft_dagster.gate.samples import Answer, Sample
from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.changed_answers import LONGEST, SHOWN, ChangedAnswers, changed_answers
from tests.present import present
from tests.verdicts import stored_rule

OWN = "test_split_task"
SYSTEM, END = "<s>\nYou are a coder.\n<user>\n", "</user>\n<assistant>\n"


def samples(values: list[float], metric: str = "exact_match", *, higher: bool = True) -> list[Sample]:
    return [
        Sample("test_split_task", OWN, metric, f"{OWN}:0:{at:032x}", value, 1.0, higher)
        for at, value in enumerate(values)
    ]


def answers(values: list[float], written: str = "") -> list[Answer]:
    """What stands first of a question is what its loss was asked of, as an evaluation writes it."""
    found = []
    for at, value in enumerate(values):
        asked = (f"{OWN}:0:{at:032x}", f"{SYSTEM}case {at}{END}", f"S{at}")
        found += [
            Answer("test_split_task", OWN, *asked, ""),
            Answer("test_split_task", OWN, *asked, written or f"{value}"),
        ]
    return found


def compared(before: list[float], after: list[float], *, own_rows: bool = True) -> ChangedAnswers:
    rule = Rule.from_json(stored_rule(task=OWN, metric="exact_match"))
    sides = samples(before), samples(after)
    return present(changed_answers([rule], sides, (answers(before), answers(after)), own_rows=own_rows))


def test_better_and_worse_come_in_turn_whichever_model_won() -> None:
    before, after = [0.0] * 20 + [1.0] * 3, [1.0] * 20 + [0.0] * 3
    won, lost = compared(before, after), compared(after, before)
    assert (won.gained, won.lost, won.same) == (20, 3, 0)
    shown = [row.change for row in won.rows]
    assert len(shown) == SHOWN
    assert sorted(shown.count(change) for change in ("gained", "lost")) == [2, 3]
    assert [row.asked for row in lost.rows] == [row.asked for row in won.rows]  # no model is favoured


def test_only_where_both_are_shown_is_it_said_that_they_come_in_turn() -> None:
    assert "better and worse in turn" in compared([0.0, 1.0], [1.0, 0.0]).sentence
    for before, after in (([0.0, 0.0], [0.0, 0.0]), ([0.0, 1.0], [1.0, 1.0])):
        assert "in turn" not in compared(before, after).sentence


def test_the_choice_is_the_same_in_any_order_of_the_rows() -> None:
    before, after = [0.0] * 9, [1.0] * 9
    rule = Rule.from_json(stored_rule(task=OWN, metric="exact_match"))
    turned = present(
        changed_answers(
            [rule],
            (samples(before)[::-1], samples(after)[::-1]),
            (answers(before)[::-1], answers(after)),
            own_rows=True,
        )
    )
    assert [row.asked for row in turned.rows] == [row.asked for row in compared(before, after).rows]


def test_fewer_changes_are_filled_with_answers_that_stayed() -> None:
    found = compared([0.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert [row.change for row in found.rows] == ["gained", "same", "same", "same", "same"]


def test_a_question_is_shown_without_what_all_of_them_begin_and_end_with() -> None:
    assert {row.asked for row in compared([0.0] * 3, [1.0] * 3).rows} == {"case 0", "case 1", "case 2"}


def test_a_long_answer_is_cut_and_an_empty_one_said_to_be() -> None:
    rule = Rule.from_json(stored_rule(task=OWN, metric="exact_match"))
    long, empty = answers([0.0], "x" * 999), [answers([1.0])[0]]
    found = present(changed_answers([rule], (samples([0.0]), samples([1.0])), (long, empty), own_rows=True))
    assert (len(found.rows[0].base), found.rows[0].tuned) == (LONGEST, "(nothing)")


def test_an_answer_moves_no_cursor() -> None:
    rule = Rule.from_json(stored_rule(task=OWN, metric="exact_match"))
    written = answers([0.0], "a\x1b[2Jb\nc")
    found = present(
        changed_answers([rule], (samples([0.0]), samples([1.0])), (written, written), own_rows=True)
    )
    assert found.rows[0].tuned == "a [2Jb\nc"


def test_rows_that_may_not_be_shown_are_counted_alone() -> None:
    found = compared([0.0] * 9, [1.0] * 9, own_rows=False)
    assert found.rows == ()
    assert found.sentence == (
        "By exact match, 9 answers became better, 0 became worse and 0 stayed as good; "
        "data.samples: metadata would show some"
    )


def test_free_text_is_compared_by_the_words_it_shares() -> None:
    rule = Rule.from_json(stored_rule(task=OWN, metric="completion_loss", higher_is_better=False))
    sides = [
        [*samples(loss, "completion_loss", higher=False), *samples(f1, "token_f1")]
        for loss, f1 in (([3.0, 3.0], [0.1, 0.5]), ([2.0, 2.0], [0.4, 0.2]))
    ]
    written = answers([0.0, 0.0], "words"), answers([0.0, 0.0], "other words")
    found = present(changed_answers([rule], (sides[0], sides[1]), written, own_rows=True))
    assert (found.metric, found.gained, found.lost) == ("token_f1", 1, 1)


def test_what_was_judged_by_loss_alone_shows_no_answer_and_says_so() -> None:
    rule = Rule.from_json(stored_rule(task=OWN, metric="completion_loss", higher_is_better=False))
    sides = samples([3.0], "completion_loss", higher=False), samples([2.0], "completion_loss", higher=False)
    unwritten = [answers([0.0])[0]]
    found = present(changed_answers([rule], sides, (unwritten, unwritten), own_rows=True))
    assert found.rows == ()
    assert found.sentence.endswith("no answer was written, for it is judged by its loss")


@pytest.mark.parametrize("rules", [[], [Rule.from_json(stored_rule(rule="general_benchmark"))]])
def test_without_a_task_of_its_own_nothing_is_compared(rules: list[Rule]) -> None:
    assert changed_answers(rules, (samples([0.0]), samples([1.0])), ([], []), own_rows=True) is None
