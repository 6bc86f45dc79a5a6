"""Makes docs/reference/ from the code: declaration, corpus, policy, settings, command line, Python, classes.

`make reference` writes them; a test holds that they are current.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

import ft_dagster
from ft_dagster.audit.proofs.proof_form import proof_schema
from ft_dagster.cli.commands import EXIT_CODES, all_commands
from ft_dagster.settings import Settings
from ft_dagster.spec import CorpusSpec, VariantSpec
from ft_dagster.spec.policy import PolicyFile
from tests.docs.classes import public_classes, room

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
WIDEST = 110  # signs of a line of code, as for ruff, which formats blocks of pages too
MADE = "Made from the code by `make reference`; to be changed there.\n"


class Described(NamedTuple):
    """A field, dotted; its type, its default, and its description."""

    field: str
    type: str
    default: str
    description: str


class FieldsPage(NamedTuple):
    """`model` as a page: what it is, in a sentence."""

    title: str
    said: str
    model: type[BaseModel]


PAGES = {
    "declaration.md": FieldsPage(
        "A declaration: tenants/TENANT/VARIANT.yaml",
        "Beneath it `tenants/defaults.yaml` says what tenants share, in the same fields. `ft-dagster show "
        "VARIANT` says of each value where it came from, `ft-dagster schema` prints the JSON Schema.",
        VariantSpec,
    ),
    "corpus.md": FieldsPage(
        "A general corpus: corpora/NAME.yaml",
        "General text for all tenants. `ft-dagster schema --corpus`.",
        CorpusSpec,
    ),
    "policy.md": FieldsPage(
        "A policy: policy.yaml",
        "What the platform allows its tenants ([how it works](../policy.md)). `ft-dagster schema --policy`.",
        PolicyFile,
    ),
    "settings.md": FieldsPage(
        "Settings: ft_dagster.yaml",
        "Where an installation keeps things, and what declarations may read. Environment variables override "
        "it, field by field, and entries of mappings one by one (`FT_DAGSTER_STORE`, "
        "`FT_DAGSTER_HOST__CPU_SLOTS`). `ft-dagster schema --settings`.",
        Settings,
    ),
}  # fmt: skip


def pages() -> dict[str, str]:
    """File name -> content."""
    made = {name: _fields_page(page) for name, page in PAGES.items()}
    made |= {"command-line.md": _command_line(), "python.md": _python(), "classes.md": _classes()}
    return {**made, "proof.schema.json": json.dumps(proof_schema(), indent=2) + "\n"}


def write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in pages().items():
        (FOLDER / name).write_text(content, "utf-8")


def _fields_page(page: FieldsPage) -> str:
    schema = page.model.model_json_schema()
    fields = [each for each in described(schema) if each.field not in ("project", "schema_version")]
    lines = [f"# {page.title}", MADE, f"{page.said}\n", "| field | type | default | |", "|---|---|---|---|"]
    lines += [f"| `{each.field}` | {each.type} | {each.default} | {each.description} |" for each in fields]
    return "\n".join(lines) + "\n"


def described(schema: dict[str, Any]) -> list[Described]:
    """The fields of a JSON schema, those of its parts under their dotted names."""
    return list(_below(schema, schema, "", frozenset()))


def _below(
    whole: dict[str, Any], node: dict[str, Any], path: str, above: frozenset[str]
) -> Iterator[Described]:
    needed = node.get("required", [])
    for name, field in node.get("properties", {}).items():
        here = f"{path}.{name}".removeprefix(".")
        default = "needed" if name in needed else _default(field)
        yield Described(here, _takes(whole, field), default, _plain(field.get("description", "")))
        for part, ending in _parts(field):
            if part not in above:
                yield from _below(whole, whole["$defs"][part], here + ending, above | {part})


def _parts(field: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The models that a field holds, and how the names of their fields go on."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], ""
    for kind in ("anyOf", "allOf", "oneOf"):
        for one in field.get(kind, []):
            yield from _parts(one)
    if isinstance(field.get("items"), dict):
        yield from ((part, f"[]{ending}") for part, ending in _parts(field["items"]))
    for one in _mapped(field):
        yield from ((part, f".NAME{ending}") for part, ending in _parts(one))


def _mapped(field: dict[str, Any]) -> list[dict[str, Any]]:
    """What the values of a mapping are."""
    values = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
    return [one for one in values if isinstance(one, dict)]


def _takes(whole: dict[str, Any], field: dict[str, Any]) -> str:
    if "$ref" in field:
        part = whole["$defs"][field["$ref"].rpartition("/")[2]]
        return _takes(whole, part) if "enum" in part else "fields below"
    choices = [one for kind in ("anyOf", "allOf", "oneOf") for one in field.get(kind, [])]
    if choices:
        return " or ".join(dict.fromkeys(_takes(whole, one) for one in choices))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any value")
    if kind == "array":
        items = field.get("items", {})
        return f"list of {_takes(whole, items)}" if isinstance(items, dict) else "list"
    if kind == "object":
        values = _mapped(field)
        return f"mapping of names to {_takes(whole, values[0])}" if values else "mapping"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return words.get(kind, str(kind)) + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {field[sign]:,.10g}" for sign, word in signs.items() if sign in field]
    return f" {' '.join(said)}" if said else ""


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if isinstance(default, dict):
        return "as below" if default or "$ref" in field else "none"
    return f"`{_of_anybody(json.dumps(default, ensure_ascii=False))}`" if default is not None else ""


def _of_anybody(text: str) -> str:
    """Without the user and the host of who makes the pages."""
    return re.sub(rf"-{os.getuid()}\b", "-UID", text)


def _plain(text: str) -> str:
    return _prose(" ".join(text.split()).replace("|", "\\|"))


def _prose(text: str) -> str:
    """A `<` outside of code begins no HTML."""
    return "`".join(part if at % 2 else part.replace("<", "\\<") for at, part in enumerate(text.split("`")))


def _command_line() -> str:
    root = all_commands()
    lines = [
        "# The command line",
        MADE,
        "`ft-dagster [--project FOLDER] COMMAND`; `--json` prints one JSON document.\n",
    ]
    lines += [f"{EXIT_CODES}\n"]
    for name, command in _commands(root, ""):
        lines += [
            f"## ft-dagster {name}",
            f"{_plain(inspect.cleandoc(command.help or ''))}\n",
            *_parameters(command),
            "",
        ]
    return _of_anybody("\n".join(lines).rstrip() + "\n")


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def _parameters(command: Any) -> list[str]:
    rows = []
    for each in command.params:
        if each.name == "help":
            continue
        is_option = each.param_type_name == "option"
        name = ", ".join(each.opts) if is_option else (each.metavar or str(each.name).upper())
        shown = name.replace("|", "\\|")  # in a cell a plain | ends it, in code too
        rows.append(f"| `{shown}` | {_plain(getattr(each, 'help', None) or '')} |")
    return ["| | |", "|---|---|", *rows] if rows else []


def _python() -> str:
    """The public names of the package: how each is called, what it says of itself and of its members."""
    said = " ".join((ft_dagster.__doc__ or "").partition("\n\n")[2].split())
    lines = ["# From Python", MADE, f"{said}\n"]
    for name in ft_dagster.__all__:
        value = getattr(ft_dagster, name)
        if callable(value):
            doc = inspect.getdoc(value) or ""
            lines += [
                f"## {name}",
                f"```python\n{_called(name, value)}\n```\n",
                f"{_prose(doc)}\n",
                *_members(value),
            ]
    lines += [f"`CHAIN` has the stages in order: {', '.join(f'`{each.name}`' for each in ft_dagster.CHAIN)}."]
    return "\n".join(lines) + "\n"


def _classes() -> str:
    """Make a table for each room: a public class, its file, and the first sentence of its docstring."""
    lines = [
        "# Classes",
        MADE,
        "Every public class, by room. The domain's words: [glossary](../glossary.md).\n",
    ]
    by_room = sorted(public_classes(), key=lambda each: (room(each.file), each.name.lower(), each.file))
    for name, classes in groupby(by_room, key=lambda each: room(each.file)):
        rows = [f"| `{each.name}` | {_plain(each.summary)} | `{Path(each.file).name}` |" for each in classes]
        lines += [f"## {name}", "| class | summary | file |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _called(name: str, value: Any) -> str:
    """The call, by the names of its arguments; `=...` where one may be left out."""
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return f"{name}(...)"
    words = []
    for each in inspect.signature(value).parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(each.name + ("" if each.default is each.empty else "=..."))
    call = f"{name}({', '.join(words)})"
    return call if len(call) <= WIDEST else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _members(value: Any) -> list[str]:
    """A table of the public methods and properties of a class that say what they are."""
    if not inspect.isclass(value):
        return []
    rows = []
    for name, member in vars(value).items():
        doc = _plain(inspect.getdoc(member) or "") if callable(member) or hasattr(member, "__get__") else ""
        if doc and not name.startswith("_"):
            call = name if isinstance(member, property | cached_property) else f"{name}()"
            rows.append(f"| `{call}` | {doc} |")
    return ["| | |", "|---|---|", *rows, ""] if rows else []


if __name__ == "__main__":
    write()
