"""The first lines of a page say a thing once."""

from __future__ import annotations

from ft_dagster.report.summaries import release_summary


def test_a_version_that_is_served_is_said_to_be_once() -> None:
    said = release_summary(1, 1, "Passed", "")
    assert said.what == "Version 1 is in production"
    assert "version 1" not in said.next


def test_a_version_that_waits_says_what_is_served_and_for_whom() -> None:
    assert release_summary(2, 1, "Passed", "version 2 waits for ann") == (
        "Version 2; in production: version 1", "Passed", "version 2 waits for ann",
    )  # fmt: skip
    assert release_summary(1, None, "Passed", "x").what == "Version 1; in production: none"
