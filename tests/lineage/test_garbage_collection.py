"""`store gc` beside whoever commits, reuses, promotes and is killed: a model of reachability decides."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.garbage_collection import Outcome, collect
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.release import ReleaseRequest, export_of, promote
from ft_dagster.lineage.retention import Rules
from ft_dagster.row_choices import UsageBy
from ft_dagster.settings import Retention
from ft_dagster.store import (
    Artifact,
    Attempt,
    Place,
    Store,
    begin_attempt,
    removal,
    verify_artifact,
    write_head,
)
from ft_dagster.store.contents import contents_of, usage
from ft_dagster.store.make import Recipe, make_artifact
from tests.releases import adapter, put, release

pytestmark = pytest.mark.slow

PREFIXES = ("tenants/acme/support", "tenants/acme/sales", "tenants/globex/support")
STAGES = ("declaration", "task_dataset", "training_mixture", "training_plan", "fine_tuned_model")
DAY = 86_400.0


def made(store: Store, prefix: str, number: int, inputs: list[Artifact]) -> Artifact:
    named = {f"input{at}": one.digest for at, one in enumerate(inputs)}
    manifests = {f"input{at}": one.manifest for at, one in enumerate(inputs) if number % 2}
    return put(store, STAGES[number % len(STAGES)], prefix, {"n.json": number}, named, manifests=manifests)


def rules(days: float = 2, **retention: object) -> Rules:
    """Of a day, so many days from now."""
    return Rules(lambda tenant: Retention.model_validate({"days": 1, **retention}), time.time() + days * DAY)


def nobody(place: Place) -> bool:
    return False


def collected(store: Store, by: Rules) -> list[Outcome]:
    return list(collect(store, unreached(store, contents_of(store), nobody, by), nobody, by))


@pytest.fixture
def every_use_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is so young that it is used without a claim."""
    monkeypatch.setattr(removal, "FRESH", 0.0)


def aged(store: Store, days: float = 2) -> None:
    """Let all that is in the store be so many days old."""
    at = time.time() - days * DAY
    for file in Path(store.root).rglob("*"):
        os.utime(file, (at, at))


def needed(artifacts: list[Artifact], roots: list[Artifact]) -> set[str]:
    """The digests that can be walked to from the roots, by the inputs alone."""
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    found: set[str] = set()
    waiting = [root.digest for root in roots]
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting += by_digest[digest].inputs.values()
    return found


@pytest.mark.parametrize("seed", range(15))
def test_exactly_what_cannot_be_walked_to_goes(store: Store, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    artifacts: list[Artifact] = []
    for number in range(15):
        inputs = draw.sample(artifacts, min(len(artifacts), draw.randrange(3)))
        artifacts.append(made(store, draw.choice(PREFIXES), number, inputs))
    heads = {(a.place.prefix, a.place.stage): a for a in draw.sample(artifacts, 3)}
    for head in heads.values():
        write_head(store, head.place.prefix, head, None)
    stays = needed(artifacts, list(heads.values()))
    outcomes = collected(store, rules())
    assert {o.of.artifact.digest for o in outcomes if o.of.artifact and o.removed} == {
        a.digest for a in artifacts if a.digest not in stays
    }
    for artifact in artifacts:
        if artifact.digest in stays:
            verify_artifact(store, artifact, tmp_path / "cache")
        else:
            with pytest.raises(UserError, match="removed by retention"):
                verify_artifact(store, artifact, tmp_path / "cache")
    assert collected(store, rules()) == []


@pytest.mark.parametrize("seed", range(6))
def test_what_others_take_into_use_meanwhile_stays_whole_with_all_beneath_it(
    store: Store, tmp_path: Path, every_use_is_claimed: None, seed: int
) -> None:
    """Two collections and a run of each variant at once, which makes or reuses its chain and moves heads."""
    draw = random.Random(seed)
    heads: dict[tuple[str, str], Artifact] = {}

    def chain_of(variant: int) -> Iterator[Artifact]:
        links: list[Artifact] = []
        for number in range(4):
            links.append(made(store, PREFIXES[variant], variant * 10 + number, links[-1:]))
            yield links[-1]

    def run(variant: int) -> None:
        for link in chain_of(variant):
            write_head(store, PREFIXES[variant], link, None)
            heads[PREFIXES[variant], link.place.stage] = link

    def after(seconds: float, work: Callable[..., object], *given: object) -> object:
        time.sleep(seconds)
        return work(*given)

    for variant in range(3):
        list(chain_of(variant))
    aged(store)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(after, draw.uniform(0, 0.05), run, variant) for variant in range(3)]
        asked += [pool.submit(after, draw.uniform(0, 0.05), collected, store, rules(0)) for _ in range(2)]
    for one in asked:
        one.result()
    standing = [k.artifact for k in contents_of(store).keyed.values() if k.artifact is not None]
    assert {head.place for head in heads.values()} <= {artifact.place for artifact in standing}
    used = needed(standing, list(heads.values()))
    for artifact in standing:
        if artifact.digest in used:
            verify_artifact(store, artifact, tmp_path / "cache")
    collected(store, rules(days=30))
    assert {k.artifact.digest for k in contents_of(store).keyed.values() if k.artifact is not None} == used


