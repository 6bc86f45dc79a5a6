"""What a run's job asks for by the assets that it makes."""

from __future__ import annotations

import dagster as dg
import pytest

from ft_dagster.automation.slurm.commands import SlurmOptions
from ft_dagster.automation.slurm.order import devices_of
from ft_dagster.spec.variant import ResourcesSpec


@pytest.mark.parametrize(
    ("assets", "cores"),
    [
        ((), 3),
        (("task_dataset", "release"), 1),
        (("release", "fine_tuned_model"), 3),
        (("training_mixture",), 3),  # in which the base may write
        (("training_plan",), 3),  # which may probe, and is for the devices that it sees
    ],
)
def test_a_run_whose_assets_compute_nothing_gets_a_core(assets: tuple[str, ...], cores: int) -> None:
    run = dg.DagsterRun("chain", asset_selection=frozenset(map(dg.AssetKey, assets)) or None)
    assert devices_of(SlurmOptions(cpus=3), run, ResourcesSpec()) == [f"--cpus-per-task={cores}"]
