"""What was made from a stage that is no more: it stands, and is told as made by an older project."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import ENTRIES, FORMER_STAGES, version_of
from ft_dagster.store import Artifact, Place, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.versions.check import _with_number
from ft_dagster.versions.now import _raised
from ft_dagster.workspace.stage_version import former_input, is_of_now, is_older


def made(*inputs: str, version: int | None = None) -> Artifact:
    stage = "training_plan"
    predicate = {
        "stage_version": version_of(stage) if version is None else version,
        "inputs": dict.fromkeys(("training_mixture", *inputs), "d" * 64),
    }
    return Artifact(Place("tenants/acme/places", stage, "k" * 64), predicate, reused=True)


def test_no_stage_of_today_is_a_former_one() -> None:
    assert not set(FORMER_STAGES) & ENTRIES.keys()


@pytest.mark.parametrize("former", FORMER_STAGES)
def test_what_was_made_from_one_is_older_at_the_version_of_today(former: str) -> None:
    assert (is_of_now(made()), is_older(made()), former_input(made())) == (True, False, None)
    one = made(former)
    assert (is_of_now(one), is_older(one), former_input(one)) == (False, True, former)
    (cause,) = _raised([one])
    assert cause.words == f"training_plan was made from {former}, which nothing goes by any more"


def test_an_earlier_version_of_a_stage_is_told_by_its_number() -> None:
    (cause,) = _raised([made(version=1)])
    assert f"{version_of('training_plan')}" in cause.words


def test_check_gives_the_number_that_came_of_the_former_word(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    settings: Any = SimpleNamespace(open_store=lambda tenant: store)
    key = VariantKey("acme", "places")
    error = UserError("no plan chooses it", fix="-", file="places.yaml", field="method.rank", value="auto")
    assert _with_number(settings, key, error) is error
    recipe = Recipe("training_plan", key.prefix, {}, {})
    plan = make_artifact(store, tmp_path / "work", recipe, lambda attempt: {"method": {"rank": 24}})
    write_head(store, key.prefix, plan, None)
    found = _with_number(settings, key, error)
    assert found.fix == "Name 24, which its newest training_plan has, or leave it out for the usual value"
    assert found.statement == error.statement
