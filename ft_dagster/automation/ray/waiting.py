"""Says why a job of Ray waits, by what the cluster's nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE = 15  # seconds for the head to answer
Amounts = Mapping[str, float]


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


def why(needs: Amounts, nodes: Sequence[Amounts]) -> str:
    """Say why a job that needs so much waits where the nodes have so much in all, and the way out."""
    if any(_has(node, needs) for node in nodes):
        return f"it starts once a node with {_said(needs)} is free (`ray status` shows what is used)"
    there = "; ".join(sorted({_said({name: node.get(name, 0.0) for name in needs}) for node in nodes}))
    return (
        f"no node of the cluster has {_said(needs)}; its nodes have {there or 'nothing'}. Add such a node, "
        "or cancel the run and ask for less: in its declaration's `resources`, or in the settings `cluster` "
        "and `ray`"
    )


def _has(node: Amounts, needs: Amounts) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())


def _said(amounts: Amounts) -> str:
    return ", ".join(_amount(each) for each in amounts.items())


def _amount(named: tuple[str, float]) -> str:
    name, amount = named
    return f"{amount:g} {name}"
