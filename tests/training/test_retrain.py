"""Without a record: a mixture with an empty slot, trained on from a resume point, ends as if trained from the
start, bit for bit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.data.mixture.mixture_figures import GeneralShare, MixtureFigures
from ft_dagster.data.mixture.shards import SplitWriter
from ft_dagster.data.mixture.slots import Erased, Slots, write_slots
from ft_dagster.errors import UserError
from ft_dagster.objectives import Rendered
from ft_dagster.training import checkpoints
from ft_dagster.training.batches.batches import Collator, step_digests
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.journal import Journal
from ft_dagster.training.retrain.course import Course, bins_of, course_of, first_difference, first_step_with
from ft_dagster.training.retrain.resume_points import (
    FOLDER,
    resume_points,
    resume_steps,
    steps_needed,
    take_over,
)
from tests.training.runs import Runs, made_rows, payload_bytes, train

pytestmark = pytest.mark.slow

PADDING, SOURCE, TRAIN = 0, "faq.jsonl", 30
SETTINGS = {"num_train_epochs": 1.0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
SETTINGS |= {"weight_decay": 0.1, "max_length": 24, "evaluations": 2}
POINTS = 4


class Trained:
    """A mixture of numbered rows, its training, and trainings of it without some of them."""

    def __init__(self, folder: Path, base: Path, **training: Any) -> None:
        self.folder, self.base, self.training = folder, base, {**SETTINGS, **training}
        self.mixture = _mixture(folder / "mixture")
        self.run = self._prepared("before", self.mixture, "a" * 64)
        assert train(self.run) == 0

    def without(self, ordinals: Collection[int], split: str = "train") -> tuple[Path, Slots]:
        """The mixture with slots in the place of these rows."""
        out = self.folder / f"{split}-{'-'.join(map(str, ordinals))}"
        out.mkdir()
        rows = {split: [(SOURCE, each) for each in ordinals]}
        return out, write_slots(self.mixture, out, Erased(rows), PADDING)[1]

    def course(self, mixture: Path, slots: Slots, **differs: Any) -> Course:
        run = read_run(self.run)
        member = run.members[0]
        train = open_split(mixture, "train", self.folder)
        assert train is not None
        collate = Collator(train, PADDING, member.plan.training.max_length)
        bins = bins_of(mixture, member.plan, member.seed, self.folder)
        ledger = self.ledger
        first = first_difference(ledger["batches"], step_digests(collate, bins, member.plan.training))
        assert first == first_step_with(bins, member.plan, slots.ordinals)
        points = list(resume_points(self.points))
        given = {"recipe": recipe_digest(run, member), "measured_with": slots.measured_with, **differs}
        given.setdefault("computed_on", points[0].computed_on if points else "")
        return course_of(first, member.plan, ledger["steps"], points, **given)

    def trained(self, mixture: Path, course: Course | None = None) -> Path:
        """Train the mixture: from the start, or as `course` says."""
        name = f"{mixture.name}-{'whole' if course is None else 'resumed'}"
        run_folder = self._prepared(name, mixture, mixture.name.rjust(64, "b"))
        if course is not None:
            run = read_run(run_folder)
            member = run.members[0]
            take_over(self.points, course.step, member.checkpoints, recipe_digest(run, member))
        assert train(run_folder) == 0
        return run_folder

    @property
    def points(self) -> Path:
        return self.run / "acme.support/evidence" / FOLDER

    @property
    def ledger(self) -> dict[str, Any]:
        return _ledger(self.run)

    def _prepared(self, name: str, mixture: Path, digest: str) -> Path:
        runs = Runs(self.folder / "runs", self.base, mixture)
        return runs.prepare(name, training=self.training, mixture_digest=digest, resume_points=POINTS)


def _ledger(run_folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_folder / "acme.support/evidence/ledger.json").read_text())
    return content


def _mixture(folder: Path) -> Path:
    splits = {}
    for split, count, seed in (("train", TRAIN, 1), ("validation", 4, 2), ("general_holdout", 0, 3)):
        writer = SplitWriter(folder, split, shard_bytes=900)
        for number, (ids, flat) in enumerate(made_rows(count, seed)):
            pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
            writer.add(Rendered(ids, pairs, False), SOURCE, number)
        splits[split] = writer.close()
    figures = MixtureFigures("t", 24, 0, "o", splits, GeneralShare(0.0, 0.0), longest=24, dropped={})
    (folder / "mixture.json").write_text(json.dumps(figures.file_json()))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Trained:
    return Trained(tmp_path_factory.mktemp("retrain"), tiny_model_folder)


def assert_exact(trained: Trained, ordinal: int) -> Course:
    """The new weights, resumed, are those from the start, and took no more steps than were left."""
    mixture, slots = trained.without([ordinal])
    course = trained.course(mixture, slots)
    whole = trained.trained(mixture)
    if course.how == "FROM START":
        return course
    resumed = trained.trained(mixture, course)
    assert payload_bytes(resumed) == payload_bytes(whole)
    assert payload_bytes(resumed) != payload_bytes(trained.run)
    for field in ("batches", "times_exported", "exported_step"):
        assert _ledger(resumed)[field] == _ledger(whole)[field]
    journal = Journal.load(checkpoints.complete(resumed / "acme.support/checkpoints")[-1].folder)
    assert journal.resumed_from == [course.step]
    return course


def last_read(trained: Trained) -> int:
    """The row that the last step reads."""
    member = read_run(trained.run).members[0]
    bins = bins_of(trained.mixture, member.plan, member.seed, trained.folder)
    return bins[-1][0]


def test_a_retrain_goes_on_from_the_last_state_before_the_record_and_equals_one_from_the_start(
    trained: Trained,
) -> None:
    course = assert_exact(trained, last_read(trained))
    kept = [point.step for point in resume_points(trained.points)]
    assert (course.how, course.step, course.steps) == ("RESUMED", max(kept), trained.ledger["steps"])
    assert 0 < course.share < 0.5


@pytest.mark.long
def test_fifty_single_records_differ_in_no_byte_between_resumed_and_from_the_start(trained: Trained) -> None:
    more = Trained(trained.folder / "more", trained.base, num_train_epochs=2.0)
    others = [ordinal for ordinal in range(TRAIN) if ordinal != last_read(trained)]
    chosen = [(of, ordinal) for of in (trained, more) for ordinal in random.Random(0).sample(others, 25)]
    courses = [assert_exact(of, ordinal) for of, ordinal in chosen]
    assert len(courses) == 50
    assert sum(course.how == "RESUMED" for course in courses) > 25


def test_a_step_without_labels_advances_the_rate_and_moves_no_weight(
    trained: Trained, tmp_path: Path
) -> None:
    """With moments from the steps before, and weight decay, an optimizer would move them."""
    ordinal = last_read(trained)
    mixture, _ = trained.without([other for other in range(TRAIN) if other != ordinal])
    run_folder = trained.trained(mixture)
    found = checkpoints.complete(run_folder / "acme.support/checkpoints")
    journal = Journal.load(found[-1].folder)
    steps = trained.ledger["steps"]
    assert journal.unlabelled == list(range(1, steps))
    before, after = (_state(found, step) for step in (found[0].step, found[-2].step))
    assert found[0].step < found[-2].step < steps
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(before[name], each) for name, each in _state(found, steps).items())
    lines = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    rates = [line["learning_rate"] for line in map(json.loads, lines) if "learning_rate" in line]
    whole = (trained.run / "acme.support/evidence/log.jsonl").read_text().splitlines()
    assert rates == [line["learning_rate"] for line in map(json.loads, whole) if "learning_rate" in line]


def _state(found: list[checkpoints.Checkpoint], step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = next(each.folder for each in found if each.step == step)
    return load_file(folder / "adapter_model.safetensors")


def test_slots_keep_shards_order_and_lengths_and_no_token(trained: Trained) -> None:
    mixture, slots = trained.without([3, 17])
    before, after = (open_split(each, "train", trained.folder) for each in (trained.mixture, mixture))
    assert before is not None
    assert after is not None
    assert after.shards == before.shards
    assert len(before.shards) > 1
    assert after.lengths.tolist() == before.lengths.tolist()
    for ordinal in range(len(before)):
        ids, labels = after.read(ordinal)
        if ordinal in (3, 17):
            assert set(ids.tolist()) == {PADDING}
            assert set(labels.tolist()) == {-100}
        else:
            assert (ids.tolist(), labels.tolist()) == tuple(each.tolist() for each in before.read(ordinal))
    assert slots.ordinals == (3, 17)
    assert slots.tokens["train"] == before.lengths[[3, 17]].sum()
    figures = json.loads((mixture / "mixture.json").read_text())
    assert figures["slots"] == {"train": 2}
    assert figures["splits"]["train"]["trained_tokens"] == after.trained_tokens
    changed = [
        one["file"]
        for one, other in zip(
            figures["splits"]["train"]["shards"],
            json.loads((trained.mixture / "mixture.json").read_text())["splits"]["train"]["shards"],
            strict=True,
        )
        if one["sha256"] != other["sha256"]
    ]
    assert len(changed) in (1, 2)


def test_what_the_plan_counted_of_an_erased_record_is_said(trained: Trained) -> None:
    figures = MixtureFigures.from_json(json.loads((trained.mixture / "mixture.json").read_text()))
    longest = next(n for n, (ids, _) in enumerate(made_rows(TRAIN, 1)) if len(ids) == 24)
    _, slots = trained.without([longest])
    counted, memory = slots.counted_by_plan(figures)
    assert f"{slots.labels['train']:,} of {figures.train.trained_tokens:,} trained tokens" in counted
    assert memory.startswith("the longest example, 24 tokens")


def test_a_record_that_was_never_trained_costs_no_step(tmp_path: Path, tiny_model_folder: Path) -> None:
    short = Trained(tmp_path, tiny_model_folder, max_steps=4)
    unread = next(n for n, times in enumerate(short.ledger["times"]) if not times)
    course = short.course(*short.without([unread]))
    assert (course.how, course.share) == ("STANDS", 0.0)
    assert payload_bytes(short.trained(short.folder / f"train-{unread}")) == payload_bytes(short.run)


@pytest.mark.parametrize(
    ("differs", "why"),
    [
        ({"recipe": "c" * 64}, "of another base, plan, seed or number of ranks"),
        ({"computed_on": "CPU with AVX9"}, "and this is CPU with AVX9"),
        ({"measured_with": True}, "the choice is made again"),
    ],
)
def test_another_recipe_device_or_choice_begins_from_the_start(
    trained: Trained, differs: dict[str, Any], why: str
) -> None:
    last = last_read(trained)
    mixture = trained.folder / f"train-{last}"
    slots = trained.without([last])[1] if not mixture.exists() else Slots({}, {}, {}, (last,), 0, False)
    course = trained.course(mixture, slots, **differs)
    assert (course.how, course.step) == ("FROM START", 0)
    assert why in course.why


def test_another_torch_begins_from_the_start(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_torch", lambda: "9.9")
    last = last_read(trained)
    mixture = trained.folder / f"train-{last}"
    slots = trained.without([last])[1] if not mixture.exists() else Slots({}, {}, {}, (last,), 0, False)
    assert "written by torch" in trained.course(mixture, slots).why


def test_a_record_of_the_validation_split_makes_the_choice_again(trained: Trained) -> None:
    _, slots = trained.without([1], "validation")
    assert slots.measured_with
    assert slots.ordinals == ()


def test_a_mixture_of_erased_records_alone_is_refused(trained: Trained) -> None:
    with pytest.raises(UserError, match="nothing is left to train on"):
        trained.without(range(TRAIN))


def test_states_are_kept_evenly_in_the_first_pass_with_what_would_be_exported() -> None:
    assert resume_steps(100, 3) == [25, 50, 75]
    assert resume_steps(3, 9) == [1, 2]
    assert resume_steps(1, 5) == resume_steps(100, 0) == []
    losses = {10: 2.0, 20: 1.0, 30: 1.5}
    assert steps_needed([5, 25, 35, 99], 40, [10, 20, 30], losses) == {5, 25, 35, 20}
    assert steps_needed([25], 40, [10, 20, 30], None) == {25, 20}


def test_no_state_is_kept_unless_asked_for(tmp_path: Path, tiny_model_folder: Path) -> None:
    runs = Runs(tmp_path, tiny_model_folder, _mixture(tmp_path / "mixture"))
    run_folder = runs.prepare(training={**SETTINGS, "max_steps": 2})
    assert train(run_folder) == 0
    assert not (run_folder / "acme.support/evidence" / FOLDER).exists()
