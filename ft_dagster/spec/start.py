"""The files of a new project; what is already there is never overwritten."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.spec.keys import VariantKey

SETTINGS = """\
# Settings of this installation. Environment variables override: FT_DAGSTER_STORE, FT_DAGSTER_WORK, ...
store: .ft_dagster/store   # a folder, or s3://bucket/prefix
# store_options: {endpoint_url: ..., profile: ...}
"""
DEFAULTS = """\
# What all tenants share; a declaration's own value wins. `ft-dagster show VARIANT` says what came from here.
evaluation:
  general: []   # lm-eval tasks watched against forgetting, for example [arc_easy, hellaswag] or YAML files
  limit: 100
"""
VARIANT = """\
description: What {variant} is for, in a sentence
owners: [you@example.com]
base_model: {base_model}
data:
  sources: [{data}]
  # general: {{corpus: general, share: 0.08}}   # needs corpora/general.yaml; guards against forgetting
method: auto
export: adapter
"""
IGNORED = "/.ft_dagster/\n"


def start_project(folder: Path, key: VariantKey, base_model: str, data: str) -> list[Path]:
    """Write settings, defaults and the declaration of `key`; returns the files made."""
    declaration = folder / "tenants" / key.tenant / f"{key.variant}.yaml"
    if declaration.exists():
        raise UserError("this variant is already declared", file=declaration, fix="Choose another --variant")
    files = {
        folder / "ft_dagster.yaml": SETTINGS,
        folder / "tenants" / "defaults.yaml": DEFAULTS,
        declaration: VARIANT.format(variant=key, base_model=base_model, data=data),
        folder / ".gitignore": IGNORED,
    }
    made = [path for path in files if not path.exists()]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    return made
