"""Variants of one base that train beside each other on a host: what ends one of them touches no other."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.launch.leases import Lease, Leases
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.launch.helpers import ask, slots
from tests.programs import RunningProgram
from tests.training.runs import Runs, result_of, wait_for_step

pytestmark = pytest.mark.slow
ONE, OTHER = "acme.support", "globex.faq"
SHORT = {"num_train_epochs": 12.0, "evaluations": 4, "keep_last": 4}
LONG = {"max_steps": 500, "evaluations": 4}  # until the other has been ended and goes on


def digest(run_folder: Path, variant: str) -> str:
    return payload_digest(hash_folder(run_folder / variant / "payload"))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_one_that_is_ended_and_goes_on_comes_out_as_alone_and_so_does_the_one_beside_it(
    runs: Runs, tmp_path: Path, start: Callable[..., RunningProgram], number: signal.Signals
) -> None:
    leases = Leases(tmp_path / "locks", slots(2), poll_seconds=0.02)

    def prepared(where: str) -> tuple[Path, Path]:
        one = runs.prepare(f"{where}-one", members={ONE: {"seed": 1}}, training=SHORT)
        other = runs.prepare(
            f"{where}-other", members={OTHER: {"seed": 2}}, training=LONG, method={"rank": 8}
        )
        return one, other

    def lent(variant: str) -> Lease:
        tenant, _, name = variant.partition(".")
        return leases.acquire(ask(name=name, tenant=tenant), should_stop=lambda: True)  # at once, or not

    alone = prepared("alone")
    for folder, variant in zip(alone, (ONE, OTHER), strict=True):
        with lent(variant) as lease:
            assert start(folder, **lease.environment()).wait() == 0
    steps = result_of(alone[0], ONE)["figures"]["steps"]

    one, other = prepared("beside")
    with lent(OTHER) as lease:
        beside = start(other, **lease.environment())
        with lent(ONE) as lease_of_one:
            ended = start(one, **lease_of_one.environment())
            wait_for_step(ended, one, steps // 2)
            ended.send_signal(number)
            assert ended.wait() == 128 + number
        with lent(ONE) as lease_of_one:
            resumed = start(one, **lease_of_one.environment())
            wait_for_step(resumed, one, steps - 1)
            assert beside.poll() is None
            assert resumed.wait() == 0
        assert beside.wait() == 0
    assert [digest(one, ONE), digest(other, OTHER)] == [digest(alone[0], ONE), digest(alone[1], OTHER)]
    assert result_of(one, ONE)["figures"]["resumed_from"]
    assert result_of(other, OTHER)["figures"]["resumed_from"] == []
