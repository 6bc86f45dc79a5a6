"""Declarations with a schedule, and a tick of the sensor that reads them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ft_dagster.automation.due import Tick
from ft_dagster.automation.due import tick as tick_of
from ft_dagster.models.derived import released_parent
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.store import write_head
from ft_dagster.store.make import Recipe, make_artifact

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday


def declare(folder: Path, key: str, cron: str | None = None, **more: Any) -> None:
    tenant, variant = key.split(".")
    file = folder / "tenants" / tenant / f"{variant}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "description": "x", "owners": ["a"], "base_model": "models/x", "data": {"sources": ["r.jsonl"]},
        "retrain": {"cron": cron}, **more,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content), "utf-8")


def ticked(folder: Path, instance: dg.DagsterInstance, at: datetime, cursor: str | None = None) -> Tick:
    """A tick at a time, without the sensor's own clock."""
    settings = load_settings(folder)
    return tick_of(instance, settings, Declarations(settings.project), cursor, at)


def tick(folder: Path, instance: dg.DagsterInstance, at: datetime) -> list[dg.RunRequest]:
    """What a tick that reads all runs again asks for."""
    return list(ticked(folder, instance, at).requests)


def start_from(folder: Path, child: str, parent: str) -> None:
    """What a run of `child` leaves when it starts from the parent's release: its base_model head."""
    store, key = load_settings(folder).open_store(), VariantKey.parse(child)
    found = released_parent(store, key, BaseModelSpec(variant=parent))
    recipe = Recipe("base_model", f"tenants/{key.tenant}/{key.variant}", found.inputs)
    base = make_artifact(store, folder / "work", recipe, lambda attempt: {"parent": found.figures})
    write_head(store, recipe.prefix, base, None)
