"""The rows and the plot of a fleet's report."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.pages.fleet import (
    COLUMNS,
    DRAWN,
    FleetVariant,
    age,
    better,
    fleet_rows,
    gain_groups,
)
from tests.verdicts import stored_rule


def variant(name: str, **rule: Any) -> FleetVariant:
    verdict = Verdict.from_json({"passed": True, "outcome": "pass", "rules": [stored_rule(**rule)]})
    return FleetVariant(name, "fresh", "", verdict, "v2", days=3.2, hours=0.5, usd=1.25)


def test_what_a_person_is_to_look_at_comes_first() -> None:
    found = [variant("acme.b"), variant("acme.a"), FleetVariant("zoo.x", "broken", "no file")]
    rows = fleet_rows(found)
    assert [row[0] for row in rows] == ["zoo.x", "acme.a", "acme.b"]
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert [str(cell) for cell in rows[1][1:]] == [
        "fresh", "v2", "exam acc 50.0% → 60.0%: +10.0 points (+0.0 to +20.0)",
        "Passed: the one rule of the gate holds", "3 days", "0.50", "1.25",
    ]  # fmt: skip
    assert rows[0][1] == "broken: no file"


def test_gains_in_points_and_in_nats_are_on_scales_of_their_own() -> None:
    loss = {"metric": "loss", "base": 4.0, "tuned": 3.0, "difference": -1.0, "interval": [-1.5, -0.5]}
    found = [
        variant("a.x"),
        variant("a.y", **loss, higher_is_better=False),
        FleetVariant("a.z", "not judged"),
    ]
    groups, left_out = gain_groups(found)
    assert ([[one.name for one in group] for group in groups], left_out) == ([["a.x"], ["a.y"]], 0)
    assert better(groups[1][0].rule) == 1.0


def test_of_many_gains_the_best_and_the_worst_are_drawn() -> None:
    found = [variant(f"a.v{n}", difference=n / 1000, interval=[0, 0.2]) for n in range(DRAWN + 9)]
    [group], left_out = gain_groups(found)
    assert (len(group), left_out) == (DRAWN, 9)
    assert (group[0].name, group[-1].name) == (f"a.v{DRAWN + 8}", "a.v0")


@pytest.mark.parametrize(
    ("days", "said"), [(None, "-"), (0.05, "1 hour"), (1.4, "34 hours"), (40.0, "40 days")]
)
def test_an_age_is_said_in_a_unit_that_fits(days: float | None, said: str) -> None:
    assert age(days) == said
