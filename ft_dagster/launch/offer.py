"""What a cluster has for a training, as its settings say; nothing is asked of the cluster itself."""

from __future__ import annotations

from ft_dagster.cluster import Cluster
from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device, Inventory, Kind
from ft_dagster.launch.leases import Ask, ask_for
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import ResourcesSpec


def inventory_of(cluster: Cluster) -> Inventory:
    """The devices of one node."""
    if cluster.gpus:
        memory = None if cluster.gpu_memory_gb is None else int(cluster.gpu_memory_gb * 1e9)
        gpus = tuple(Device(str(number), memory, cluster.gpu or "GPU") for number in range(cluster.gpus))
        return Inventory("gpu", gpus, cluster.cpus)
    memory = None if cluster.memory_gb is None else int(cluster.memory_gb * 1e9)
    slots = tuple(Device(str(number), None, "CPU slot") for number in range(cluster.cpus))
    return Inventory("cpu", slots, cluster.cpus, memory)


def ask_of_cluster(
    cluster: Cluster, key: VariantKey, resources: ResourcesSpec, reason: str = "", run_id: str = ""
) -> Ask:
    """What a variant's `resources` come to on each node of a cluster."""
    kind: Kind = "gpu" if cluster.gpus else "cpu"
    return ask_for(kind, cluster.cpus, key, resources, reason=reason, run_id=run_id)


def refuse_resources(cluster: Cluster, ask: Ask) -> None:
    """Raises UserError where no node of the cluster has what is asked for."""
    inventory = inventory_of(cluster)
    gpu = inventory.kind == "gpu"
    if ask.nodes > cluster.nodes:
        raise UserError(
            f"{ask.variant} asks for more nodes than a training may have",
            field="resources.nodes",
            value=ask.nodes,
            fix=f"Ask for {cluster.nodes} at most, or have cluster.nodes raised in ft_dagster.yaml",
        )
    if ask.count > len(inventory.devices):
        raise UserError(
            f"{ask.variant} asks for more {'GPUs' if gpu else 'cores'} than a node of the cluster has",
            field="resources.gpus" if gpu else "resources.cpu_slots",
            value=ask.count,
            fix=f"Ask for {len(inventory.devices)} at most, on more nodes (resources.nodes)",
        )
    if not inventory.named(ask.gpu_kind):
        raise UserError(
            "no GPU of the cluster has such a name",
            field="resources.gpu_kind",
            value=ask.gpu_kind,
            fix=f"There are: {cluster.gpu}",
        )
    if ask.memory_bytes > (inventory.devices[0].memory_bytes or ask.memory_bytes):
        raise UserError(
            "no GPU of the cluster has that much memory",
            field="resources.gpu_memory_gb",
            value=ask.memory_bytes / 1e9,
            fix=f"Each has {cluster.gpu_memory_gb}",
        )
