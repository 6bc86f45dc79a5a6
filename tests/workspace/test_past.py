"""What a stage may ask of what was made before: the questions that it lists, and nothing by another way."""

from __future__ import annotations

import ast
import inspect
import sys
from collections import abc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args, get_origin

import pytest

from ft_dagster import stages
from ft_dagster.launch.launcher import Launcher
from ft_dagster.planning.judging import Judges
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import CHAIN, ON_DEMAND
from ft_dagster.store import Artifact, Attempt, Store
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.past import Past, UnlistedQuestion
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace

ALL = (*CHAIN, *ON_DEMAND)
QUESTIONS = {
    name: value for name, value in vars(Past).items() if inspect.isfunction(value) and name[0] != "_"
}
KEY = VariantKey("acme", "places")
GIVE_A_STORE = (Store, Workspace, Settings)
TYPED = (Workspace, View, BuildContext, Artifact, Attempt, Judges, Launcher)
TYPES = {each.__name__: each for each in TYPED}  # what files name for types alone
HOLD_A_STORE = {"view.py", "hands.py", "past.py"}  # the files that answer, and no stage


def refuses(question: Callable[..., Any], past: Past) -> bool:
    """Whether a question raises before anything is read; that there is no store shows that nothing is."""
    asked = list(inspect.signature(question).parameters)[1:]
    try:
        question(past, *(None for _ in asked))
    except UnlistedQuestion:
        return True
    except Exception:
        return False
    return False


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
@pytest.mark.parametrize("face", [View, BuildContext])
def test_a_question_that_a_stage_does_not_list_cannot_be_asked(
    stage: Stage[Any], face: type[BuildContext]
) -> None:
    workspace: Any = SimpleNamespace(key=KEY, store=None, cache=Path(), declared_in=Path())
    seen = View(workspace, stage) if face is View else BuildContext(workspace, stage.asks)
    refused = {name for name, question in QUESTIONS.items() if refuses(question, seen.past)}
    assert refused == {*QUESTIONS} - {*stage.asks}


def test_each_question_is_listed_by_a_stage_and_each_that_is_listed_is_one() -> None:
    assert {name for stage in ALL for name in stage.asks} == {*QUESTIONS}


def test_who_has_the_whole_workspace_may_ask_all_of_the_past() -> None:
    past = Past(cast(Any, None), KEY, Path(), Path())
    assert not any(refuses(question, past) for question in QUESTIONS.values())


def types_in(hint: Any) -> Iterator[type]:
    """The classes that a type hint lets one have: of a function, those that it returns."""
    if get_origin(hint) is abc.Callable:
        yield from types_in(get_args(hint)[1])
    elif get_args(hint):
        for part in get_args(hint):
            yield from types_in(part)
    elif inspect.isclass(hint):
        yield hint


def given_by(one: type) -> Iterator[tuple[str, Any]]:
    """The name and type of each public attribute that a class of this package has, and of what its methods
    return.
    """
    for each in one.__mro__:
        if each.__module__.startswith("ft_dagster."):
            names = vars(sys.modules[each.__module__])
            hints = dict(each.__annotations__ if "__annotations__" in vars(each) else {})
            for name, member in [*vars(each).items()]:
                function = inspect.unwrap(getattr(member, "fget", getattr(member, "func", member)))
                if inspect.isfunction(function):
                    hints[name] = function.__annotations__.get("return")
            for name, hint in hints.items():
                if not name.startswith("_"):
                    yield name, eval(hint, {**names, **TYPES}) if isinstance(hint, str) else hint


def reached_from(start: type) -> dict[type, str]:
    """Class -> by which public attributes one comes to it."""
    found, due = {start: start.__name__}, [start]
    while due:
        one = due.pop()
        for name, hint in given_by(one):
            for each in types_in(hint):
                if each not in found:
                    found[each] = f"{found[one]}.{name}"
                    due.append(each)
    return found


@pytest.mark.parametrize("face", [View, BuildContext])
def test_no_attribute_of_what_a_stage_is_given_reaches_a_store(face: type) -> None:
    found = reached_from(face)
    assert Past in found
    assert [found[each] for each in found if issubclass(each, GIVE_A_STORE)] == []
    assert reached_from(Workspace).keys() >= {Store, Settings}


def test_no_stage_goes_by_what_they_keep_to_themselves() -> None:
    for file in Path(stages.__path__[0]).glob("*.py"):
        if file.name not in HOLD_A_STORE:
            names = {
                node.attr
                for node in ast.walk(ast.parse(file.read_text("utf-8")))
                if isinstance(node, ast.Attribute)
            }
            assert names.isdisjoint({"_workspace", "_store"}), file.name
