"""Small words of the tests of pods: a project on the stand-in, and jobs that go on from checkpoints."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ft_dagster.launch.launcher import OUTPUT, Belongings, Job, carry_out
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.on_kubernetes.launcher import KubernetesLauncher
from ft_dagster.program import ProgramResult
from ft_dagster.settings import Settings, load_settings

IMAGE = "ft-dagster-trainer:0.1.0"
PLACE = f"tenants/acme/support/fine_tuned_model/{'0' * 64}/nodes/evidence"


class Steps(BaseModel):
    """What programs/pod.py is asked."""

    output: Path
    steps: int = 1
    seconds: float = 0.0
    exit: int = 0


@dataclass(frozen=True)
class ProgramJob(Job):
    """A job of programs/pod.py."""

    @property
    def module(self) -> str:
        return "pod"


def write_cluster(folder: Path, **kubernetes: Any) -> Settings:
    """A project whose trainings go to the stand-in."""
    (folder / "project" / "tenants").mkdir(parents=True, exist_ok=True)
    given = {
        "launcher": "k8s",
        "store": str(folder / "store"),
        "cluster": {"cpus": 1, "work_folder": str(folder / "node")},
        "kubernetes": {"image": IMAGE, "grace_seconds": 15, **kubernetes},
    }
    (folder / "project" / "ft_dagster.yaml").write_text(yaml.safe_dump(given))
    return load_settings(folder / "project")


def job_in(folder: Path, profile: str | None = None, **steps: Any) -> ProgramJob:
    run_dir = folder / "runs" / "fine_tuned_model-0000000000000000"
    (run_dir / OUTPUT).mkdir(parents=True, exist_ok=True)
    request = Steps(output=run_dir / OUTPUT, **steps)
    ask = Ask("acme.support", "acme", 1, 0, "a test", "d5b2b4a2")
    things = Belongings(PLACE, {}, folder / "cache", "checkpoints", "whole.json")
    return ProgramJob("training", run_dir, request, ask, {}, "acme.support", things, profile)


class Carried:
    """A job that a launcher of its own carries out in a thread; `said`: what it says."""

    def __init__(self, settings: Settings, job: Job) -> None:
        self.said: list[str] = []
        self.result: ProgramResult | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._carry_out, args=(settings, job), daemon=True)
        self._thread.start()

    def _carry_out(self, settings: Settings, job: Job) -> None:
        try:
            self.result = carry_out(KubernetesLauncher(settings), job, self.said.append)
        except Exception as error:
            self.error = error

    def figures(self, seconds: float = 90) -> dict[str, Any]:
        """Of its result."""
        self._wait(seconds)
        assert self.result is not None, (self.error, self.said)
        return self.result["figures"]

    def failure(self, kind: type[Exception], seconds: float = 90) -> Any:
        """What it raised."""
        self._wait(seconds)
        assert isinstance(self.error, kind), (self.error, self.said, self.result)
        return self.error

    def _wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), self.said
