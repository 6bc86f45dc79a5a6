"""Where the heavy programs run."""

import dagster as dg

from ft_dagster.launch import launcher
from ft_dagster.resources.gpus import Gpus


class LocalPrograms(dg.ConfigurableResource[None]):
    """Starts programs on this host, under leases of its devices."""

    gpus: Gpus

    def open(self) -> launcher.Launcher:
        return launcher.LocalLauncher(self.gpus.leases())
