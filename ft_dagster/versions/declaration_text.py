"""Writes a declaration as YAML: each value on a line of its own, with its reason as a comment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from ft_dagster.errors import in_one_line
from ft_dagster.spec.defaults import SHORTHANDS
from ft_dagster.spec.start import inline

Tree: TypeAlias = dict[str, Any]  # by name: a `_Leaf`, or the tree below


class Setting(NamedTuple):
    """Holds the value of a dotted field (training.seed), and the reason that its comment says."""

    field: str
    value: Any
    why: str = ""


class Source(NamedTuple):
    """Holds one entry of data.sources: its fields by name, and the reason."""

    fields: dict[str, Any]
    why: str = ""


class _Leaf(NamedTuple):
    value: Any
    why: str


def declaration_text(
    settings: Iterable[Setting], sources: Sequence[Source], heading: Sequence[str] = ()
) -> str:
    """Return the YAML of a declaration. A field that is named twice has its last value; a field below one
    that stands already, such as method.rank below `method: auto`, joins it.
    """
    tree: Tree = {}
    for setting in settings:
        _put(tree, setting.field.split("."), setting)
        if setting.field == "base_model":
            tree["data"] = {}  # its place
    lines = [(f"# {in_one_line(line)}", "") for line in heading]
    lines += _block(tree, "", sources)
    return "".join(f"{line}   # {in_one_line(why)}\n" if why else f"{line}\n" for line, why in lines)


def _put(tree: Tree, path: list[str], setting: Setting) -> None:
    name, *below = path
    there = tree.get(name)
    if not below:
        tree[name] = _Leaf(setting.value, setting.why)
    elif isinstance(there, _Leaf) and isinstance(there.value, dict):
        value = {**there.value, ".".join(below): setting.value}
        tree[name] = _Leaf(value, "; ".join(filter(None, (there.why, setting.why))))
    else:
        if isinstance(there, _Leaf):
            tree[name] = {SHORTHANDS[name]: there}
        _put(tree.setdefault(name, {}), below, setting)


def _block(tree: Tree, indent: str, sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    for name, part in tree.items():
        if isinstance(part, _Leaf):
            text = json.dumps(part.value, ensure_ascii=False) if name == "description" else inline(part.value)
            yield f"{indent}{name}: {text}", part.why
            continue
        yield f"{indent}{name}:", ""
        if name == "data" and not indent:
            yield "  sources:", ""
            for source in sources:
                yield from _entry(source)
        yield from _block(part, f"{indent}  ", sources)


def _entry(source: Source) -> Iterator[tuple[str, str]]:
    lead, why = "    - ", source.why
    for name, value in source.fields.items():
        yield f"{lead}{name}: {inline(value)}", why or ("our name: your column" if name == "fields" else "")
        lead, why = "      ", ""
