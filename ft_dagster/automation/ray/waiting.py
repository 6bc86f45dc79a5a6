"""Looks at what the nodes of a Ray cluster have."""

from __future__ import annotations

from typing import Any

from ft_dagster.automation.ray.head import PATIENCE


def nodes_of(client: Any) -> list[dict[str, float]]:
    """Return what each living node has in all. `client`: Ray's JobSubmissionClient. Raises whatever Ray
    raises.
    """
    from ray.util.state import StateApiClient
    from ray.util.state.common import ListApiOptions, StateResource

    state = StateApiClient(client.get_address(), cookies=client._cookies, headers=client._headers)
    alive = ListApiOptions(timeout=PATIENCE, filters=[("state", "=", "ALIVE")], detail=True)
    nodes = state.list(StateResource.NODES, options=alive, raise_on_missing_output=False)
    return [dict(node.resources_total) for node in nodes]
