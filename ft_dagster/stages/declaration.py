"""Freezes the tenant's declaration with the fingerprints of its sources and evaluation tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.data.sources.fingerprint import fingerprint_sources
from ft_dagster.data.sources.upstream import asset_of, is_asset, read_snapshot
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.roots import Roots
from ft_dagster.spec import Declared
from ft_dagster.spec.data import SourceSpec
from ft_dagster.stage_entries import DECLARATION
from ft_dagster.store import Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, recorded
from ft_dagster.workspace.policy import refuse_declared
from ft_dagster.workspace.stage import Stage

FILE = "declaration.json"


@dataclass(frozen=True)
class DeclarationInputs:
    """Names the inputs of declaration.json, and what the tenant wrote."""

    content: Derived[dict[str, Any]]
    declared: Declared = recorded()
    overrides: dict[str, Any] = recorded()


def inputs(view: View) -> DeclarationInputs:
    declared = view.declared()
    content = view.unlooked(lambda: freeze(declared, view.project, view.cache, view.roots))
    return DeclarationInputs(content, declared, view.overrides)


def build(inputs: DeclarationInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    declared = inputs.declared
    _write(attempt.payload / FILE, inputs.content, sort_keys=True)
    (attempt.evidence / "declared.yaml").write_text(declared.file.read_text("utf-8"), "utf-8")
    _write(attempt.evidence / "origins.json", declared.origins)
    if inputs.overrides:
        _write(attempt.evidence / "overrides.json", inputs.overrides)
    sources = inputs.content["sources"]
    return {"sources": len(sources), "files": sum(len(files) for files in sources)}


def freeze(declared: Declared, project: Path, cache: Path, roots: Roots) -> dict[str, Any]:
    """Return declaration.json: the declaration with the fingerprints of its sources and tasks as they are
    now; of upstream assets, also the materialization, which is in the key of no other stage.
    """
    spec, file = declared.spec, declared.file
    origins = _upstream(spec.data.sources, project)
    prints = fingerprint_sources(spec.data.sources, project, declared_in=file, cache=cache, roots=roots)
    for entry in (entry for source in prints for entry in source):
        if origins.get(entry.get("path", ""), entry).get("sha256") != entry.get("sha256"):
            raise UserError(
                "the asset's snapshot was taken anew meanwhile",
                file=file,
                field="data.sources",
                value=entry["path"],
                fix="Run the variant again",
            )
    return {
        "schema_version": 1,
        "variant": str(declared.key),
        "spec": spec.model_dump(mode="json"),
        "sources": prints,
        "tasks": freeze_tasks(declared, project, roots),
        **({"upstream": origins} if origins else {}),
    }


def _upstream(sources: Sequence[SourceSpec], project: Path) -> dict[str, dict[str, Any]]:
    """Return the materialization behind the newest snapshot of each upstream asset among the sources, by its
    address.
    """
    named = [source.path for source in sources if is_asset(source.path)]
    taken = {path: read_snapshot(project, asset_of(path)) for path in named}
    return {path: snapshot.origin() for path, snapshot in taken.items() if snapshot is not None}


def freeze_tasks(declared: Declared, project: Path, roots: Roots) -> dict[str, dict[str, str]]:
    """Return the digest of each declared evaluation task as it is now, by role."""
    return {
        role: tasks_digest(
            getattr(declared.spec.evaluation, role),
            project,
            field=f"evaluation.{role}",
            asked_by=declared.file,
            roots=roots,
        )
        for role in ("task", "general")
    }


def _write(file: Path, content: Any, **options: Any) -> None:
    file.write_text(json.dumps(content, indent=1, **options), "utf-8")


STAGE = Stage(
    DECLARATION,
    reads=(),
    fields=(),
    inputs=inputs,
    build=build,
    refuse=refuse_declared,
)
