"""A fault of one variant (a declaration that goes, a damaged store) holds up no other tenant's retrains."""

from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.tags import CHARGES
from ft_dagster.settings import load_settings
from tests.automation.declarations import NOON, declare, tick
from tests.automation.ticks import HOUR, STATUS, end, row, run_of, settings
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow

HEAD = Path(".ft_dagster/store/tenants/acme/bad/heads/training_plan.json")


def damage(project: Path, head: Path) -> None:
    (project / head).parent.mkdir(parents=True, exist_ok=True)
    (project / head).write_text("{")


def spoil(project: Path, what: str) -> None:
    file = project / "tenants" / "acme" / "bad.yaml"
    if what == "deleted":
        file.unlink()
    elif what == "broken":
        file.write_text(file.read_text() + "\nbogus: 1\n")
    else:
        damage(project, HEAD)


@pytest.mark.long
@pytest.mark.parametrize("what", ["deleted", "broken", "damaged"])
def test_a_run_whose_declaration_goes_meanwhile_is_busy_until_it_ends_and_no_longer(
    project: Path, instance: dg.DagsterInstance, what: str
) -> None:
    settings(project, budget={"hours_per_day": 20})  # keeps less than one device busy
    declare(project, "acme.bad", "0 12 * * *")
    declare(project, "globex.good", "0 13 * * *")
    tick(project, instance, NOON - HOUR)
    (asked,) = tick(project, instance, NOON)
    run_id = run_of(instance, asked, STATUS.STARTED)
    tick(project, instance, NOON + HOUR / 60)
    spoil(project, what)
    assert tick(project, instance, NOON + 2 * HOUR) == []
    assert row(project, instance, "acme.bad").state.running
    end(instance, run_id, STATUS.SUCCESS)
    assert [r.partition_key for r in tick(project, instance, NOON + 3 * HOUR)] == ["globex.good"]
    known = row(project, instance, "acme.bad").state
    assert not known.running
    assert present(known.served)


def charged_hours(project: Path, instance: dg.DagsterInstance, run_id: str) -> float:
    table = open_fleet(instance, load_settings(project))
    return sum(charge.amount.hours for charge in table.charges_of(run_id))


def ended_run(project: Path, instance: dg.DagsterInstance) -> str:
    """Of acme.bad, for which an hour was reserved, while globex.good is due an hour later."""
    declare(project, "acme.bad", "0 12 * * *")
    declare(project, "globex.good", "0 13 * * *")
    tick(project, instance, NOON - HOUR)
    (asked,) = tick(project, instance, NOON)
    run_id = run_of(instance, asked, STATUS.STARTED)
    end(instance, run_id, STATUS.SUCCESS)
    return run_id


def test_a_run_whose_store_is_damaged_is_charged_by_the_clock_and_holds_up_no_other(
    project: Path, instance: dg.DagsterInstance
) -> None:
    run_id = ended_run(project, instance)
    damage(project, HEAD.with_name("fine_tuned_model.json"))
    assert [r.partition_key for r in tick(project, instance, NOON + 2 * HOUR)] == ["globex.good"]
    ran = present(instance.get_run_record_by_id(run_id))
    took = (present(ran.end_time) - present(ran.start_time)) / 3600
    assert charged_hours(project, instance, run_id) == pytest.approx(took)


@pytest.mark.parametrize("away", [ConnectionError("reset by peer"), PermissionError("Access Denied")])
def test_a_run_is_not_charged_by_the_clock_because_the_store_is_out_of_reach(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, away: Exception
) -> None:
    run_id = ended_run(project, instance)

    def fails(*asked: object) -> float:
        raise away

    with monkeypatch.context() as without:
        without.setattr("ft_dagster.automation.past_runs.hours_between", fails)
        with pytest.raises(type(away)):
            tick(project, instance, NOON + 2 * HOUR)
    tick(project, instance, NOON + 2 * HOUR)
    assert charged_hours(project, instance, run_id) == 0.0  # it made nothing


@pytest.mark.parametrize(
    "amount", mostly_long(["[NaN, 0]", "[-9.0, 0]", "[Infinity, 0]", '["9", 0]', "[1]]"], every=4)
)
def test_a_run_whose_tag_says_no_amounts_is_not_charged_and_holds_up_no_other(
    project: Path, instance: dg.DagsterInstance, amount: str
) -> None:
    run_id = _two_due_and_one_charged(project, instance, amount)
    for _ in range(2):
        assert [r.partition_key for r in tick(project, instance, NOON)] == ["globex.a"]
    assert charged_hours(project, instance, run_id) == 0.0


def test_a_run_that_cannot_be_charged_for_a_reason_nobody_foresaw_holds_up_no_other(
    project: Path,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = _two_due_and_one_charged(project, instance, "[1, 0]")

    def fails(*asked: object) -> list[object]:
        raise ZeroDivisionError

    monkeypatch.setattr("ft_dagster.automation.due.charged", fails)
    for _ in range(2):
        assert [r.partition_key for r in tick(project, instance, NOON)] == ["globex.a"]
    assert [told.exc_info is not None for told in caplog.records if run_id in told.message] == [True]


def _two_due_and_one_charged(project: Path, instance: dg.DagsterInstance, amount: str) -> str:
    """Two variants are due, of which a day's budget pays one; the id of a run with a tag of charges."""
    settings(project, spread_hours=0, budget={"hours_per_day": 1.5})
    for variant in ("globex.a", "globex.b"):
        declare(project, variant, "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    days = f'["{NOON:%Y-%m-%d}", {amount[1:-1]}]'
    tag = f'{{"amount": {amount}, "hours": 1, "days": [{days}]}}'
    return run_of(instance, dg.RunRequest(partition_key="acme.forged", tags={CHARGES: tag}))
