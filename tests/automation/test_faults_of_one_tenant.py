"""A fault of one variant (a declaration that goes, a damaged store) holds up no other tenant's retrains."""

from pathlib import Path

import dagster as dg
import pytest

from tests.automation.declarations import NOON, declare, tick
from tests.automation.ticks import HOUR, STATUS, end, row, run_of, settings
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
