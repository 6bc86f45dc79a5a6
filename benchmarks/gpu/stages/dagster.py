"""Stage 6, through Dagster: one variant from its declaration to a release, by the command line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from stages.common import Case, Context, Skipped, Wrong, child, last_line

VARIANT = "acme.places"
ROOM = 4_000_000_000  # bytes of a GPU for the tiny model's programs
NEEDED = ("dagster", "dagster_graphql", "lm_eval")


def cases(context: Context) -> list[Case]:
    return [Case(f"{VARIANT} to a release", lambda: released(context))]


def released(context: Context) -> dict[str, Any]:
    """The tests' own small project on the tiny model, with the real daemon, launcher and programs."""
    context.need_memory(ROOM)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"not in the loads that lie here: {', '.join(missing)}")
    from tests.e2e.project import write_project

    project = context.scratch / "project"
    shutil.rmtree(project, ignore_errors=True)
    write_project(project, context.tiny)
    code, said = command(project, "run", VARIANT)
    if code:
        raise Wrong(f"`ft-dagster run` ended with {code}: {last_line(said)[:300]}")
    code, said = command(project, "status", VARIANT, "--json")
    (row,) = json.loads(said[said.index("{") :])["variants"]
    figures = {name: row[name] for name in ("gate", "version", "digest", "validation_loss", "export")}
    if code or row["gate"] is not True or row["version"] != 1:
        raise Wrong("it was not released", figures)
    before, after = row["validation_loss"]
    figures["said"] = (
        f"version 1 released as {row['export']}, validation loss {before:.2f} to {after:.2f},"
        f" on {device(project)}"
    )
    if context.gpu and device(project) != "cuda":
        raise Wrong("it did not train on the GPU", figures)
    return figures


def command(project: Path, *asked: str) -> tuple[int, str]:
    return child(
        "stages.command", "--project", str(project), *asked, environment={"COLUMNS": "120"}, patience=900
    )


def device(project: Path) -> str:
    """On which kind of device it trained, by the run folder's plan or the stored one."""
    plans = sorted(project.glob(".ft_dagster/store/tenants/acme/places/training_plan/*/*/payload/plan.json"))
    return str(json.loads(plans[-1].read_text("utf-8"))["device"]["kind"]) if plans else "unknown"
