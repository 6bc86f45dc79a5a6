"""Why a version is out of date, in words."""

from typing import Any

import pytest

from ft_dagster.lineage.stale import field_changed


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (8, 16, "a.b is 16, was 8"),
        (False, True, "a.b is true, was false"),
        ("lora", "qlora", "a.b is qlora, was lora"),
        (None, 8, "a.b is declared otherwise"),
        ("answer the patient", "be brief", "a.b is declared otherwise"),  # a tenant's own words
        ({"b": 1}, {"b": 2}, "a.b is declared otherwise"),
        (8, 8, "a.b is declared otherwise"),
    ],
)
def test_a_changed_field_is_said_with_both_values_where_they_are_no_prose(
    then: Any, now: Any, words: str
) -> None:
    assert field_changed("a.b", then, now).words == words
