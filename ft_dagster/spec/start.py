"""The files of a new project; what is already there is never overwritten."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.files import expanded
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
evaluation:
  general: []   # lm-eval tasks watched against forgetting, for example [arc_easy, hellaswag] or YAML files
  limit: 400   # questions of each task; 362 show a model that lost nothing to be within 5 points
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
class StartedProject:
    """The files made, and what is to be said of them."""

    made: list[Path]
    said: tuple[str, ...]


def start_project(folder: Path, key: VariantKey, base_model: str, data: str) -> StartedProject:
    """Write settings, policy, defaults and the declaration of `key`. Raises UserError where it is declared.

    The folder of rows, and of a base, that lie outside of the project is added to what tenants may read.
    """
    declaration = folder / "tenants" / key.tenant / f"{key.variant}.yaml"
    if declaration.exists():
        raise UserError("this variant is already declared", file=declaration, fix="Choose another --variant")
    rows, base = _root_of(folder, data), _root_of(folder, base_model)
    settings = folder / SETTINGS_FILE
    files = {
        settings: SETTINGS.format(
            allow=", ".join([".", *map(json.dumps, rows)]), bases=", ".join(map(json.dumps, base))
        ),
        folder / POLICY_FILE: POLICY,
        folder / "tenants" / "defaults.yaml": DEFAULTS,
        declaration: VARIANT.format(variant=key, base_model=base_model, data=data),
        folder / ".gitignore": IGNORED,
    }
    made = [path for path in files if not path.exists()]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    named = (("sources.allow", rows), ("sources.bases", base))
    said = [_said(field, place, settings, settings in made) for field, places in named for place in places]
    return StartedProject(made, tuple(said))


def _said(field: str, place: str, settings: Path, is_new: bool) -> str:
    if is_new:
        return f"{place} lies outside of the project: added to {field} in {settings}, for every tenant"
    return f"{place} lies outside of the project: add it to {field} in {settings}, which was there before"


def _root_of(folder: Path, place: str) -> list[str]:
    """The folder or address that tenants need to read `place`; none for one of the project or the hub."""
    if "://" in place:
        return [place.partition("*")[0].rpartition("/")[0] if "*" in place else place]
    project, path = folder.resolve(), folder.absolute() / expanded(place)
    real = Path(os.path.realpath(path))
    inside = real.is_relative_to(project)
    if inside or not (path.exists() or os.path.isabs(expanded(place)) or place.startswith("..")):
        return []
    while real != real.parent and (real.is_file() or "*" in str(real)):
        real = real.parent
    return [str(real)]
