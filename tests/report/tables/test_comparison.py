"""Two sides in the rows of tables: what differs and nothing else."""

from __future__ import annotations

from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.tables.comparison import (
    differing_rows,
    flat,
    joined_rows,
    overlaid,
    pair_groups,
    rule_pairs,
    score_headers,
    score_rows,
    split_rows,
)
from tests.verdicts import stored_rule

NAMES = ("version 1", "version 2")


def test_values_stand_under_their_path() -> None:
    tree = {"a": {"b": [{"c": 1}, {"c": None}], "d": {}}, "e": [1, 2]}
    assert flat(tree) == {"a.b[0].c": 1, "a.b[1].c": None, "a.d": {}, "e": [1, 2]}


def test_only_what_differs_is_a_row() -> None:
    left, right = {"same": 1, "other": [1], "gone": "x"}, {"same": 1, "other": [2], "new": False}
    assert differing_rows(left, right) == [
        ["gone", "x", "-"], ["new", "-", "false"], ["other", "[1]", "[2]"],
    ]  # fmt: skip


def test_tables_are_joined_by_their_first_cell() -> None:
    left, right = [["steps", "9", "x"], ["speed", "1", ""]], [["steps", "8", ""], ["memory", "2", ""]]
    assert joined_rows(left, right) == [["steps", "9", "8"], ["speed", "1", None], ["memory", None, "2"]]


def test_a_row_that_moved_is_another_in_its_split_and_the_same_in_all() -> None:
    left, right = {"train": [b"a", b"b"], "test": [b"c"]}, {"train": [b"a", b"c"], "test": [b"d"]}
    assert split_rows(left, right) == [
        ["train", 2, 2, 1, 1], ["test", 1, 1, 1, 1], ["any", 3, 3, 1, 1],
    ]  # fmt: skip


def test_curves_of_the_same_thing_share_a_chart() -> None:
    left, right = {"training": [(0.0, 2.0)], "general": [(0.0, 3.0)]}, {"training": [(0.0, 1.0)]}
    assert list(overlaid(left, right, NAMES)) == [
        ("training", {"version 1": [(0.0, 2.0)], "version 2": [(0.0, 1.0)]}),
        ("general", {"version 1": [(0.0, 3.0)]}),
    ]


def test_a_rule_that_one_side_does_not_have_is_said_not_to_be_asked() -> None:
    shared, own = (Rule.from_json(stored_rule(task=task)) for task in ("exam", "quiz"))
    pairs = rule_pairs([shared, own], [shared])
    assert pairs == [(shared, shared), (own, None)]
    assert [[one.name for one in group] for group in pair_groups(pairs, NAMES)] == [
        ["exam, version 1", "exam, version 2"], ["quiz, version 1"],
    ]  # fmt: skip
    rows = score_rows(pairs)
    assert {len(row) for row in rows} == {len(score_headers(NAMES))}
    assert rows[1][-1] == "not asked"
