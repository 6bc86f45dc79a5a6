"""A narrowed declaration: the listed fields are there, the others raise."""

from __future__ import annotations

from operator import attrgetter

import pytest

from ft_dagster.spec import VariantSpec
from ft_dagster.spec.model import UnlistedField
from ft_dagster.spec.narrow import narrowed, shown

CONTENT = {"description": "d", "owners": ["o"], "base_model": "b", "data": {"sources": ["s"]}}
SPEC = VariantSpec.model_validate(CONTENT)


def test_a_listed_field_is_there() -> None:
    assert narrowed(SPEC, ["data.splits.test"]).data.splits.test == SPEC.data.splits.test


@pytest.mark.parametrize("field", ["objective", "data.general", "data.splits.validation"])
def test_another_field_raises(field: str) -> None:
    with pytest.raises(UnlistedField, match=field.rpartition(".")[2]):
        attrgetter(field)(narrowed(SPEC, ["data.splits.test"]))


@pytest.mark.parametrize("fields", [["data", "data.splits.test"], ["data.splits.test", "data"]])
def test_a_part_that_is_listed_whole_is_whole(fields: list[str]) -> None:
    assert narrowed(SPEC, fields).data == SPEC.data


def test_below_a_part_that_is_not_declared_there_is_nothing() -> None:
    assert narrowed(SPEC, ["data.general.share"]).data.general is None


def test_a_field_that_no_declaration_has_is_a_defect() -> None:
    with pytest.raises(KeyError, match="sources_of"):
        narrowed(SPEC, ["data.sources_of"])


def test_it_is_shown_as_plain_json() -> None:
    part = narrowed(SPEC, ["owners", "data.splits.test"])
    assert shown(part) == {"owners": ["o"], "data": {"splits": {"test": 0.1}}}


def test_a_field_that_keys_did_not_cover_at_first_enters_them_once_it_is_declared() -> None:
    general = {"corpus": "general", "share": 0.1}
    plain, other = (
        VariantSpec.model_validate({**CONTENT, "data": {"sources": ["s"], "general": {**general, **more}}})
        for more in ({"share_of": "processed"}, {"share_of": "trained"})
    )
    assert shown(narrowed(plain, ["data.general"])) == {"data": {"general": general}}
    changed = {**general, "share_of": "trained"}
    assert shown(narrowed(other, ["data.general"])) == {"data": {"general": changed}}


def test_narrowing_twice_keeps_what_both_list() -> None:
    twice = narrowed(narrowed(SPEC, ["owners", "objective"]), ["objective"])
    assert shown(twice) == {"objective": "instruction"}
