"""A variant is out of date by what it was made from, and by what its parents were."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.refresh.freshness import RootCause, freshness
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.fleet.table.version import Gain, KnownVersion
from ft_dagster.lineage.stale import StaleCause, field_changed
from tests.fleet.fleets import NOON, changed, variant

CHANGED = field_changed("method.rank")


def row(key: str, *causes: StaleCause, parent: str | None = None) -> FleetRow:
    return FleetRow(variant(key), "", NOON, parent, True, version=KnownVersion(1, causes=causes))


def test_a_childs_cause_is_its_parents_and_names_it() -> None:
    rows = [row("acme.child", parent="acme.parent"), row("acme.parent", CHANGED), row("acme.other")]
    assert freshness(rows) == {
        "acme.child": (RootCause("acme.parent", CHANGED),),
        "acme.parent": (RootCause("acme.parent", CHANGED),),
        "acme.other": (),
    }


def test_own_causes_come_first_and_are_said_once() -> None:
    own = StaleCause("source", "data/rows.jsonl", "data/rows.jsonl changed")
    child = row("acme.child", own, parent="acme.parent").known(news=(changed(NOON),))
    found = freshness([child, row("acme.parent", CHANGED)])["acme.child"]
    assert [(each.variant, each.cause) for each in found] == [("acme.child", own), ("acme.parent", CHANGED)]


def test_what_was_never_trained_is_neither_fresh_nor_stale() -> None:
    never = replace(row("acme.never", CHANGED), version=None)
    assert freshness([never.known(news=(changed(NOON),))]) == {"acme.never": ()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_fleet_at_once_is_each_variant_by_itself(seed: int) -> None:
    """Against a walk from each variant to its roots; some lines are thousands long, and none is cut off."""
    dice = random.Random(seed)
    count = dice.choice([3, 30, 3000])
    keys = [f"acme.v{number}" for number in range(count)]
    rows = dict[str, FleetRow]()
    for number, key in enumerate(keys):
        deep = seed % 2 == 0
        above = None if number == 0 else keys[number - 1] if deep else dice.choice([None, *keys[:number]])
        causes = [field_changed(f"field.{number}")] if dice.random() < 3 / count else []
        rows[key] = row(key, *causes, parent=above)
    shuffled = list(rows.values())
    dice.shuffle(shuffled)
    found = freshness(shuffled)
    for key in dice.sample(keys, min(count, 50)):
        walked, at = list[RootCause](), rows.get(key)
        while at is not None:
            version = at.version
            assert version is not None
            walked += [RootCause(at.key, cause) for cause in version.causes]
            at = rows.get(at.parent or "")
        assert found[key] == tuple(walked)


def test_a_cycle_of_parents_ends() -> None:
    rows = [row("acme.a", CHANGED, parent="acme.b"), row("acme.b", parent="acme.a")]
    assert RootCause("acme.a", CHANGED) in freshness(rows)["acme.b"] + freshness(rows)["acme.a"]


def test_what_is_known_of_a_version_is_kept_whole(tmp_path: Path) -> None:
    gain = Gain("own_task", "token_f1", 0.1, 0.9)
    known = KnownVersion(
        3, 4, NOON, "ab" * 32, "passed", gain, causes=(CHANGED,), spent=Amount(1.5, 2.0), counted="12"
    )
    table = FleetTable(f"sqlite:///{tmp_path / 'fleet.db'}")
    table.put([replace(row("acme.a"), version=known), replace(row("acme.b"), version=None)])
    assert [each.version for each in table.rows()] == [known, None]
