"""Where the heavy programs run."""

import dagster as dg

from ft_dagster.launch.launcher import LocalLauncher
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.resources.gpus import Gpus


class LocalPrograms(dg.ConfigurableResource[None]):
    """Starts programs on this host, under leases of its devices."""

    gpus: Gpus

    def open(self) -> LocalLauncher:
        return LocalLauncher(self.gpus.leases(), as_environment(self.gpus.host()))
