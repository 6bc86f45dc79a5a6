"""A project whose runs are jobs of a cluster, with a daemon, Postgres and an S3 server: what tests of each
kind of cluster do with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ft_dagster.automation.processes.instance import failure_of, launch, opened
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store, read_head
from tests.e2e.instance import BIN, running
from tests.e2e.project import edit
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.s3_server import KEY as S3_KEY
from tests.s3_server import SECRET as S3_SECRET
from tests.s3_server import S3Server

KEY, PREFIX = "acme.places", "tenants/acme/places"
ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
PATIENCE = 600.0  # seconds
WriteProject = Callable[[Path, Path], Path]  # of a folder and of a base


class RunSite:
    """`environment`: the daemon's, which has more than its runs."""

    folder: Path
    home: Path
    settings: Settings
    environment: Mapping[str, str]

    def write_instance(self, deploy: Path, launcher: Mapping[str, Any]) -> None:
        """Write the dagster.yaml of a folder of deploy/, for this cluster."""
        content = yaml.safe_load((deploy / "dagster.yaml").read_text("utf-8"))
        content["storage"] = {"postgres": {"postgres_url": {"env": "PG_URL"}}}
        content["run_launcher"]["config"] = dict(launcher)
        content["run_monitoring"]["poll_interval_seconds"] = 2
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")

    def train_longer(self, epochs: int = 16) -> None:
        """Have it train for so many passes of 25 steps, with a checkpoint every two; at most 32 in all."""
        longer = {"num_train_epochs": epochs, "evaluations": min(epochs // 2, 32)}
        edit(self.folder / "tenants/acme/places.yaml", lambda content: content["training"].update(longer))

    @contextmanager
    def daemon(self) -> Iterator[None]:
        command: list[str | Path] = [BIN / "dagster-daemon", "run", "-w", self.home / "workspace.yaml"]
        with running(command, dict(self.environment)):
            yield

    def submit(self) -> str:
        with opened(self.home) as instance:
            (run,) = launch(instance, self.settings, [VariantKey.parse(KEY)], "test")
        return run.run_id

    def runs(self) -> dict[str, dg.DagsterRun]:
        with opened(self.home) as instance:
            return {run.run_id: run for run in instance.get_runs()}

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.runs()[run_id].status

    def statuses(self) -> list[dg.DagsterRunStatus]:
        return [run.status for run in self.runs().values()]

    def cancel(self, run_id: str) -> bool:
        with opened(self.home) as instance:
            return instance.run_coordinator.cancel_run(run_id)

    def why(self, run_id: str) -> str:
        with opened(self.home) as instance:
            return failure_of(instance, run_id)

    @property
    def store(self) -> Store:
        return self.settings.open_store("acme")

    def resumed_from(self) -> list[int]:
        """The steps from which its training went on."""
        steps: list[int] = present(read_head(self.store, PREFIX, "fine_tuned_model")).figures["resumed_from"]
        return steps

    def digests_here(self, *away: str) -> list[str]:
        """What this host makes of it, undisturbed, in a store of its own. `away`: settings of the cluster."""
        here = self.folder.with_name("here")
        shutil.copytree(self.folder, here, ignore=shutil.ignore_patterns(".ft_dagster"))
        names = (*store_settings(None, here), *away)
        edit(here / "ft_dagster.yaml", lambda content: [content.pop(name) for name in names])
        with dg.DagsterInstance.ephemeral() as instance:
            Workshop(here, instance).materialize(KEY)
        return digests_of(load_settings(here).open_store())


def digests_of(store: Store) -> list[str]:
    """Of the model and of its export."""
    return [present(read_head(store, PREFIX, stage)).digest for stage in ("fine_tuned_model", "model_export")]


def store_settings(s3: S3Server | None, folder: Path) -> dict[str, Any]:
    return {
        "store": f"s3://{s3 and s3.bucket}/{folder.name}",
        "store_options": {"endpoint_url": s3 and s3.endpoint},
        "store_profiles": {"default": "platform", "per_tenant": {"acme": "acme"}},
    }


def write_credentials(file: Path) -> Path:
    """Write a file of AWS profiles: the platform's, and one tenant's."""
    keys = f"aws_access_key_id = {S3_KEY}\naws_secret_access_key = {S3_SECRET}\n"
    file.write_text(f"[platform]\n{keys}[acme]\n{keys}")
    return file
