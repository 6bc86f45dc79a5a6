"""A page's table breaks no more of its words than it takes."""

from __future__ import annotations

from ft_dagster.assets.page import PANE, least_width, table

NAMES = ["change", "asked", "expected", "base", "tuned"]
ROW = ["gained", "Insect bite (nonvenomous) of unspecified toe", "S60", "Laceration with", "S60"]


def test_a_table_that_is_a_little_too_wide_breaks_its_longest_word_alone() -> None:
    assert least_width(NAMES, [ROW]) == PANE + 1
    (record,) = table(NAMES, [ROW]).value.records
    shown = [str(text) for text in record.data.values()]
    assert shown[1] == "Insect bite (nonvenom\u200bous) of unspecified toe"
    assert [*shown[:1], *shown[2:]] == [*ROW[:1], *ROW[2:]]
    assert least_width(NAMES, [shown]) <= PANE
