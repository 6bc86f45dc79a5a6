"""What a run's job asks for by the assets that it makes, and what it finds in its environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.automation.slurm.commands import SlurmOptions
from ft_dagster.automation.slurm.order import devices_of, order_of
from ft_dagster.automation.tags import VARIANT
from ft_dagster.spec.variant import ResourcesSpec
from tests.automation.declarations import declare
from tests.automation.programs.waiting_job import waiting
from tests.instances import new_instance


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


@pytest.mark.slow
def test_a_job_has_its_tenants_profile_whatever_credentials_the_file_of_all_jobs_has(tmp_path: Path) -> None:
    declare(tmp_path, "acme.support")
    profiles = "store_profiles: {default: platform, per_tenant: {acme: own}}\n"
    (tmp_path / "ft_dagster.yaml").write_text(profiles)
    secrets = tmp_path / "run.env"
    secrets.write_text("AWS_PROFILE='platform' AWS_ACCESS_KEY_ID='k' AWS_SECRET_ACCESS_KEY='s'\n")
    origin = dg.reconstructable(waiting).get_python_origin()
    run = dg.DagsterRun("waiting", tags={VARIANT: "acme.support"}, job_code_origin=origin)
    with new_instance() as instance:
        options = SlurmOptions(environment_file=str(secrets))
        _, script = order_of(options, instance, run, str(tmp_path))
    seen = script.rstrip().rpartition("\n")[0] + "\nexec env\n"  # in place of the run
    told = subprocess.run(["/bin/bash"], input=seen, env={}, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in told.stdout.splitlines())
    names = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert [found[name] for name in names] == ["own", "", ""]
