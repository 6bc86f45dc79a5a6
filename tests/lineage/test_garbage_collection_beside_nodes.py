"""`store gc` beside trainings that other hosts go on with: checkpoints stay meanwhile, and go after it."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ft_dagster.lineage.garbage_collection import Outcome, collect
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.store import Artifact, Attempt, Place, Store, verify_artifact, write_head
from ft_dagster.store.checkpoint_mirror import CheckpointMirror, Mirrored, forget
from ft_dagster.store.contents import contents_of
from ft_dagster.store.make import Recipe, is_being_made, make_artifact

pytestmark = pytest.mark.slow

PREFIX = "tenants/acme/support"
CHECKPOINTS, MANIFEST = "checkpoints", "checkpoint.json"
DAY = 86_400.0


class Training:
    """On another host: what its run keeps in the store, by the mirror of its checkpoints. `copies`: of its
    base, as versions before left them.
    """

    def __init__(self, store: Store, folder: Path, number: int, base: int = 0) -> None:
        self.store, self.folder = store, folder / str(number)
        self.recipe = Recipe("fine_tuned_model", PREFIX, spec={"number": number})
        self.place = f"{self.recipe.place.path}/nodes/evidence"
        self.copies = f"shared/base_model/{base:064x}/nodes/payload"
        store.write(f"{self.copies}/weights", b"base %d" % base)
        store.write_json(f"{self.copies}/used.json", {"schema_version": 1})

    def begin(self) -> CheckpointMirror:
        """A run on a host of its own."""
        files = Mirrored(self.place, f"output/{CHECKPOINTS}", MANIFEST, ())
        return CheckpointMirror(self.store, files, self.folder / uuid.uuid4().hex, lambda: True, print)

    def keep(self, host: CheckpointMirror, step: int) -> bool:
        """Save a checkpoint and send it."""
        checkpoint = host.folder / "output" / CHECKPOINTS / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_bytes(b"%d" % step)
        (checkpoint / MANIFEST).write_bytes(b"{}")
        return host.keep()

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


FATES = ("given up", "goes on", "done", "done and left")


@pytest.mark.parametrize("seed", range(12))
def test_of_many_trainings_exactly_what_nobody_goes_on_from_goes(
    store: Store, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    trainings = [Training(store, tmp_path, number, draw.randrange(3)) for number in range(10)]
    fates = dict(zip(trainings, draw.choices(FATES, k=10), strict=True))
    of = {fate: [each for each in trainings if fates[each] == fate] for fate in FATES}
    nodes = {training: training.begin() for training in trainings}
    assert all(training.keep(nodes[training], 1) for training in trainings)
    models = [training.commit() for training in (*of["done"], *of["done and left"])]
    for training in of["done"]:
        forget(store, training.place)
    aged(store)
    assert all(training.keep(nodes[training], 2) for training in of["goes on"])

    found = unreached(store, contents_of(store), nobody, rules())
    outcomes = list(collect(store, found, nobody, rules()))

    expected = {"goes on": {1, 2}}
    for training, fate in fates.items():
        assert training.whole() == expected.get(fate, set())
        assert store.files_below(training.copies) == {}
    assert not any(outcome.error for outcome in outcomes)

    aged(store)
    collected(store, rules())
    assert set(contents_of(store).keyed) == {model.place for model in models}
    assert all(store.files_below(training.place) == {} for training in trainings)
    for model in models:
        verify_artifact(store, model, tmp_path / "cache")


def test_what_this_host_has_trained_stays_however_long_it_takes(store: Store, tmp_path: Path) -> None:
    training, work = Training(store, tmp_path, 1), tmp_path / "work"
    being_made = partial(is_being_made, work)

    def build(attempt: Attempt) -> dict[str, int]:
        node = training.begin()
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
