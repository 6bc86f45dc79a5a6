"""Changes some values of a declaration, and writes those changes into its file."""

from __future__ import annotations

import copy
import difflib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ft_dagster.errors import UserError
from ft_dagster.files import draft_in, put
from ft_dagster.spec.declarations import unfit
from ft_dagster.spec.load import SHORTHANDS, Declared, load_variant
from ft_dagster.spec.validation import CALLED, mistakes_in
from ft_dagster.spec.variant import VariantSpec

ORIGIN = "experiment"
# What an experiment may change: how a model is trained. Never what it learns from, what is asked of it, by
# which gates it is judged, what of it is shown, nor where this host writes.
OVERRIDABLE = (
    *("method", "training", "objective", "export.format"),
    *("base_model.source", "base_model.revision", "base_model.new_tokens"),
    *("data.general", "data.train_on", "data.on_too_long"),
)
NOT_OVERRIDABLE = (
    "training.deepspeed.nvme_path",
    "training.report_to",
    "training.checkpoint_minutes",
)


def with_overrides(declared: Declared, overrides: Mapping[str, Any]) -> Declared:
    """Return `declared` with the values of `overrides` (dotted field -> value). Raises UserError."""
    if not overrides:
        return declared
    tree = declared.spec.model_dump(mode="json")
    for field, value in overrides.items():
        _set(tree, field, value, declared.file)
    try:
        spec = VariantSpec.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        found = ".".join(str(part) for part in first["loc"])
        blamed = next((field for field in overrides if found.startswith(field)), None) or found or None
        raise UserError(
            message[0].lower() + message[1:],
            file=declared.file,
            field=blamed or ", ".join(overrides),
            value=first["input"] if blamed in overrides else json.dumps(dict(overrides)),
            fix=mistakes_in(error, VariantSpec, lambda field: declared.file)[0].fix,
        ) from None
    for problem in unfit(spec, lambda field: declared.file):
        raise problem
    origins = {
        leaf: ORIGIN
        if any(leaf == field or leaf.startswith(f"{field}.") for field in overrides)
        else declared.origins.get(leaf, "built-in")
        for leaf in _leaves(spec.model_dump(mode="json"))
    }
    return replace(declared, spec=spec, origins=origins)


def refuse_fixed(field: str, value: Any, file: Path | None = None, *, named: str | None = None) -> None:
    """Raises UserError for a field, or a whole part with one, that no experiment may change. `named`: what
    the user wrote it with.
    """
    below = {field, *(f"{field}.{leaf}" for leaf in _leaves(value) if isinstance(value, dict) and leaf)}
    if any(not _in(each, OVERRIDABLE) or _in(each, NOT_OVERRIDABLE) for each in below):
        raise UserError(
            "no experiment may change it: runs would not be judged alike, or it does not act on training",
            file=file,
            field=named or field,
            value=field if named else value,
            fix=f"Below these it may: {', '.join(OVERRIDABLE)}",
        )


def _in(field: str, parts: tuple[str, ...]) -> bool:
    return any(field == part or field.startswith(f"{part}.") for part in parts)


def value_at(spec: VariantSpec, field: str) -> Any:
    """Return the plain JSON value of a dotted field; None below a part that is not declared."""
    value: Any = spec.model_dump(mode="json")
    for name in field.split("."):
        value = None if value is None else value[name]
    return value


def declared_text(declared: Declared, overrides: Mapping[str, Any]) -> str:
    """Return the declaration's YAML with those overrides in it that change something; comments stay."""
    return edited(declared.file.read_text("utf-8"), changed(declared, overrides))


def edited(text: str, fields: Mapping[str, Any]) -> str:
    """Return YAML with these dotted fields in it; comments stay."""
    from ruamel.yaml import YAML
    from ruamel.yaml.util import load_yaml_guess_indent

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = len(text) + 110  # no line is broken
    _, _, dash = load_yaml_guess_indent(text)
    if dash is not None:
        yaml.indent(mapping=2, sequence=2 + dash, offset=dash)
    content = yaml.load(text)
    for field, value in fields.items():
        _write(content, field, value)
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def write_declared(
    project: Path, declared: Declared, overrides: Mapping[str, Any], *, by_hand: str | None = None
) -> Path:
    """Write overrides into the declaration's file, comments kept; the file. `by_hand`: what to write where it
    cannot take them by itself: it is then as it was, and UserError raised.
    """
    wanted = with_overrides(declared, overrides).spec
    named = by_hand or ", ".join(f"{field}: {value}" for field, value in overrides.items())
    write_fields(
        declared.file,
        changed(declared, overrides),
        lambda: load_variant(project, declared.key).spec == wanted,
        named,
    )
    return declared.file


def write_fields(file: Path, fields: Mapping[str, Any], holds: Callable[[], bool], by_hand: str) -> None:
    """Write dotted fields into a YAML file, comments and line ends kept. `holds`: says whether it then is
    what it should be (UserError: it is not), and `by_hand` what to write where it is not: it is then as it
    was, and UserError raised.
    """
    place = Path(os.path.realpath(file))
    before = place.read_bytes()
    text = edited(place.read_text("utf-8"), fields)
    _replace(place, text.replace("\n", "\r\n" if b"\r\n" in before else "\n").encode())
    try:
        same = holds()
    except UserError:
        same = False
    if not same:
        _replace(place, before)
        raise UserError(
            "this file cannot take the values by itself; it is as it was",
            file=file,
            fix=f"Write them by hand: {by_hand}",
        )


def _replace(file: Path, content: bytes) -> None:
    """Replace a file as a whole or not at all. Raises UserError."""
    try:
        with draft_in(file.parent) as draft:
            draft.write_bytes(content)
            shutil.copymode(file, draft)
            put(draft, file)
    except OSError as error:
        fix = "Let the user that runs ft-dagster write it"
        raise UserError(f"cannot be written: {error.strerror}", file=file, fix=fix) from None


def changed(declared: Declared, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides whose value is not the declared one already."""
    return {f: v for f, v in overrides.items() if value_at(declared.spec, f) != v}


def _set(tree: dict[str, Any], field: str, value: Any, file: Path) -> None:
    *parents, last = field.split(".")
    here = tree
    for name in parents:
        if not isinstance(here.get(name, ""), dict | None):
            raise _unknown(field, tree, file)
        here[name] = here[name] or {}  # a part that is not declared: what it needs is judged with the rest
        here = here[name]
    if here and last not in here:
        raise _unknown(field, tree, file)
    here[last] = value


def _unknown(field: str, tree: dict[str, Any], file: Path) -> UserError:
    above, dot, last = field.rpartition(".")
    meant = f"{above}{dot}{CALLED.get(last, last)}"
    close = difflib.get_close_matches(meant, _leaves(tree), n=1, cutoff=0.6)
    fix = f"Did you mean {close[0]}?" if close else "See `ft-dagster show VARIANT` for the fields"
    return UserError("unknown field", file=file, field=field, fix=fix)


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict) or not tree:
        return [prefix]
    return [
        leaf for name, below in tree.items() for leaf in _leaves(below, f"{prefix}.{name}".removeprefix("."))
    ]


def _write(content: Any, field: str, value: Any) -> None:
    """Set a field in the file's own tree; a shorthand on the way becomes the mapping it stands for."""
    *parents, last = field.split(".")
    here, path = content, ""
    for name in parents:
        path = f"{path}.{name}".removeprefix(".")
        if not isinstance(here.get(name), dict):
            short = here.get(name)
            here[name] = {} if short is None else {SHORTHANDS[path]: short}
        here = here[name]
    here[last] = copy.deepcopy(value)
