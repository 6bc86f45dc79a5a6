"""A stage's code changed: somebody must decide whether its meaning did.

When this fails, either raise the stage's version in ft_dagster/stage_entries (its artifacts are then
made again) or leave it, and in both cases record the decision:
`python -m tests.provenance.test_stage_versions`.

A stage's code is what its file and the programs that it runs import, however far, less the floor below.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import ENTRIES, version_of
from ft_dagster.stages.chain import CHAIN, ON_DEMAND, STEPS

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
RECORDS = Path(__file__).with_name("stage_code")  # a file a stage: so that branches meet in few of them
FLOOR = {  # what means nothing to a result, and why
    "errors": "wording",
    "report": "wording and pictures",
    "settings": "where an installation keeps things",
    "fleet_settings": "what retrains may cost, and who orders them",
    "notification_settings": "who is told of events",
    "roots": "what a declaration may reach: it refuses, and changes no result",
    "program": "how programs hand over requests and results",
    "launch": "how programs are started and ended",
    "store": "where artifacts lie",
    "provenance": "names and digests of artifacts; a change of these moves every key by itself",
    "spec": "what a stage reads of a declaration is in its key by value",
    "stage_entries": "what is known of a stage without its code; its version is recorded beside the code",
    "workspace.stage": "how stages are put together",
    "workspace.keyed_inputs": "how keys are put together: a change moves every key by itself",
    "workspace.workspace": "how stages are run",
    "workspace.policy": "what a platform allows: it refuses, and changes no result",
    "stages.asking.prompted_in_run": "when the base is asked with examples: in no key, stops no stage",
    "stages.asking.train_test_overlap": "what weights are not judged on: it refuses, and changes no result",
    "workspace.input_view": "what stages may ask for",
    "workspace.past": "what stages may ask of what was made: an answer that acts is in the key by value",
    "workspace.build_context": "how builds reach folders and programs",
    "workspace.plan_context": "what is recorded beside a plan, and in no key",
}
BY_NAME = ("ft_dagster.training.methods",)  # packages that import their modules by name, which no graph sees
NO_STAGE_OBJECT = {  # made beside the chain, or no artifact
    "general_corpus": ("ft_dagster.stages.general_corpus",),
    **{step.name: (f"ft_dagster.stages.{step.name}",) for step in STEPS},
}


@cache
def import_graph() -> grimp.ImportGraph:
    graph = grimp.build_graph("ft_dagster", exclude_type_checking_imports=True)
    for module in list(graph.modules):
        name = module.removeprefix("ft_dagster.")
        if any(name == each or name.startswith(f"{each}.") for each in FLOOR):
            graph.remove_module(module)
    for package in BY_NAME:
        for module in graph.find_children(package):
            graph.add_import(importer=package, imported=module)
    return graph


def roots() -> dict[str, set[str]]:
    """Stage -> its file, and the programs that it runs."""
    found: dict[str, set[str]] = {name: set(modules) for name, modules in NO_STAGE_OBJECT.items()}
    for stage in (*CHAIN, *ON_DEMAND):
        programs = {f"ft_dagster.{program}" for program in stage.programs}
        mains = {f"{program}.__main__" for program in programs}
        known = import_graph().modules
        found.setdefault(stage.name, set()).update(
            {stage.build.__module__, *(mains & known), *(p for p in programs if f"{p}.__main__" not in known)}
        )
    return found


def modules_of(stage: str) -> set[str]:
    """Every module that gives a stage its meaning."""
    graph, starts = import_graph(), roots()[stage]
    return starts.union(*(graph.find_upstream_modules(start) for start in starts))


def code_of(stage: str) -> dict[str, Any]:
    """A digest of the stage's code without comments, docstrings and layout, and its version."""
    trees = {module: _bare(_file(module)) for module in sorted(modules_of(stage))}
    return {"version": version_of(stage), "code": sha256_json(trees)}


def _record(stage: str) -> Path:
    return RECORDS / f"{stage}.json"


def _file(module: str) -> Path:
    path = PACKAGE.parent / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _bare(file: Path) -> str:
    """Without comments, docstrings and layout. Most files are code of most stages: each is read once."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize("stage", ENTRIES)
def test_a_stage_whose_code_changed_was_decided_upon(stage: str) -> None:
    assert code_of(stage) == json.loads(_record(stage).read_text("utf-8")), (
        f"{stage}: see the top of {Path(__file__).name}"
    )


def test_every_stage_has_a_version_and_a_record() -> None:
    assert set(roots()) == set(ENTRIES) == {file.stem for file in RECORDS.iterdir()}


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("base_model", "export.merging"),  # a parent's adapter is folded by the merge
        ("training_plan", "fake_tensors"),  # the shapes that the step is run on
        ("model_export", "training.rounding"),
        ("evaluation", "data.rendering.render"),  # rows are rendered to be asked
        ("fine_tuned_model", "training.watch.forgetting"),
        ("fine_tuned_model", "training.methods.lora_8bit"),
        ("training_plan", "training.methods.lora_8bit"),
    ],
)
def test_what_a_program_of_the_stage_imports_is_its_code(stage: str, module: str) -> None:
    assert f"ft_dagster.{module}" in modules_of(stage)


@pytest.mark.parametrize("stage", ENTRIES)
def test_wording_trips_no_stage(stage: str) -> None:
    assert not [m for m in modules_of(stage) if m.startswith(("ft_dagster.report", "ft_dagster.errors"))]


if __name__ == "__main__":
    for each in ENTRIES:
        _record(each).write_text(json.dumps(code_of(each), indent=1) + "\n", "utf-8")
