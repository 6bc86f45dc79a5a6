"""Merges a declaration over what all tenants share, and records which file says each value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

SHORTHANDS = {  # a plain string stands for this field
    "base_model": "source",
    "data.deduplicate": "method",
    "method": "name",
    "training.deepspeed": "stage",
    "export": "format",
}


class Merged(NamedTuple):
    """Holds a merged declaration. `content`: `own` over `defaults`, field by field; `taken`: the dotted paths
    that these supplied.
    """

    content: dict[str, Any]
    own: dict[str, Any]
    defaults: dict[str, Any]
    taken: frozenset[str]

    def from_defaults(self, path: str) -> bool:
        """Say whether the value at a dotted path is the defaults', not the declaration's."""
        parts = path.split(".")
        return any(".".join(parts[:length]) in self.taken for length in range(1, len(parts) + 1))

    def origins(self, values: dict[str, Any], own_name: str, defaults_name: str) -> dict[str, str]:
        """Return each leaf's dotted path -> the name of the file that says it, or "built-in"."""
        return {path: self._origin(path, own_name, defaults_name) for path in leaves(values)}

    def _origin(self, path: str, own_name: str, defaults_name: str) -> str:
        shared = self.from_defaults(path)
        if not _given(self.defaults if shared else self.own, path):
            return "built-in"
        return defaults_name if shared else own_name


def merge(own: dict[str, Any], defaults: dict[str, Any]) -> Merged:
    content, taken = _merge(own, defaults)
    return Merged(content, own, defaults, frozenset(taken))


def leaves(tree: Any, prefix: str = "") -> Iterable[str]:
    """Yield the dotted path of each value that is no mapping, or an empty one."""
    if not isinstance(tree, dict) or not tree:
        yield prefix
        return
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}.{name}" if prefix else name)


def _merge(own: dict[str, Any], defaults: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    merged, taken = dict(own), set()
    for name, value in defaults.items():
        if name not in own:
            merged[name] = value
            taken.add(str(name))
        elif isinstance(value, dict) and isinstance(own[name], dict):
            merged[name], below = _merge(own[name], value)
            taken |= {f"{name}.{path}" for path in below}
    return merged, taken


def _given(said: dict[str, Any], path: str) -> bool:
    """Say whether a file gives `path`, or a shorthand that stands for it."""
    tree: Any = said
    names = path.split(".")
    for depth, name in enumerate(names):
        if not isinstance(tree, dict):
            return SHORTHANDS.get(".".join(names[:depth])) == name
        if name not in tree:
            return False
        tree = tree[name]
    return True
