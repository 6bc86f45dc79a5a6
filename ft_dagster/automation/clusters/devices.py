"""Says what a run that goes to a cluster asks of it, by its variant's declaration."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.launch.choice import refuse_run
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.offer import ask_of_cluster
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared


def ask_of_run(settings: Settings, declared: Declared | None) -> Ask | None:
    """Return the devices of a run that computes. None for one that asks for what the cluster has not, which
    its plan refuses, and for one of no variant, or of none that can be read.
    """
    if declared is None:
        return None
    try:
        refuse_run(settings, declared.key, declared.spec)
    except UserError:
        return None
    return ask_of_cluster(settings.cluster, declared.key, declared.spec.resources)
