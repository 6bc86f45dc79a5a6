"""A desk with another declaration, over the artifacts that are upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_dagster.spec.overrides import with_overrides
from ft_dagster.stages.declaration import freeze
from ft_dagster.workspace.workspace import Workspace


def changed(workspace: Workspace, overrides: Mapping[str, Any]) -> Workspace:
    """The same desk, with another declaration frozen upstream."""
    declared = with_overrides(workspace.declared(), overrides)
    other = Workspace(workspace.settings, workspace.key, workspace.run, launcher=workspace.launcher)
    content = freeze(declared, workspace.project, workspace.cache, workspace.roots)
    other.__dict__.update(frozen=content, spec=declared.spec)
    return other
