"""Says why what Ray is asked for waits, by what the cluster's nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Amounts = Mapping[str, float]


def why(needs: Amounts, nodes: Sequence[Amounts], count: int = 1) -> str:
    """Say why what needs so much of each of `count` nodes waits, where the nodes have so much in all, and the
    way out.
    """
    each = f"{'a node' if count == 1 else f'{count} nodes'} with {_said(needs)}"
    if sum(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes) >= count:
        return f"it starts once {each} {'is' if count == 1 else 'are'} free (`ray status` shows what is used)"
    there = "; ".join(sorted({_said({name: node.get(name, 0.0) for name in needs}) for node in nodes}))
    return (
        f"it needs {each}, and the cluster has not: its nodes have {there or 'nothing'}. Add such nodes, or "
        "cancel the run and ask for less: in its declaration's `resources`, or in the settings `cluster` and "
        "`ray`"
    )


def _said(amounts: Amounts) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
