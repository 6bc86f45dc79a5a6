"""Tries three fields that a copy of the package has and the one that made the project has not.

python -m tests.spec.new_field PROJECT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import ft_dagster
from ft_dagster.cli import app
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import CHAIN
from ft_dagster.store import Artifact
from ft_dagster.workspace.workspace import Workspace
from tests.docs.reference import pages
from tests.e2e.project import edit

VARIANT = "acme.places"
BETA, ALPHA, LETTERS = "training.adam_beta2", "method.q_alpha", "data.least_letters"
DECAY = "training.weight_decay"
BUILT_IN: dict[str, Any] = {BETA: 0.999, ALPHA: None, LETTERS: 0}
SAID = {
    BETA: "Decay of the mean of the squared gradients",
    ALPHA: "Alpha of the queries",
    LETTERS: "A row with fewer is left out",
}
PARTS = {"training": "TrainingSpec", "method": "MethodSpec", "data": "DataSpec"}
MODEL = "fine_tuned_model"


def main(project: Path) -> None:
    assert Path(ft_dagster.__file__).is_relative_to(Path.cwd() / "copy")
    they_are_in_schema_show_and_reference(project)
    file, first = project / "tenants" / "acme" / "places.yaml", made(project)
    assert causes(project) == set(), "a field that says nothing changes nothing"
    edit(file, lambda declared: declared["training"].update(adam_beta2=0.5))
    assert causes(project) == {BETA}
    faster = made(project)
    assert moved(first, faster) == {"training_plan", MODEL}
    plan = faster["training_plan"].figures
    assert plan["training"]["adam_beta2"] == 0.5
    assert "q_alpha" not in plan["method"]
    assert planned(project, BETA, DECAY) == ["as declared", "none is usual in fine-tuning"]
    edit(file, lambda declared: declared["method"].update(q_alpha=8.0))
    assert causes(project) >= {ALPHA}
    spread = made(project)
    assert moved(faster, spread) == {"training_plan", MODEL}
    assert spread["training_plan"].figures["method"]["q_alpha"] == 8.0
    assert planned(project, ALPHA) == ["as declared"]
    edit(file, lambda declared: declared["data"].update(least_letters=50))
    assert causes(project) >= {LETTERS}
    fewer = made(project, up_to="task_dataset")
    assert moved(spread, fewer) == {"task_dataset"}
    assert fewer["task_dataset"].figures["dropped"]["too few letters"] > 0


def they_are_in_schema_show_and_reference(project: Path) -> None:
    parts = asked(project, "schema")["$defs"]
    shown = asked(project, "show", VARIANT)["fields"]
    for field, said in SAID.items():
        part, _, name = field.partition(".")
        assert parts[PARTS[part]]["properties"][name]["description"] == said
        assert shown[field] == {"value": BUILT_IN[field], "from": "built-in"}
        [row] = [row for row in pages()["declaration.md"].splitlines() if row.startswith(f"| `{field}` |")]
        assert said in row


def asked(project: Path, *arguments: str) -> Any:
    """Return what a command prints as JSON."""
    done = CliRunner().invoke(app, ["--project", str(project), *arguments, *_json(arguments)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def _json(arguments: tuple[str, ...]) -> list[str]:
    return [] if "schema" in arguments else ["--json"]


def causes(project: Path) -> set[str]:
    """Return the declared fields that put the variant out of date."""
    [row] = asked(project, "status", VARIANT)["variants"]
    return {cause["what"] for cause in row["causes"]}


def planned(project: Path, *fields: str) -> list[str]:
    """Return why the newest plan has the values of these fields."""
    reasons = {each["field"]: each["reason"] for each in asked(project, "show", VARIANT)["plan"]}
    return [reasons[field] for field in fields]


def made(project: Path, up_to: str = MODEL) -> dict[str, Artifact]:
    """Make the artifacts of the chain as declared now; they are returned by stage."""
    workspace, artifacts = Workspace(load_settings(project), VariantKey.parse(VARIANT)), {}
    for stage in CHAIN:
        artifacts[stage.name] = workspace.make(stage)
        if stage.name == up_to:
            return artifacts
    raise AssertionError(up_to)


def moved(before: Mapping[str, Artifact], after: Mapping[str, Artifact]) -> set[str]:
    """Return the stages whose bytes are others, but for the declaration, which has each field."""
    return {name for name, one in after.items() if one.digest != before[name].digest} - {"declaration"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
