"""`store gc` beside trainings on a cluster: what one goes on from stays while it does, and goes after it."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pydantic import BaseModel

from ft_dagster.cluster import Cluster
from ft_dagster.launch.launcher import Belongings, Job
from ft_dagster.launch.remote.kept import Kept
from ft_dagster.launch.remote.staging import Staging
from ft_dagster.lineage.garbage_collection import Outcome, collect
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.retention import Rules
from ft_dagster.program import LentFolder
from ft_dagster.settings import Retention
from ft_dagster.store import Artifact, Attempt, Place, Store, verify_artifact, write_head
from ft_dagster.store.checkpoint_mirror import forget
from ft_dagster.store.contents import contents_of
from ft_dagster.store.make import Recipe, is_being_made, make_artifact

pytestmark = pytest.mark.slow

PREFIX = "tenants/acme/support"
CHECKPOINTS, MANIFEST = "checkpoints", "checkpoint.json"
DAY = 86_400.0


class Request(BaseModel):
    base: Path


class Training:
    """On a cluster: what its host sends and what its node keeps, by the means of both."""

    def __init__(self, store: Store, folder: Path, number: int, base: int = 0) -> None:
        self.store, self.folder = store, folder / str(number)
        self.recipe = Recipe("fine_tuned_model", PREFIX, spec={"number": number})
        self.place = f"{self.recipe.place.path}/nodes/evidence"
        self.copies = f"shared/base_model/{base:064x}/nodes/payload"
        weights = folder / f"base-{base}" / "weights"
        weights.parent.mkdir(exist_ok=True)
        weights.write_bytes(b"base %d" % base)
        self.weights = hashlib.sha256(weights.read_bytes()).hexdigest()
        lent = {weights.parent: LentFolder({"weights": self.weights}, self.copies, by_hash=True)}
        things = Belongings(self.place, lent, folder / "cache", CHECKPOINTS, MANIFEST)
        self.job = Job(
            "training", self.folder, Request(base=weights.parent), None, {}, "acme.support", things
        )
        self.staging = Staging(store, Cluster(work_folder=folder / "node"))

    def order(self) -> Kept:
        order = self.staging.prepare(self.job)
        self.staging.send(self.job, order)
        return Kept(self.store, self.place, order, self.folder / order.attempt)

    def keep(self, node: Kept, step: int) -> bool:
        """Save a checkpoint and send it; False where no order stands for this node."""
        checkpoint = node.output / CHECKPOINTS / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_bytes(b"%d" % step)
        (checkpoint / MANIFEST).write_bytes(b"{}")
        return node.keep()

    def whole(self) -> set[int]:
        """The steps whose checkpoints are there with all their files."""
        found = self.store.files_below(f"{self.place}/output/{CHECKPOINTS}")
        steps = {path.split("/")[0] for path in found}
        assert {f"{step}/{name}" for step in steps for name in ("weights", MANIFEST)} == set(found)
        return {int(step.rpartition("-")[2]) for step in steps}

    def commit(self) -> Artifact:
        def build(attempt: Attempt) -> dict[str, int]:
            (attempt.payload / "adapter").write_text(self.place)
            return {}

        artifact = make_artifact(self.store, self.folder, self.recipe, build)
        write_head(self.store, f"{PREFIX}/experiments/{self.folder.name}/1", artifact, None)
        return artifact


def rules(days: float = 0) -> Rules:
    """A retention of one day, as it holds in so many days."""
    return Rules(lambda tenant: Retention(days=1), time.time() + days * DAY)


def nobody(place: Place) -> bool:
    return False


def collected(store: Store, by: Rules, being_made: Callable[[Place], bool] = nobody) -> list[Outcome]:
    return list(collect(store, unreached(store, contents_of(store), being_made, by), being_made, by))


def aged(store: Store) -> None:
    """Let all that is in the store be two days old."""
    at = time.time() - 2 * DAY
    for file in Path(store.root).rglob("*"):
        os.utime(file, (at, at))


FATES = ("given up", "goes on", "ordered anew", "done", "done and left")


@pytest.mark.parametrize("seed", range(12))
def test_of_many_trainings_exactly_what_nobody_goes_on_from_goes(
    store: Store, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    trainings = [Training(store, tmp_path, number, draw.randrange(3)) for number in range(10)]
    fates = dict(zip(trainings, draw.choices(FATES, k=10), strict=True))
    of = {fate: [each for each in trainings if fates[each] == fate] for fate in FATES}
    nodes = {training: training.order() for training in trainings}
    assert all(training.keep(nodes[training], 1) for training in trainings)
    models = [training.commit() for training in (*of["done"], *of["done and left"])]
    for training in of["done"]:
        forget(store, training.place)
    aged(store)
    assert all(training.keep(nodes[training], 2) for training in of["goes on"])

    found = unreached(store, contents_of(store), nobody, rules())
    again = {training: training.order() for training in of["ordered anew"]}
    outcomes = list(collect(store, found, nobody, rules()))

    expected = {"goes on": {1, 2}, "ordered anew": {1}}
    for training, fate in fates.items():
        assert training.whole() == expected.get(fate, set())
    for training, node in again.items():
        node.fetch()
        assert set(node.mirror.sent or {}) == {"checkpoint-1"}
        assert training.keep(node, 2)
    asked_for = {training.copies for training in of["ordered anew"]}
    for training in trainings:
        stays = training.copies in asked_for
        assert store.exists(f"{training.copies}/{training.weights}") == stays
    assert not any(outcome.error for outcome in outcomes)

    aged(store)
    collected(store, rules())
    assert set(contents_of(store).keyed) == {model.place for model in models}
    assert all(store.files_below(training.place) == {} for training in trainings)
    for model in models:
        verify_artifact(store, model, tmp_path / "cache")


@pytest.mark.parametrize("seed", range(4))
def test_a_training_that_is_ordered_anew_while_gc_runs_has_what_it_keeps(
    store: Store, tmp_path: Path, seed: int
) -> None:
    """Where the order itself went, in the moment between a look and a removal, its node is told so."""
    draw = random.Random(seed)
    trainings = [Training(store, tmp_path, number) for number in range(6)]
    for training in trainings:
        assert training.keep(training.order(), 1)
    aged(store)

    def go_on(training: Training) -> bool:
        time.sleep(draw.uniform(0, 0.1))
        node = training.order()
        return all(training.keep(node, step) for step in (2, 3))

    with ThreadPoolExecutor(8) as pool:
        gone_on = {training: pool.submit(go_on, training) for training in trainings}
        collecting = [pool.submit(collected, store, rules()) for _ in range(2)]
    for each in collecting:
        each.result()
    for training, kept in gone_on.items():
        if not kept.result():
            assert training.keep(training.order(), 3)
    collected(store, rules())
    assert all(3 in training.whole() for training in trainings)
    collected(store, rules(days=2))
    assert contents_of(store).keyed == {}


def test_what_this_host_has_trained_stays_however_long_it_takes(store: Store, tmp_path: Path) -> None:
    training, work = Training(store, tmp_path, 1), tmp_path / "work"
    being_made = partial(is_being_made, work)

    def build(attempt: Attempt) -> dict[str, int]:
        node = training.order()
        for step in range(1, 4):
            assert training.keep(node, step)
            assert training.recipe.place not in {
                outcome.of.place for outcome in collected(store, rules(days=30), being_made)
            }
        assert training.whole() == {1, 2, 3}
        (attempt.payload / "adapter").write_text("trained")
        return {}

    model = make_artifact(store, work, training.recipe, build)
    write_head(store, PREFIX, model, None)
    collected(store, rules(days=30), being_made)
    assert training.whole() == set()
    verify_artifact(store, model, tmp_path / "cache")


def test_copies_of_a_base_stay_as_long_after_their_last_use(store: Store, tmp_path: Path) -> None:
    first, second = (Training(store, tmp_path, number) for number in range(2))
    first.order()
    aged(store)
    second.order()
    collected(store, rules())
    assert store.exists(f"{first.copies}/{first.weights}")
    collected(store, rules(days=2))
    assert store.files_below(first.copies) == {}
