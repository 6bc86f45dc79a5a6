"""A fleet of tiny variants on an instance of their own, and the real daemon that retrains them."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG

from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.processes.instance import opened, workspace_file, write_home
from ft_dagster.automation.processes.unfinished import is_retried
from ft_dagster.automation.tags import DUE
from ft_dagster.dagster_private import PARTITION
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import (
    command_environment,
    declaration,
    edit,
    rows,
    write_lines,
    write_project,
    write_yaml,
)

SECRET = "hush"
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


class Deployed:
    """A project with a Dagster home of its own. `own_environment`: of its programs, beside that of all."""

    folder: Path
    home: Path
    own_environment: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**command_environment(self.folder), "DAGSTER_HOME": str(self.home), **self.own_environment}

    def keep_in(self, address: str) -> None:
        """Have the instance in a database of a server."""
        storage = {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
        edit(self.home / "dagster.yaml", lambda content: content.update(storage=storage))
        self.own_environment["DAGSTER_POSTGRES_URL"] = address

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.own_environment.items():
                patch.setenv(name, value)
            with opened(self.home) as instance:
                yield instance


class TinyFleet(Deployed):
    """A project and its instance. `notify`: address of a webhook that is told of all variants."""

    def __init__(self, folder: Path, base: Path, notify: str | None = None) -> None:
        self.folder = write_project(folder, base)
        for file in (folder / "tenants").glob("*/*.yaml"):
            file.unlink()
        self.own_environment = {"FT_OPS_SECRET": SECRET}
        self.home = Path(write_home(load_settings(folder))["DAGSTER_HOME"])
        told = {"ops": {"webhook": notify, "secret_env": "FT_OPS_SECRET", "timeout_seconds": 30}}
        edit(folder / "ft_dagster.yaml", lambda c: c.update(fleet={"spread_hours": 0}))
        if notify is not None:
            write_yaml(folder / "tenants" / "defaults.yaml", {"notify": ["ops"]})
            edit(folder / "ft_dagster.yaml", lambda c: c.update(notifications={"targets": told}))

    def copy(self, to: Path) -> TinyFleet:
        """Return one with the same store and declarations, and an instance of its own."""
        other = copy(self)
        other.folder = shutil.copytree(self.folder, to, ignore=shutil.ignore_patterns("dagster_home"))
        locks = str(to / "leases")
        edit(to / "ft_dagster.yaml", lambda content: content["host"].update(lock_folder=locks))
        other.home = Path(write_home(load_settings(to))["DAGSTER_HOME"])
        return other

    def declare(self, key: str, base: Path, retrain: dict[str, Any] | None = None, **more: Any) -> None:
        """A variant on rows of its own, trained in a few seconds."""
        tenant, name = key.split(".")
        write_lines(self.rows(key), rows(60))
        content = declaration(base, **more)
        content["data"]["sources"] = [str(self.rows(key).relative_to(self.folder))]
        content["training"].update(num_train_epochs=1, evaluations=1)
        content["evaluation"]["limit"] = 4
        content["gates"].update(task_margin=1.0, regression_loss_margin=1.0)  # of one seed to the next
        content["retrain"] = retrain or {}
        write_yaml(self.folder / "tenants" / tenant / f"{name}.yaml", content)

    def train_otherwise(self, key: str, seed: int = 1) -> None:
        """Declare another seed: the next run makes another model."""
        tenant, name = key.split(".")
        file = self.folder / "tenants" / tenant / f"{name}.yaml"
        edit(file, lambda c: c["training"].update(seed=seed))

    def order(self, name: str) -> None:
        """Have all variants retrained now."""
        now = datetime.now(UTC).isoformat()
        order = {"name": name, "reason": "a test", "given": now, "deadline": now}
        edit(self.folder / "ft_dagster.yaml", lambda c: c["fleet"].update(orders=[order]))

    def rows(self, key: str) -> Path:
        return self.folder / "data" / f"{key}.jsonl"

    def command(self, *words: str) -> Any:
        """What a command of ft-dagster answers as JSON."""
        done = subprocess.run(
            [BIN / "ft-dagster", *words, "--json"], env=self.environment, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def daemon(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        command: list[str | Path] = [BIN / "dagster-daemon", "run", "-w", str(workspace_file(self.settings))]
        with running(command, {**self.environment, **environment}) as process:
            yield process

    @property
    def settings(self) -> Settings:
        return load_settings(self.folder)

    def allow_bases(self, *folders: Path) -> None:
        """Folders that hold base models."""
        named = {"bases": [str(folder) for folder in folders]}
        edit(self.folder / "ft_dagster.yaml", lambda c: c.update(sources=named))

    def runs(self) -> list[dg.DagsterRun]:
        """Those that the fleet asked for, the oldest first."""
        with self.instance() as instance:
            return [run for run in instance.get_runs(ascending=True) if DUE in run.tags]

    def asked(self) -> Counter[str]:
        """Variant -> runs that the fleet asked for."""
        return Counter(run.tags[PARTITION] for run in self.runs())

    def are_done(self) -> bool:
        """Whether the runs that the fleet asked for have ended, and Dagster runs none of them again."""
        with self.instance() as instance:
            again = [run for run in self.runs() if is_retried(instance, run)]
            return all(run.status in ENDED for run in self.runs()) and all(
                AUTO_RETRY_RUN_ID_TAG in run.tags for run in again
            )

    def trainings(self) -> dict[str, int]:
        """Variant -> trainings in the store."""
        store = self.settings.open_store()
        keys = sorted(Declarations(self.folder))
        return {str(key): len(store.names(f"{key.prefix}/fine_tuned_model")) for key in keys}

    def wait_for_ticks(self, count: int = 2) -> None:
        """Until so many further ticks came to their end."""
        for _ in range(count):
            before = self._looked()
            wait_until(partial(self._looked_after, before))

    def _looked_after(self, moment: datetime | None) -> bool:
        return self._looked() != moment

    def _looked(self) -> datetime | None:
        with self.instance() as instance:
            return open_fleet(instance, self.settings).looked()

    def wait_until_idle(self, patience: float = 60) -> None:
        """Until no run is queued or in progress."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with self.instance() as instance:
                if all(run.status in ENDED for run in instance.get_runs()):
                    return
            time.sleep(0.5)
        raise TimeoutError(f"runs are not finished after {patience} s")
