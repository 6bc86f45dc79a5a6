"""From an artifact to what it was made of, and back, goes one module: `lineage/graph.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
GRAPH = "lineage/graph.py"
LOOKUPS = {"find_artifact", "find_digest", "of_equal_bytes", "with_digest", "named", "find"}
CLIMBS = {"input_of", "needed", "parent", "parent_artifact", "path"}
LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _called(node: ast.AST) -> str:
    """The last part of the name that a call calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_inputs(node: ast.AST) -> bool:
    """Whether it is `artifact.inputs`, `inputs_of(artifact)` or `index.inputs(artifact)`, or a part of it."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("inputs", "input_manifests") or _is_inputs(node.value)
    if isinstance(node, ast.Subscript):
        return _is_inputs(node.value)
    if isinstance(node, ast.Call):
        return _called(node) == "inputs_of" or _is_inputs(node.func)
    return False


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _looks_up_inputs(loop: ast.AST) -> bool:
    """Whether a loop over inputs looks up an artifact by each."""
    for each in loop.generators if isinstance(loop, COMPREHENSIONS) else [loop]:
        if isinstance(each, ast.For | ast.comprehension) and _is_inputs(each.iter):
            of_each = _names(each.target)
            for node in ast.walk(loop):
                looks = _called(node) in LOOKUPS | {"get"} or isinstance(node, ast.Subscript)
                if looks and node is not each.iter and of_each & _names(node):
                    return True
    return False


def _climbs(loop: ast.AST) -> bool:
    """Whether a loop goes on from an artifact to the one that it was made of."""
    if not isinstance(loop, ast.For | ast.While):
        return False
    steps = [
        each for each in ast.walk(loop) if isinstance(each, ast.Assign) and _called(each.value) in CLIMBS
    ]
    return any(
        isinstance(name, ast.Name) and name.id in _names(step.value)
        for step in steps
        for name in step.targets
    )


def _compares_inputs(loop: ast.AST) -> bool:
    """Whether artifacts are chosen by the digest of an input."""
    for each in loop.generators if isinstance(loop, COMPREHENSIONS) else ():
        for node in (one for condition in each.ifs for one in ast.walk(condition)):
            sides = (node.left, *node.comparators) if isinstance(node, ast.Compare) else ()
            if any(_is_inputs(side) and _names(side) & _names(each.target) for side in sides):
                return True
    return False


def walkers(tree: ast.Module) -> Iterator[int]:
    """The lines at which a module goes from inputs to artifacts, or back, by itself."""
    for node in ast.walk(tree):
        if isinstance(node, LOOPS) and (_looks_up_inputs(node) or _climbs(node) or _compares_inputs(node)):
            yield node.lineno
        elif _called(node) in LOOKUPS and isinstance(node, ast.Call):
            given = (*node.args, *(keyword.value for keyword in node.keywords))
            if any(_is_inputs(each) and isinstance(each, ast.Subscript | ast.Call) for each in given):
                yield node.lineno


@cache
def found() -> dict[str, list[int]]:
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    lines = {name: list(walkers(ast.parse(file.read_text("utf-8")))) for name, file in files.items()}
    return {name: each for name, each in lines.items() if each}


@pytest.mark.slow
def test_no_module_but_the_graph_walks_from_artifacts_to_artifacts() -> None:
    assert found().keys() == {GRAPH}


@pytest.mark.parametrize(
    "code",
    [
        "for name, digest in artifact.inputs.items():\n    found.append(by_digest[digest])",
        "above = [known.get(name) for name in artifact.inputs]",
        "above = [find(artifact, name, one) for name, one in inputs_of(artifact).items()]",
        "while started_from(base):\n    base = parent_artifact(store, base, BASE)",
        "for stage in STAGES:\n    judged = audit.index.parent(judged, stage)",
        "held = [one for one in artifacts if one.inputs.get(WEIGHTS) in known]",
        "base = find_digest(store, [SHARED], BASE, head.inputs[BASE])",
        "weights = audit.index.with_digest(base.inputs.get(WEIGHTS))",
    ],
)
def test_a_walker_of_its_own_is_found(code: str) -> None:
    assert [*walkers(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        "if export.inputs[BASE] != base.digest:\n    raise refused",
        "tags = {name: digest for name, digest in export.inputs.items()}",
        "above = inputs(graph, made, [name for name in made.inputs if stage_of(made, name) in ORDER])",
        "for stage in ASKED:\n    taken[stage] = needed(index, judged, stage)",
        "rows = input_of(graph, weights, MIXTURE, DATASET)",
    ],
)
def test_what_asks_the_graph_or_compares_two_artifacts_is_none(code: str) -> None:
    assert not [*walkers(ast.parse(code))]
