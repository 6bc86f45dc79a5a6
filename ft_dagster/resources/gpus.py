"""Lends the devices of this host by lease."""

from dataclasses import dataclass

from ft_dagster.host_settings import Host
from ft_dagster.launch.inventory import Inventory, find_devices
from ft_dagster.launch.leases import Leases, of_host
from ft_dagster.settings import load_settings


@dataclass(frozen=True)
class Gpus:
    """Finds GPUs with NVML or as declared; on a host without any, CPU slots. `project`: see `Tenants`."""

    project: str = ""

    def inventory(self) -> Inventory:
        return find_devices(self.host())

    def leases(self) -> Leases:
        return of_host(self.host())

    def host(self) -> Host:
        """Return what this host lends, and how it starts programs."""
        return load_settings(self.project or None).host
