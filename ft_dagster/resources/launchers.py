"""Chooses where the heavy programs run."""

from dataclasses import dataclass
from typing import Any

from ft_dagster.launch.choice import launcher_of
from ft_dagster.launch.launcher import Launcher
from ft_dagster.resources.gpus import Gpus
from ft_dagster.settings import load_settings


@dataclass(frozen=True)
class Programs:
    """Starts programs as the settings say: all under leases of this host, or trainings on a cluster."""

    gpus: Gpus

    def open(self) -> Launcher[Any]:
        return launcher_of(load_settings(self.gpus.project or None), self.gpus.leases())