def test_who_keeps_an_artifact_keeps_what_it_was_made_from(store: Store, every_use_is_claimed: None) -> None:
    rows = made(store, PREFIXES[0], 1, [])
    mixture = made(store, PREFIXES[0], 2, [rows])
    aged(store)
    by = rules(0)
    found = unreached(store, contents_of(store), nobody, by)
    assert {one.place for one in found} == {rows.place, mixture.place}
    assert removal.keep(store, mixture)
    assert [outcome.removed for outcome in collect(store, found, nobody, by)] == [False, False]


def test_who_keeps_an_artifact_keeps_nothing_of_an_older_one_of_the_same_bytes(
    store: Store, every_use_is_claimed: None
) -> None:
    rows = [made(store, PREFIXES[0], number, []) for number in (1, 6)]

    def made_of(stage: str, one: Artifact) -> Artifact:
        return put(store, stage, PREFIXES[0], {"0": 0}, {"of": one.digest}, manifests={"of": one.manifest})

    plans = [made_of("training_plan", one) for one in rows]
    weights = made_of("fine_tuned_model", plans[1])
    aged(store)
    by = rules(0)
    found = unreached(store, contents_of(store), nobody, by)
    assert removal.keep(store, weights)
    gone = {outcome.of.place for outcome in collect(store, found, nobody, by) if outcome.removed}
    assert gone == {rows[0].place, plans[0].place}


def test_a_version_that_is_promoted_meanwhile_stays_with_its_weights(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = [made(store, PREFIXES[0], 4 + 5 * number, []) for number in range(4)]
    for number, weights in enumerate(tuned):
        release(store, "acme.support", {**adapter(number), f"{number}.json": 1}, weights.digest)
    by = rules(releases=1)
    found = unreached(store, contents_of(store), nobody, by)
    assert {tuned[0].place, tuned[1].place} <= {one.place for one in found}
    monkeypatch.setattr(removal, "FRESH", 0.0)
    promote(store, PREFIXES[0], 1, ReleaseRequest("back"))
    outcomes = list(collect(store, found, nobody, replace(by, now=by.now - 2 * DAY)))
    assert tuned[0].place in {outcome.of.place for outcome in outcomes if not outcome.removed}
    verify_artifact(store, tuned[0], tmp_path / "cache")
    export_of(store, PREFIXES[0], 1, tmp_path / "cache")
    for use in (
        lambda: promote(store, PREFIXES[0], 2, ReleaseRequest("back")),
        lambda: export_of(store, PREFIXES[0], 2, tmp_path / "cache"),
    ):
        with pytest.raises(UserError, match="removed by retention"):
            use()


def test_litter_goes_and_what_is_committed_meanwhile_does_not(store: Store, tmp_path: Path) -> None:
    rows = made(store, PREFIXES[0], 1, [])
    write_head(store, PREFIXES[0], rows, None)
    attempt = begin_attempt(store, rows.place, tmp_path)
    (attempt.payload / "n.json").write_text("1")
    manifest = store.read(rows.place.manifest)
    store.remove([rows.place.manifest])
    by = rules()
    found = unreached(store, contents_of(store), nobody, by)
    assert {one.attempt for one in found} == {attempt.name, rows.predicate["attempt"]}
    store.write(rows.place.manifest, manifest)
    gone = {o.of.attempt for o in collect(store, found, nobody, by) if o.removed}
    assert gone == {attempt.name}
    assert not attempt.folder.exists()
    verify_artifact(store, rows, tmp_path / "cache")


def test_what_cannot_be_removed_is_said_and_the_rest_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = made(store, PREFIXES[0], 1, []), made(store, PREFIXES[0], 2, [])
    remove = Store.remove

    def refuse(self: Store, names: Iterator[str]) -> None:
        listed = list(names)
        if any(one.place.path in name for name in listed):
            raise PermissionError(13, "Permission denied")
        remove(self, listed)

    monkeypatch.setattr(Store, "remove", refuse)
    outcomes = {outcome.of.place: outcome for outcome in collected(store, rules())}
    assert "Permission denied" in str(outcomes[one.place].error)
    assert outcomes[other.place].removed
    monkeypatch.undo()
    assert [outcome.of.attempt for outcome in collected(store, rules())] == [one.predicate["attempt"]]


RECORDS = ("rows.parquet", "dropped.parquet", "tree.parquet", "ledger.json")


def with_records(store: Store, stage: str = "task_dataset") -> Artifact:
    """An artifact with all that outlives it, and files that do not."""

    def build(attempt: Attempt) -> dict[str, Any]:
        for name in ("declaration.json", "base.json", "rows.parquet"):
            (attempt.payload / name).write_text(name)
        for name in (*RECORDS, "log.txt", "base.json"):
            (attempt.evidence / name).write_text(name)
        return {}

    return make_artifact(store, Path(store.root) / "work", Recipe(stage, PREFIXES[0]), build)


def left_of(store: Store, artifact: Artifact) -> set[str]:
    return set(store.files_below(artifact.path))


EVIDENCE = {f"evidence/{name}" for name in RECORDS}


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("task_dataset", EVIDENCE),
        ("declaration", EVIDENCE | {"payload/declaration.json"}),
        ("base_model", EVIDENCE | {"payload/base.json"}),
    ],
)
def test_what_an_audit_needs_outlives_every_later_collection(
    store: Store, stage: str, kept: set[str]
) -> None:
    artifact = with_records(store, stage)
    (first,) = collected(store, rules())
    assert first.of.bytes == sum(f.size for name, f in artifact.files.items() if name not in kept)
    assert left_of(store, artifact) == kept
    for days in (4, 400):
        assert collected(store, rules(days)) == []
    assert left_of(store, artifact) == kept
    assert [row.unfinished for row in usage(contents_of(store), UsageBy.STAGE)] == [0] * 2
    again = with_records(store, stage)
    assert again.generation == 2
    collected(store, rules(800))
    assert left_of(store, artifact) == left_of(store, again) == kept


