"""Writes the files of a new project; what is already there is never overwritten."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.errors import UserError
from ft_dagster.files import new_file
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.policy import POLICY_FILE

SETTINGS_FILE = "ft_dagster.yaml"
SETTINGS = """\
# Settings of this installation. Environment variables override: FT_DAGSTER_STORE, FT_DAGSTER_WORK, ...
store: .ft_dagster/store   # a folder, or s3://bucket/prefix
# store_options: {{endpoint_url: ..., profile: ...}}
sources:   # what declarations may read: folders (from here) and address prefixes
  allow: [{allow}]
  bases: [{bases}]   # more of them, for base models
"""
POLICY = """\
# What this platform allows its tenants. What is not said here is built in (docs/policy.md);
# `ft-dagster schema --policy` lists the fields.
evaluation:
  general: none   # LAXER than built in: nothing general need be asked. Leave it out as soon as defaults.yaml
                  # names benchmarks, or nobody sees what a model forgot
"""
DEFAULTS = """\
# What all tenants share; a declaration's own value wins. `ft-dagster show VARIANT` says what came from here.
data:
  decontaminate: {coverage: 0.6}   # leaves out rows with most of a benchmark's question, not those alone that
                                   # repeat it word for word
evaluation:
  general: []   # lm-eval tasks watched against forgetting, for example [arc_easy, hellaswag] or YAML files
  limit: 400   # questions of each task; 362 show a model that lost nothing to be within 5 points
training:
  watch: {questions: 20}   # of each of these tasks, asked of the base and again while a model trains
# gates: {loss_tail: 0.05}   # where a loss judges: takes 72 test rows or held-out texts (built in: 183)
"""
VARIANT = """\
description: What {variant} is for, in a sentence
owners: [you@example.com]
base_model: {base_model}
data:
  sources: [{data}]
  # general: {{corpus: general, share: 0.08}}   # needs corpora/general.yaml
  # general: {{from: base, share: 0.08}}        # or what the base itself writes
method: auto
export: adapter
"""
IGNORED = "/.ft_dagster/\n"


@dataclass(frozen=True)
class Start:
    """Holds a first declaration, None: the general one, and what is to be said of it. `again`: the same text
    may stand there already.
    """

    declaration: str | None = None
    said: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class StartedProject:
    """Lists the files made, and what is to be said of them."""

    made: list[Path]
    said: tuple[str, ...]


def start_project(
    folder: Path, key: VariantKey, base_model: str, data: str | Sequence[str], start: Start | None = None
) -> StartedProject:
    """Write settings, policy, defaults and the declaration of `key`. Raises UserError where it is declared.

    `base_model` and `data`, one place or several, are each an absolute path, an address or a name of the hub
    (`base.base_from`, `locations.rows_from`). The folder of those that lie outside of the project is added to
    what tenants may read.
    """
    start = start or Start()
    declaration = new_declaration(folder, key, start)
    sources = [data] if isinstance(data, str) else list(data)
    rows = list(dict.fromkeys(root for source in sources for root in _root_of(folder, source)))
    base = _root_of(folder, base_model)
    settings = folder / SETTINGS_FILE
    files = {
        settings: SETTINGS.format(
            allow=", ".join([".", *map(json.dumps, rows)]), bases=", ".join(map(json.dumps, base))
        ),
        folder / POLICY_FILE: POLICY,
        folder / "tenants" / "defaults.yaml": DEFAULTS,
        declaration: start.declaration
        or VARIANT.format(
            variant=key,
            base_model=inline(written_place(folder, base_model)),
            data=", ".join(inline(written_place(folder, source)) for source in sources),
        ),
        folder / ".gitignore": IGNORED,
    }
    made = [path for path, text in files.items() if not path.exists() and _wrote(path, text)]
    if declaration not in made:
        new_declaration(folder, key, start)  # another may have declared the variant meanwhile
    named = (("sources.allow", rows), ("sources.bases", base))
    said = [
        _said(field, place, settings, settings in made)
        for field, places in named
        for place in places
        if settings in made or not _is_listed(place, settings, field)
    ]
    of_hub = [place for place in (base_model, *sources) if not os.path.isabs(place) and "://" not in place]
    said += [
        f"no {place} here: taken for a repository of the hub, which `check` asks for it" for place in of_hub
    ]
    return StartedProject(made, (*start.said, *said))


def _wrote(path: Path, text: str) -> bool:
    """Write a file whole; False where one came meanwhile."""
    try:
        with new_file(path) as draft:
            draft.write_text(text, "utf-8")
    except FileExistsError:
        return False
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    return True


def new_declaration(folder: Path, key: VariantKey, start: Start | None = None) -> Path:
    """Return the file of a variant that is to be declared. Raises UserError where it is there already, but
    for the very text of a `start` that may stand there, and where a file stands in place of a folder.
    """
    declaration = folder / "tenants" / key.tenant / f"{key.variant}.yaml"
    there = next((each for each in declaration.parents if os.path.lexists(each)), None)
    if there is not None and not there.is_dir():
        fix = "Name the folder of a project, or one that is not there yet"
        raise UserError("not a folder", file=there, fix=fix)
    if os.path.lexists(declaration):
        text = None if start is None or not start.again else start.declaration
        if text is not None and declaration.is_file() and declaration.read_bytes() == text.encode():
            return declaration
        raise UserError("this variant is already declared", file=declaration, fix="Choose another --variant")
    return declaration


def _is_listed(place: str, settings: Path, field: str) -> bool:
    """Say whether settings that were there name a place, or a folder above it, in a field such as
    sources.allow.
    """
    try:
        content = yaml.safe_load(settings.read_text("utf-8"))
        listed = content["sources"][field.removeprefix("sources.")]
        places = [os.path.join(settings.parent.absolute(), each) for each in listed]
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return False
    return place in listed or any(Path(place).is_relative_to(os.path.normpath(each)) for each in places)


def _said(field: str, place: str, settings: Path, is_new: bool) -> str:
    if is_new:
        return f"{place} lies outside of the project: added to {field} in {settings}, for every tenant"
    return f"{place} lies outside of the project: add it to {field} in {settings}, which was there before"


def inline(value: Any) -> str:
    """Return a value in one line of YAML, quoted as in brackets: a comma or a colon is quoted, too."""
    listed = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=math.inf
    )
    return str(listed.strip()[1:-1])


def written_place(folder: Path, place: str) -> str:
    """Return a place as the declaration names it: a path inside of the project counts from there."""
    project = folder.absolute()
    inside = os.path.isabs(place) and Path(place).is_relative_to(project)
    return str(Path(place).relative_to(project)) if inside else place


def _root_of(folder: Path, place: str) -> list[str]:
    """Return the folder or address that tenants need to read `place`; none for one of the project or the
    hub.
    """
    if "://" in place:
        return [place.partition("*")[0].rpartition("/")[0] if "*" in place else place]
    real = Path(os.path.realpath(place))
    if not os.path.isabs(place) or real.is_relative_to(folder.resolve()):
        return []
    while real != real.parent and not real.is_dir():
        real = real.parent
    return [str(real)]
