"""Make one stage of a variant in a project: `python rebuild_stage.py PROJECT VARIANT STAGE ANSWER`.

`replay` runs this file with the kept code of an artifact before the installed package, so all that it uses of
the package is what its functions import. ANSWER takes a JSON: which `code` ran, and the `prefix`, `key` and
`digest` of what it made, or the `error`.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(project: str, variant: str, stage: str, answer: str) -> int:
    """Return the exit code: 0 where the stage was made, 2 where the code refused it or cannot do it. It ends
    with who asked.
    """
    asked_by = os.getppid()
    try:
        from ft_dagster.launch.processes import die_with_parent

        die_with_parent()
        if os.getppid() != asked_by:
            return 1  # nobody is left who asks
        found = _made(Path(project), variant, stage)
    except ImportError as error:
        found = {"error": f"its code is older than stages that run by themselves ({error})"}
    Path(answer).write_text(json.dumps(found), "utf-8")
    return 2 if "error" in found else 0


def _made(project: Path, variant: str, name: str) -> dict[str, object]:
    from ft_dagster.errors import UserError
    from ft_dagster.launch.local import ProgramFailed
    from ft_dagster.provenance.code import source_digest
    from ft_dagster.settings import load_settings
    from ft_dagster.spec import VariantKey
    from ft_dagster.stages.chain import CHAIN

    workspaces = _workspaces()
    code = {"code": source_digest()}
    stage = next(stage for stage in CHAIN if stage.name == name)
    run = workspaces.RunOf("replay", "replay")
    workspace = workspaces.Workspace(load_settings(project), VariantKey.parse(variant), run)
    try:
        made = workspace.make(stage)
    except (UserError, ProgramFailed) as error:
        return {**code, "error": str(error)}
    return {**code, "prefix": made.place.prefix, "key": made.place.key, "digest": made.digest}


def _workspaces() -> Any:
    """Return the module of that code: stages and workspace were one room at first."""
    try:
        return import_module("ft_dagster.workspace.workspace")
    except ModuleNotFoundError:
        return import_module("ft_dagster.stages.workspace")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
