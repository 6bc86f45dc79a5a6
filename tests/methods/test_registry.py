"""A method is one file of this room; how it computes is found by its name."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from ft_dagster import methods
from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, Method, method_of, usual_method
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.spec.method import METHOD_SETTINGS, MethodName, MethodSpec
from ft_dagster.spec.model import SpecModel
from ft_dagster.training.contract import method_settings
from ft_dagster.training.methods import taught_by

KNOWN = list(METHODS.values())
PACKAGE = Path(methods.__file__).parents[1]
ROOMS = ("methods", "training/methods")  # of what is known of a method
# `full` is a kind of attention in the first; the others name what other programs call methods.
OTHER_WORDS = {
    "training/watch/flops.py",
    *(f"versions/imports/{name}.py" for name in ("axolotl", "configured", "llamafactory")),
}


def test_a_file_with_a_method_is_one() -> None:
    modules = {each.name for each in pkgutil.iter_modules(methods.__path__)}
    assert set(METHODS) == modules - {"base_facts", "layers", "method", "settings"}
    assert get_args(MethodName) == tuple(METHODS) == tuple(METHOD_SETTINGS)[1:]


def test_each_has_a_place_of_its_own() -> None:
    for places in ([each.order for each in KNOWN], [each.usual.value for each in KNOWN]):
        assert sorted(places) == list(range(len(KNOWN)))
    assert usual_method().usual.value == 0


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_its_settings_and_how_it_computes_are_found_by_its_name(known: Method) -> None:
    method = taught_by(method_settings({"name": known.name}))
    assert type(method).__name__.lower() == known.name.replace("_", "")
    assert type(method).__module__ == f"ft_dagster.training.methods.{known.name}"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_setting_that_may_be_declared_is_one_that_the_trainer_takes(known: Method) -> None:
    fields = known.settings.model_fields
    assert set(known.declared) <= set(fields) - {"name"}
    assert all(known.defaults[name] or name == "rank" for name in known.declared)


def test_a_setting_of_several_methods_is_one_setting() -> None:
    defined: dict[str, set[str]] = {}
    for known in KNOWN:
        for name in known.declared:
            hint = get_type_hints(known.settings, include_extras=True)[name]
            defined.setdefault(name, set()).add(repr(hint))
    assert {name for name, hints in defined.items() if len(hints) > 1} == set()


def test_a_declaration_has_the_settings_that_methods_define_and_none_of_its_own() -> None:
    [by_its_name] = MethodSpec.__bases__
    assert issubclass(by_its_name, SpecModel)
    assert set(by_its_name.model_fields) == {"name"}
    assert set(MethodSpec.model_fields) - {"name"} == {name for known in KNOWN for name in known.declared}


def test_a_plan_is_read_with_settings_that_may_no_longer_be_declared() -> None:
    for content in (
        {"name": "qlora", "rank": 5000, "alpha": 1e6},
        {"name": "prefix_tuning", "num_virtual_tokens": 4000},
    ):
        with pytest.raises(ValidationError, match="less than or equal"):
            MethodSpec.model_validate(content)
        planned = method_settings(content)
        assert planned.model_dump(exclude_unset=True) == content


def test_a_plan_of_before_a_setting_keeps_its_content() -> None:
    content = {"name": "qlora", "rank": 16, "target_modules": "all-linear", "alpha": 32.0, "dropout": 0.0}
    assert "activations" not in method_settings(content).model_dump(mode="json")
    assert method_settings({**content, "activations": "bf16"}).model_dump()["activations"] == "bf16"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_it_names_methods_that_there_are(known: Method) -> None:
    named = [*known.smaller, *([known.quantized.plain] if known.quantized else [])]
    assert set(named) <= set(METHODS) - {known.name}


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="no such training method") as refused:
        method_of("lorra")
    assert refused.value.field == "method.name"
    assert "full, lora, qlora" in str(refused.value)


@pytest.mark.parametrize("other", ["full", "qlora", "lorra"])
def test_settings_are_those_of_one_method(other: str) -> None:
    with pytest.raises(ValidationError, match=f"LoraSettings are no settings of {other}"):
        LoraSettings(name=other)


@pytest.mark.slow
def test_no_other_file_of_the_package_names_a_method() -> None:
    named = set()
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE)
        texts = {
            node.value
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Constant)
        }
        if place.parent.as_posix() not in ROOMS and texts & set(METHODS):
            named.add(place.as_posix())
    assert named == OTHER_WORDS
