"""What of a store nothing needs: never anything that a head, a release or a run could ask for."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import find_digest
from ft_dagster.lineage.reachable import Unreached, unreached
from ft_dagster.lineage.release import history
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.stage_entries import ENTRIES, StageEntry
from ft_dagster.store import Artifact, Place, Store, begin_attempt, write_head
from ft_dagster.store.contents import contents_of
from ft_dagster.store.make import host_lock, is_being_made
from tests.releases import adapter, put, release

PREFIX, OTHER = "tenants/acme/support", "tenants/acme/sales"
STAGES = (
    "declaration",
    "task_dataset",
    "training_mixture",
    "training_plan",
    "fine_tuned_model",
    "evaluation",
)


LATER = 2 * 86_400.0  # seconds from now, when nothing made by these tests is young


def rules(after: float = LATER, **retention: Any) -> Rules:
    """Of a day, for all tenants, as they hold so many seconds from now."""
    return Rules(lambda tenant: Retention(**{"days": 1, **retention}), time.time() + after)


def left(
    store: Store, *, after: float = LATER, work: Path | None = None, **retention: Any
) -> list[Unreached]:
    """What nothing needs, after so many seconds."""
    return unreached(
        store,
        contents_of(store),
        lambda place: work is not None and is_being_made(work, place),
        rules(after, **retention),
    )


def places(found: Iterable[Unreached]) -> set[Place]:
    return {one.place for one in found}


def made(store: Store, stage: str, number: int, *inputs: Artifact, prefix: str = PREFIX) -> Artifact:
    """Its inputs by their digests alone, as version 0.1 recorded them."""
    return put(store, stage, prefix, {"n.json": number}, {a.place.stage: a.digest for a in inputs})


def made_of(store: Store, stage: str, number: int, *inputs: Artifact) -> Artifact:
    """Its inputs by their manifests too."""
    digests = {each.place.stage: each.digest for each in inputs}
    manifests = {each.place.stage: each.manifest for each in inputs}
    return put(store, stage, PREFIX, {"n.json": number}, digests, manifests=manifests)


def version_on_equal_plans(store: Store, number: int) -> list[Artifact]:
    """A released version from other rows, by a plan of the same bytes."""
    rows = made(store, "task_dataset", number)
    mixture = made_of(store, "training_mixture", number, rows)
    plan = made_of(store, "training_plan", 0, mixture)
    weights = made_of(store, "fine_tuned_model", number, mixture, plan)
    files = {**adapter(number), f"{number}.json": number}
    release(store, "acme.support", files, weights.digest, weights_manifest=weights.manifest)
    return [rows, mixture, plan, weights]


def test_what_a_head_points_at_and_all_beneath_it_is_needed(store: Store) -> None:
    base = made(store, "base_model", 1, prefix="shared")
    rows, older = made(store, "task_dataset", 1), made(store, "task_dataset", 2)
    mixture = made(store, "training_mixture", 1, base, rows)
    write_head(store, PREFIX, mixture, None)
    assert places(left(store)) == {older.place}


def test_an_experiments_heads_count(store: Store) -> None:
    tuned, lost = made(store, "fine_tuned_model", 1), made(store, "fine_tuned_model", 2)
    write_head(store, f"{PREFIX}/experiments/sweep-1/3", tuned, None)
    assert places(left(store)) == {lost.place}


def test_every_released_version_stays_with_its_weights_and_its_evaluation(store: Store) -> None:
    tuned = [made(store, "fine_tuned_model", number) for number in (1, 2)]
    for number, weights in enumerate(tuned):
        release(store, "acme.support", adapter(number), weights.digest)
    lost = made(store, "evaluation", 3, tuned[0])
    assert places(left(store)) == {lost.place}


def test_what_a_stage_made_that_is_no_more_is_needed_as_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENTRIES, "cleaned_rows", StageEntry("cleaned_rows", 1))
    rows = made(store, "task_dataset", 1)
    cleaned, lost = made(store, "cleaned_rows", 1, rows), made(store, "cleaned_rows", 2)
    write_head(store, PREFIX, made(store, "training_mixture", 1, cleaned), None)
    monkeypatch.delitem(ENTRIES, "cleaned_rows")
    assert places(left(store)) == {lost.place}
    assert contents_of(store).keyed[lost.place].is_older


def test_what_a_release_was_held_against_stays(store: Store) -> None:
    tuned = made(store, "fine_tuned_model", 1)
    release(store, "acme.support", adapter(1), tuned.digest)
    made(store, "production_evaluation", 1, tuned)
    unknown = put(store, "production_evaluation", PREFIX, {"n.json": 2}, {"fine_tuned_model": "c" * 64})
    assert places(left(store)) == {unknown.place}


def test_a_parent_of_another_variant_is_needed(store: Store) -> None:
    export = made(store, "model_export", 1, prefix=OTHER)
    base = made(store, "base_model", 2, export)
    write_head(store, PREFIX, base, None)
    assert left(store) == []


def test_what_is_being_made_is_left_alone_and_then_its_litter_is_named(store: Store, tmp_path: Path) -> None:
    place = Place(PREFIX, "training_mixture", "a" * 64)
    attempt = begin_attempt(store, place, tmp_path)
    (attempt.payload / "shard").write_bytes(b"s" * 500)
    with host_lock(tmp_path, place.path):
        assert left(store, work=tmp_path) == []
    (found,) = left(store, work=tmp_path)
    assert (found.place, found.attempt, found.committed, found.bytes) == (place, attempt.name, False, 500)


def test_an_attempt_that_was_committed_since_it_was_listed_is_no_litter(store: Store) -> None:
    rows = made(store, "task_dataset", 1)
    write_head(store, PREFIX, rows, None)
    manifest = Path(store.root) / rows.place.manifest
    content = manifest.read_bytes()
    manifest.unlink()
    listed = contents_of(store)
    manifest.write_bytes(content)
    assert unreached(store, listed, lambda place: False, rules()) == []


def test_a_second_writers_attempt_is_named_and_the_artifact_is_not(store: Store, tmp_path: Path) -> None:
    rows = made(store, "task_dataset", 1)
    write_head(store, PREFIX, rows, None)
    second = begin_attempt(store, rows.place, tmp_path)
    (second.payload / "n.json").write_text("1")
    (found,) = left(store)
    assert (found.attempt, found.committed) == (second.name, False)


def test_what_was_written_a_moment_ago_is_left_alone(store: Store) -> None:
    lost = made(store, "task_dataset", 1)
    assert left(store, after=0) == []
    for file in (Path(store.root) / lost.place.path).rglob("*"):
        os.utime(file, (0, 0))
    (found,) = left(store, after=0)
    assert found.bytes == lost.size


def test_what_is_young_keeps_what_it_was_made_from(store: Store) -> None:
    rows = made(store, "task_dataset", 1)
    mixture = made(store, "training_mixture", 1, rows)
    for file in (Path(store.root) / rows.place.path).rglob("*"):
        os.utime(file, (0, 0))
    assert left(store, after=0) == []
    assert places(left(store)) == {rows.place, mixture.place}


def test_a_hold_keeps_all_of_a_tenant_and_what_it_was_made_from(store: Store, tmp_path: Path) -> None:
    base = made(store, "base_model", 1, prefix="shared")
    made(store, "task_dataset", 1, base)
    (begin_attempt(store, Place(PREFIX, "training_mixture", "a" * 64), tmp_path).payload / "x").write_text("")
    other = made(store, "task_dataset", 2, prefix="tenants/other/support")
    held = Rules(lambda tenant: Retention(days=1, hold=tenant == "acme"), time.time() + LATER)
    found = unreached(store, contents_of(store), lambda place: False, held)
    assert places(found) == {other.place}


def test_versions_that_retention_lets_go_go_with_their_weights_and_no_others(store: Store) -> None:
    tuned = [made(store, "fine_tuned_model", number) for number in range(4)]
    for number, weights in enumerate(tuned):
        release(store, "acme.support", {**adapter(number), f"{number}.json": number}, weights.digest)
    assert left(store) == []
    gone = places(left(store, releases=1))
    assert {place for place in gone if place.stage == "fine_tuned_model"} == {a.place for a in tuned[:2]}
    assert sorted(place.stage for place in gone if place.stage != "fine_tuned_model") == [
        *("evaluation", "model_export", "model_export")
    ]


def test_of_the_first_version_the_answers_stay_and_what_it_was_asked_since(store: Store) -> None:
    """Later versions are held against it, though its weights go."""
    tuned = [made(store, "fine_tuned_model", number) for number in range(4)]
    asked = [made(store, "production_evaluation", number, weights) for number, weights in enumerate(tuned)]
    for number, weights in enumerate(tuned):
        release(store, "acme.support", {**adapter(number), f"{number}.json": number}, weights.digest)
    gone = places(left(store, releases=1))
    assert {tuned[0].place, tuned[1].place, asked[1].place} <= gone
    assert asked[0].place not in gone
    first, second = history(store, PREFIX)[:2]
    kept = [find_digest(store, [PREFIX], "evaluation", each.evaluation) for each in (first, second)]
    assert [one is not None and one.place in gone for one in kept] == [False, True]


def test_rows_of_a_version_that_is_gone_go_where_a_later_plan_came_out_equal(store: Store) -> None:
    versions = [version_on_equal_plans(store, number) for number in range(4)]
    assert len({plan.digest for _, _, plan, _ in versions}) == 1
    gone = places(left(store, releases=1))
    for old in versions[:2]:
        assert {each.place for each in old} <= gone
    for kept in versions[2:]:
        assert not {each.place for each in kept} & gone


def test_of_equal_weights_those_that_a_version_was_made_of_stay(store: Store) -> None:
    """Data that came out as the same mixture: the weights of the one that was released stay."""
    released, other = (
        made_of(store, "fine_tuned_model", 0, made(store, "training_mixture", number)) for number in (1, 2)
    )
    assert released.digest == other.digest
    release(store, "acme.support", adapter(), released.digest, weights_manifest=released.manifest)
    asked = made_of(store, "production_evaluation", 1, other)
    gone = places(left(store))
    assert {place.stage for place in gone} == {"fine_tuned_model", "training_mixture"}
    assert other.place in gone
    assert not {released.place, asked.place} & gone


def test_what_another_variant_asked_of_equal_weights_does_not_stay(store: Store) -> None:
    ours, theirs = (made(store, "fine_tuned_model", 0, prefix=prefix) for prefix in (PREFIX, OTHER))
    assert ours.digest == theirs.digest
    write_head(store, PREFIX, ours, None)
    named = {"fine_tuned_model": theirs.digest}, {"fine_tuned_model": theirs.manifest}
    asked = put(store, "production_evaluation", OTHER, {"n.json": 1}, named[0], manifests=named[1])
    assert places(left(store)) == {theirs.place, asked.place}


def test_what_names_a_manifest_that_is_gone_keeps_all_of_the_same_bytes(store: Store) -> None:
    mixture = made(store, "training_mixture", 1)
    plan = put(
        store,
        *("training_plan", PREFIX, {}, {"training_mixture": mixture.digest}),
        manifests={"training_mixture": "f" * 64},
    )
    write_head(store, PREFIX, plan, None)
    assert left(store) == []


@pytest.mark.parametrize("damage", ["manifest", "head", "log"])
def test_where_something_cannot_be_read_nothing_is_said_to_be_needless(store: Store, damage: str) -> None:
    lost = made(store, "task_dataset", 1)
    release(store, "acme.support", adapter(1))
    broken = {
        "manifest": lost.place.manifest,
        "head": f"{PREFIX}/heads/model_export.json",
        "log": f"{PREFIX}/releases/000001.json",
    }
    store.write(broken[damage], b"{")
    with pytest.raises(UserError) as refused:
        left(store)
    assert broken[damage].rsplit("/", 1)[1] in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_can_be_walked_to_is_named_and_everything_else_is(store: Store, seed: int) -> None:
    """Random graphs against a walk by digests from the heads."""
    draw = random.Random(seed)
    artifacts: list[Artifact] = []
    for number in range(12):
        stage = STAGES[number % len(STAGES)]
        inputs = {a.place.stage: a for a in draw.sample(artifacts, min(len(artifacts), 2))}
        artifacts.append(made(store, stage, number, *inputs.values(), prefix=draw.choice([PREFIX, OTHER])))
    heads = {(a.place.prefix, a.place.stage): a for a in draw.sample(artifacts, 2)}
    for head in heads.values():
        write_head(store, head.place.prefix, head, None)
    needed: set[str] = set()
    waiting = [head.digest for head in heads.values()]
    while waiting:
        digest = waiting.pop()
        if digest not in needed:
            needed.add(digest)
            waiting += [d for a in artifacts if a.digest == digest for d in a.inputs.values()]
    expected = {a.place for a in artifacts if a.digest not in needed}
    assert places(left(store)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_of_equal_bytes_no_more_is_named_than_what_manifests_do_not_lead_to(store: Store, seed: int) -> None:
    """Random graphs in which every artifact has a twin of the same bytes, against a walk by manifests."""
    draw = random.Random(seed)
    artifacts: list[Artifact] = []
    for number in range(16):
        inputs = {a.place.stage: a for a in draw.sample(artifacts, min(len(artifacts), 2))}
        stage = STAGES[number // 2 % len(STAGES)]
        one = made_of(store, stage, number // 2, *inputs.values())
        artifacts += [one] if one.place not in {other.place for other in artifacts} else []
    heads = {a.place.stage: a for a in draw.sample(artifacts, 2)}
    for head in heads.values():
        write_head(store, PREFIX, head, None)
    needed: set[str] = set()
    waiting = [head.manifest for head in heads.values()]
    while waiting:
        manifest = waiting.pop()
        if manifest not in needed:
            needed.add(manifest)
            waiting += [m for a in artifacts if a.manifest == manifest for m in a.input_manifests.values()]
    assert places(left(store)) == {a.place for a in artifacts if a.manifest not in needed}
