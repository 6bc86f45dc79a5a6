"""Where the heavy programs run."""

from dataclasses import dataclass

from ft_dagster.launch.launcher import LocalLauncher
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.resources.gpus import Gpus


@dataclass(frozen=True)
class LocalPrograms:
    """Starts programs on this host, under leases of its devices."""

    gpus: Gpus

    def open(self) -> LocalLauncher:
        return LocalLauncher(self.gpus.leases(), as_environment(self.gpus.host()))
