"""Make the store of store_judged, by `python -m tests.compat.make_judged_store --to FOLDER`.

The chain of the commit on which this runs makes it, by the command line alone, in a neutral folder. A store
once committed is never made again: that of another commit goes into another folder.

    acme.places    judged by a loss on 12 rows and 49 texts; what is undecided passes as measured
    acme.strict    undecided does not pass: its margins are so wide that 3 texts rule a rise out
    acme.batches   the same as acme.places with `evaluation.limit: auto`
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from tests.compat.make_store import WORKSHOP, command
from tests.e2e.project import declaration, edit, write_project, write_yaml
from tests.tiny_model import make_tiny_model

WIDE: dict[str, Any] = {
    "general_margin": 1.0, "general_loss_margin": 1.0, "degeneration_margin": 1.0, "alpha": 0.4,
    "regression_margin": None, "undecided": "fail",
}  # fmt: skip


def give(project: Path) -> None:
    """The declarations of three variants on a tiny model inside the project."""
    write_project(project, Path("models/tiny"))
    make_tiny_model(project / "models" / "tiny")
    shutil.rmtree(project / "tenants" / "globex")
    write_yaml(project / "ft_dagster.yaml", {"store": "store", "host": {"cpu_slots": 2}})
    tenant = project / "tenants" / "acme"
    write_yaml(tenant / "strict.yaml", declaration(Path("models/tiny"), gates=WIDE))
    write_yaml(tenant / "batches.yaml", declaration(Path("models/tiny")))
    edit(tenant / "batches.yaml", lambda content: content["evaluation"].update(limit="auto"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--to", type=Path, required=True, help="A folder that does not exist yet")
    target = options.parse_args().to
    if target.exists() or WORKSHOP.exists():
        raise SystemExit(f"{target} or {WORKSHOP} exists: nothing is overwritten")
    project = WORKSHOP / "project"
    give(project)
    command(project, "run", "--all")
    shutil.copytree(project, target, ignore=shutil.ignore_patterns(".ft_dagster"))
    shutil.rmtree(WORKSHOP)


if __name__ == "__main__":
    main()