def test_a_collection_that_was_killed_after_the_tombstone_is_ended_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = with_records(store)

    def die(self: Store, names: Iterator[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            collected(store, rules())
    assert left_of(store, artifact) == set(artifact.files)
    assert [outcome.removed for outcome in collected(store, rules())] == [True]
    assert left_of(store, artifact) == EVIDENCE
    assert collected(store, rules()) == []


def test_a_collection_that_was_killed_before_the_tombstone_is_ended_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = with_records(store)
    rows = made(store, PREFIXES[0], 1, [])
    aged(store)

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ft_dagster.lineage.garbage_collection.finish_removal", die)
        for _ in range(2):  # one is claimed by each
            with pytest.raises(KeyboardInterrupt):
                collected(store, rules(0))
    assert left_of(store, artifact) == set(artifact.files)
    outcomes = collected(store, rules(1 / 1440))
    assert {outcome.of.place: outcome.removed for outcome in outcomes} == {
        artifact.place: True,
        rows.place: True,
    }
    assert left_of(store, artifact) == EVIDENCE


def test_what_was_removed_since_it_was_listed_as_an_attempt_is_no_litter(store: Store) -> None:
    artifact = with_records(store)
    manifest = store.read(artifact.place.manifest)
    store.remove([artifact.place.manifest])
    by = rules()
    found = unreached(store, contents_of(store), nobody, by)
    assert [one.committed for one in found] == [False]
    store.write(artifact.place.manifest, manifest)
    collected(store, by)
    assert [outcome.removed for outcome in collect(store, found, nobody, by)] == [False]
    assert left_of(store, artifact) == EVIDENCE


def test_what_a_build_reads_stays_however_long_it_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made(store, PREFIXES[0], 1, [])
    mixture = made(store, PREFIXES[0], 2, [rows])
    other = made(store, PREFIXES[0], 6, [])
    monkeypatch.setattr(removal, "AGAIN", 0.01)
    now, gone = time.time, set[Place]()

    def build(attempt: Attempt) -> dict[str, Any]:
        for days in range(2, 6):
            monkeypatch.setattr(time, "time", lambda days=days: now() + days * DAY)
            claims = f"{mixture.place.path}/claims/{mixture.predicate['attempt']}"
            due = now() + 10
            while len(store.names(claims)) < days and now() < due:
                time.sleep(0.01)
            gone.update(outcome.of.place for outcome in collected(store, rules(0)) if outcome.removed)
        return {}

    monkeypatch.setattr(time, "time", lambda: now() + DAY)
    recipe = Recipe("training_plan", PREFIXES[0], artifacts=(mixture,))
    make_artifact(store, tmp_path, recipe, build)
    assert gone == {other.place}
    for artifact in (rows, mixture):
        verify_artifact(store, artifact, tmp_path / "cache")


def test_what_is_being_removed_is_read_by_no_build(store: Store, tmp_path: Path) -> None:
    rows = made(store, PREFIXES[0], 1, [])
    assert removal.claim_removal(store, rows, "", time.time())
    removed_later = replace(rows, predicate={**rows.predicate, "created": "2020-01-01T00:00:00+00:00"})

    def build(attempt: Attempt) -> dict[str, Any]:
        raise AssertionError("built")

    with pytest.raises(UserError, match="retention is removing this"):
        make_artifact(
            store, tmp_path, Recipe("training_plan", PREFIXES[0], artifacts=(removed_later,)), build
        )
