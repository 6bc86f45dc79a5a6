"""deploy/slurm/: what is to be copied is accepted as written, and says what the launcher takes."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from ft_dagster.automation.slurm.commands import SlurmOptions, devices
from ft_dagster.automation.slurm.launcher import SlurmRunLauncher
from ft_dagster.automation.slurm.order import CONFIG
from ft_dagster.settings import load_settings
from ft_dagster.spec.variant import ResourcesSpec

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "slurm"


def test_its_instance_opens_with_a_launcher_that_has_what_it_says(tmp_path: Path) -> None:
    content = yaml.safe_load((FOLDER / "dagster.yaml").read_text("utf-8"))
    del content["storage"]  # a Postgres
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, SlurmRunLauncher)
        assert launcher.supports_check_run_worker_health
        assert instance.run_monitoring_cancel_timeout_seconds > 2 * launcher.options.grace_seconds
        asked = devices(launcher.options, ResourcesSpec(gpus=2, gpu_kind="A100"))
    assert asked == ["--gres=gpu:a100:2", "--cpus-per-task=16"]


def test_the_configuration_names_what_the_options_hold() -> None:
    assert {*CONFIG} == {*SlurmOptions.__dataclass_fields__}


def test_its_settings_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text((FOLDER / "ft_dagster.yaml").read_text("utf-8"))
    settings = load_settings(tmp_path)
    assert settings.launcher == "local"
    assert settings.store_profiles.of("acme") == "acme"
