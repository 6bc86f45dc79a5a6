"""What an upgrade would make again, on the store of an earlier version and on drawn fleets."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.errors import UserError
from ft_dagster.fleet.upgrade import UpgradePlan, UpgradeRow, as_yaml, canaries, order_for, plan_upgrade
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from tests.kept_project import answer, copied_project
from tests.stage_version import set_versions_of

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FLEET = [
    *(VariantKey("large", f"v{number}") for number in range(80)),
    *(VariantKey(f"small-{number}", "v0") for number in range(20)),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied_project(tmp_path, monkeypatch)


def typed(project: Path, *words: str) -> Any:
    return answer(project, "upgrade", *words)


def test_a_store_of_version_0_1_trains_again_at_what_was_paid(project: Path) -> None:
    rows = {row["variant"]: row for row in typed(project, "--plan", "--json")["variants"]}
    assert {name: row["effect"] for name, row in rows.items()} == dict.fromkeys(
        ("acme.colours", "acme.places", "globex.places", "globex.strict"), "trains"
    )
    assert "fine_tuned_model" in rows["acme.places"]["stages"]
    assert all(row["hours"] > 0 for row in rows.values())
    assert all("its own finished trainings" in row["origin"] for row in rows.values())


def test_where_no_version_was_raised_nothing_is_made_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_versions_of(monkeypatch, project)
    planned = plan_upgrade(load_settings(project))
    assert {(row.effect, row.stages, row.hours) for row in planned.rows} == {("same", (), 0.0)}
    assert order_for(planned, 1.0, 7, NOON) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "effect"),
    [
        ("training_mixture", "may train"),
        ("fine_tuned_model", "trains"),
        ("evaluation", "is judged"),
        ("model_export", "is exported"),
    ],
)
def test_what_follows_from_a_raised_version(
    project: Path, monkeypatch: pytest.MonkeyPatch, stage: str, effect: str
) -> None:
    set_versions_of(monkeypatch, project, **{stage: 1000})
    rows = {row.variant: row for row in plan_upgrade(load_settings(project)).rows}
    assert (rows["acme.places"].effect, rows["acme.places"].stages) == (effect, (stage,))
    assert rows["acme.places"].hours > 0
    if stage == "model_export":  # its gate never held, so nothing was exported
        assert (rows["globex.strict"].effect, rows["globex.strict"].hours) == ("same", 0.0)


def test_libraries_make_nothing_again_and_are_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_versions_of(monkeypatch, project)
    planned = plan_upgrade(load_settings(project))
    libraries = {**(planned.rows[0].libraries or {}), "torch": "0.0.1"}
    other = UpgradePlan((UpgradeRow("a", "a.b", "same", (), libraries=libraries),), (), ())
    assert [line for line in other.libraries if line.startswith("torch is ")]
    assert "1 models were trained by 0.0.1" in "".join(other.libraries)


def test_a_variant_that_cannot_be_read_is_named_and_stops_no_other(project: Path) -> None:
    (project / "store/tenants/acme/places/heads/evaluation.json").write_text("{")
    told = typed(project, "--plan", "--json")
    assert [line.split(":")[0] for line in told["damaged"]] == ["acme.places"]
    assert len(told["variants"]) == 3


def test_canaries_are_spread_over_tenants_and_a_larger_share_has_them_all() -> None:
    tenth = canaries(FLEET, 0.1)
    assert len(tenth) == 10
    assert max(Counter(key.tenant for key in tenth).values()) == 1
    half = canaries(reversed(FLEET), 0.5)
    assert half[:10] == tenth
    assert {key.tenant for key in half} == {key.tenant for key in FLEET}
    assert set(canaries(FLEET, 1.0)) == set(FLEET)
    assert len(canaries(FLEET, 0.0001)) == 1
    assert [len(canaries(FLEET, share / 100)) for share in range(101)] == [
        math.ceil(share * len(FLEET) / 100) for share in range(101)
    ]


def test_an_order_is_one_that_the_settings_take(project: Path) -> None:
    planned = plan_upgrade(load_settings(project))
    order = order_for(planned, 0.5, 7, NOON)
    assert order is not None
    assert {name.split(".")[0] for name in order.variants} == {"acme", "globex"}
    assert order.deadline - order.given == timedelta(days=7)
    settings = project / "ft_dagster.yaml"
    settings.write_text(settings.read_text("utf-8") + as_yaml(order))
    assert load_settings(project).fleet.orders == (order,)


def test_what_was_made_again_leaves_the_share_as_it_was() -> None:
    rows = [UpgradeRow(key.tenant, str(key), "trains", ()) for key in FLEET]
    first = order_for(UpgradePlan(tuple(rows), (), tuple(FLEET)), 0.1, 7, NOON)
    assert first is not None
    left = tuple(row for row in rows if row.variant not in first.variants)
    assert order_for(UpgradePlan(left, (), tuple(FLEET)), 0.1, 7, NOON) is None


def test_the_command_prints_an_order_and_carries_out_nothing(project: Path) -> None:
    kept = [project / "ft_dagster.yaml", *(project / "store").rglob("*"), *(project / "tenants").rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    said = typed(project, "--plan", "--share", "0.25")
    order = yaml.safe_load(said[said.index("fleet:") :])["fleet"]["orders"][0]
    assert len(order["variants"]) == 1
    assert "fine_tuned_model is at version" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert {*(project / "store").rglob("*")} < {*kept}


@pytest.mark.parametrize(("words", "field"), [([], "--plan"), (["--plan", "--share", "1.5"], "--share")])
def test_what_is_no_plan_is_refused(project: Path, words: list[str], field: str) -> None:
    with pytest.raises(UserError) as refused:
        typed(project, *words)
    assert refused.value.field == field
