"""Which declaration a model is made again by, where several say what its manifests do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.audit.replay import recipe
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import (
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)

SOURCES: list[Any] = []


def part(stage: str, spec: dict[str, Any], prefix: str = "tenants/acme/a") -> Any:
    place = SimpleNamespace(prefix=prefix, stage=stage)
    return SimpleNamespace(place=place, digest="d" * 64, said=spec)


def declared(kind: str | None, share: Any = 0.08, tasks: tuple[str, ...] = ()) -> dict[str, Any]:
    spec = {"objective": "instruction", "evaluation": {"kind": kind}, "data": {"general": {"share": share}}}
    frozen = {"task": {}, "general": dict.fromkeys(tasks, "f" * 64)}
    return {"sources": SOURCES, "spec": spec, "tasks": frozen}


def chosen(monkeypatch: pytest.MonkeyPatch, taken: list[Any], *newest_first: dict[str, Any]) -> Any:
    """The place of the declaration that is taken, from 0, the newest."""
    rebuilt = {
        stage: part(stage, {"spec": {"objective": "instruction"}})
        for stage in (TRAINING_MIXTURE.name, TRAINING_PLAN.name, FINE_TUNED_MODEL.name)
    }
    rebuilt[TASK_DATASET.name] = part(TASK_DATASET.name, {})
    audit: Any = SimpleNamespace(
        artifact=lambda each: SimpleNamespace(spec=each.said, inputs={"sources": sha256_json(SOURCES)})
    )
    monkeypatch.setattr(recipe, "_declarations", lambda audit, made: enumerate(newest_first))
    return recipe._declaration(audit, rebuilt, taken)[0]


def test_what_was_taken_for_a_variant_tells_its_declaration_from_a_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior = part("prior", {"spec": {"objective": "instruction", "evaluation": {"kind": None}}})
    assert chosen(monkeypatch, [prior], declared("label"), declared(None), declared(None)) == 1
    assert chosen(monkeypatch, [], declared("label"), declared(None)) == 0


def test_questions_that_rows_were_held_against_tell_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = part(EVALUATION_TEXTS.name, {"tasks": {"quiz": "f" * 64}}, prefix="shared")
    assert chosen(monkeypatch, [texts], declared(None), declared(None, tasks=("quiz",))) == 1


def test_what_was_taken_under_an_older_declaration_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = part("version_before", {"spec": {"data": {"general": {"share": "auto"}}}})
    texts = part(EVALUATION_TEXTS.name, {"tasks": {"quiz": "f" * 64}}, prefix="shared")
    newer, older = declared(None, tasks=("quiz",)), declared(None, "auto")
    assert chosen(monkeypatch, [before, texts], newer, older) == 0


def test_what_another_variant_made_is_held_against_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = part("prior", {"spec": {"evaluation": {"kind": "label"}}}, prefix="tenants/acme/parent")
    assert chosen(monkeypatch, [parents], declared(None), declared("label")) == 0


@pytest.mark.parametrize(
    ("version", "key", "declaration", "same"),
    [
        (3, None, None, True),  # then trained was usual, and declarations did not say it
        (3, None, "trained", True),
        (3, None, "processed", False),
        (3, "processed", "processed", True),
        (4, None, "processed", True),
        (4, None, "trained", False),
        (4, "trained", "trained", True),
    ],
)
def test_a_share_is_counted_as_was_usual_when_the_mixture_was_made(
    version: int, key: str | None, declaration: str | None, same: bool
) -> None:
    then, now = ({"share": 0.08, **({"share_of": of} if of else {})} for of in (key, declaration))
    mixture: Any = SimpleNamespace(
        spec={"spec": {"data": {"general": then}}}, predicate={"stage_version": version}
    )
    assert recipe._is_mixed_alike(mixture, {"spec": {"data": {"general": now}}}) is same


def test_a_model_of_which_no_declaration_is_left_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no declaration in the store"):
        chosen(monkeypatch, [])
