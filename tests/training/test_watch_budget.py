"""The budget of measuring: what is allotted, that it holds in a training, and that samples stay the same."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ft_dagster.automation.experiments.experiments import _curves
from ft_dagster.fake_tensors import FakeMode
from ft_dagster.spec.training import BUDGET, WatchSpec
from ft_dagster.training.batches.attention import attends_by_example
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.contract import Base, method_settings, read_run
from ft_dagster.training.journal import EXPORTED, Journal, StepLog
from ft_dagster.training.progress import Console
from ft_dagster.training.trainer import prepare
from ft_dagster.training.watch import flops
from ft_dagster.training.watch.budget import (
    Allotment,
    Costs,
    Figure,
    Limited,
    allot,
    forward_share,
    prefixes,
    work_of,
)
from ft_dagster.training.watch.counter import Counter
from ft_dagster.training.watch.held_out import HeldOutBlock, blocks_of
from tests.present import present
from tests.training.runs import LORA, Runs, means_of, payload_bytes, result_of, train, write_mixture


def lines(run_folder: Path, name: str) -> list[dict[str, Any]]:
    log = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, log) if name in line]


def costs(rng: random.Random) -> Costs:
    def split() -> dict[int, float]:
        return {size: size * rng.uniform(0.5, 1.5) for size in prefixes(rng.choice([0, 3, 8, 20, 100, 1000]))}

    validation, general = split(), split()
    grown = [dict(zip(sorted(each), sorted(each.values()), strict=True)) for each in (validation, general)]
    return Costs(grown[0], grown[1], questions=rng.choice([0.0, 30.0]), generation=rng.choice([0.0, 10.0]))


def test_a_plan_leaves_out_the_budget_that_a_declaration_has_by_default() -> None:
    assert WatchSpec().budget == BUDGET


@pytest.mark.parametrize("count", [0, 1, 8, 9, 16, 100])
def test_a_sample_is_eight_doubled_or_all(count: int) -> None:
    sizes = list(prefixes(count))
    assert sizes == sorted(set(sizes))
    assert sizes[-1:] == [count] * bool(count)
    assert all(size == 8 * 2**place for place, size in enumerate(sizes[:-1]))


@pytest.mark.parametrize("seed", range(200))
def test_what_is_allotted_is_within_the_budget_or_the_least(seed: int) -> None:
    rng = random.Random(seed)
    known, allowed = costs(rng), rng.uniform(0, 20_000)
    evaluations = sorted(rng.sample(range(1, 11), rng.randint(1, 4)), reverse=True)
    limited: set[Limited] = set(rng.sample(["general", "questions"], rng.randint(0, 2)))
    found, least = allot(known, evaluations, allowed, limited), allot(known, evaluations, 0.0, limited)
    assert least.evaluations == evaluations[-1] or not least.spent
    more = evaluations[: evaluations.index(found.evaluations)]
    assert all(allot(known, [count], allowed, limited).over for count in more)
    assert found.spent <= max(allowed, least.spent)
    assert found.over == (least.spent > allowed)
    assert found.validation in {*known.validation, 0}
    assert found.general in {*known.general, 0}
    assert found.validation >= least.validation
    assert found.general >= least.general
    assert found.general_between >= ("general" in limited)
    assert found.questions_between >= ("questions" in limited)
    assert not found.generation_between


@pytest.mark.parametrize("seed", range(50))
def test_without_a_budget_everything_is_measured_at_every_look(seed: int) -> None:
    known = costs(random.Random(seed))
    whole = (max(known.validation, default=0), max(known.general, default=0))
    found = allot(known, [8, 4], None)
    assert found.evaluations == 8
    assert (found.validation, found.general) == whole
    assert found.general_between
    assert found.questions_between
    assert found.generation_between
    assert not found.over
    enough = allot(known, [8, 4], found.spent)
    assert (enough.validation, enough.general) == whole


def test_what_a_limit_needs_is_served_first() -> None:
    sizes = {8: 8.0, 16: 16.0, 32: 32.0}
    known = Costs(sizes, sizes)
    parts: dict[Figure, float] = {"validation": 72.0, "general_holdout": 288.0}
    parts |= {"benchmark": 0.0, "degeneration": 0.0}
    assert allot(known, [8], 32.0 * 9 + 8 * 9, {"general"}) == Allotment(
        8, 8, 32, True, True, parts=parts, allowed=360.0
    )
    assert allot(known, [8], 32.0 * 9 + 8 * 9).validation == 32


def test_evaluations_that_the_budget_cannot_pay_for_are_left_out() -> None:
    sizes = {8: 8.0, 16: 16.0}
    known = Costs(sizes, sizes)
    least = [(count, 8.0 * (count + 1) + 8.0 * 2) for count in (8, 4, 2, 1)]
    assert [allot(known, [8, 4, 2, 1], cost).evaluations for _, cost in least] == [8, 4, 2, 1]
    assert allot(known, [8, 4, 2, 1], least[0][1] - 1).evaluations == 4
    poor = allot(known, [8, 4, 2, 1], 1.0)
    assert (poor.evaluations, poor.over) == (1, True)
    assert allot(known, [8], 1.0).evaluations == 8  # as declared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [({"name": "full"}, False), ({"name": "full"}, True), (LORA, False), (LORA, True)],
)
def test_the_share_of_a_forward_pass_is_that_of_torchs_counter(
    tiny_model_folder: Path, method: dict[str, Any], checkpointing: bool
) -> None:
    base, settings = Base(folder=tiny_model_folder, digest="b" * 64), method_settings(method)
    whole = flops.flops(flops.shapes_of(base, settings, checkpointing), 1, 32, 16)
    with FakeMode(), Counter() as counter:
        ids = torch.zeros(1, 32, dtype=torch.long)
        flops.shapes_of(base, settings, checkpointing)(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            logits_to_keep=torch.arange(16),
        )
    share = forward_share(settings, gradient_checkpointing=checkpointing)
    assert share == pytest.approx(counter.total / whole, rel=0.25)


def blocks(folder: Path, scratch: Path) -> list[HeldOutBlock]:
    return list(blocks_of(present(open_split(folder, "validation", scratch)), 48))


def test_rows_that_are_added_leave_most_of_a_sample_as_it_was(tmp_path: Path) -> None:
    few = write_mixture(tmp_path / "few", validation=60)
    more = write_mixture(tmp_path / "more", validation=64)
    before, after = (open_split(folder, "validation", tmp_path) for folder in (few, more))

    def first_eight(folder: Path) -> set[int]:
        return {ordinal for bins in blocks(folder, tmp_path)[0].bins for ordinal in bins}

    assert len(present(before)) + 4 == len(present(after))
    assert len(first_eight(few) & first_eight(more)) >= 4  # each of four new rows replaces one at most


def test_a_block_is_known_by_the_content_and_the_layout_of_its_examples(tmp_path: Path) -> None:
    one, other = (
        write_mixture(tmp_path / "one", validation=20),
        write_mixture(tmp_path / "other", validation=20),
    )
    assert [b.digest for b in blocks(one, tmp_path)] == [b.digest for b in blocks(other, tmp_path)]
    examples = present(open_split(one, "validation", tmp_path))
    alone = list(blocks_of(examples, None))
    assert [b.upto for b in alone] == [8, 16, 20]
    assert alone[0].digest != blocks(one, tmp_path)[0].digest
    assert sum(b.trained_tokens for b in alone) == examples.trained_tokens


def test_lines_about_the_exported_model_are_written_again_by_who_resumes(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    log = StepLog(file, 0)
    for line in ({"step": 1, "loss": 2.0}, {"step": 1, "benchmark": {}, EXPORTED: True}, {"step": 2}):
        log.write(line)
    StepLog(file, 1)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"step": 1, "loss": 2.0}]


@pytest.fixture
def large(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    """A mixture of which the budget pays for a part of the held-out rows."""
    mixture = write_mixture(tmp_path / "mixture", train=300, validation=60, general=24)
    return Runs(tmp_path, tiny_model_folder, mixture)


@pytest.mark.long
def test_a_training_measures_within_its_budget_on_the_same_examples_at_each_look(large: Runs) -> None:
    folder = large.prepare()
    assert train(folder) == 0
    figures, losses = result_of(folder)["figures"], lines(folder, "validation_loss")
    assert 0.05 < figures["measuring_flops"] / figures["flops"] <= 0.1
    assert len(losses) == 4
    (on,) = {line["on"] for line in losses}
    assert on.endswith(" of 60 examples")
    count = int(on.split()[0])
    assert 8 <= count < 60
    assert figures["measured_on"]["validation loss"] == f"on {on}"
    assert [list(line["validation_on"]) for line in lines(folder, "validation_on")] == [
        [str(size) for size in prefixes(60) if size <= count]
    ] * 4
    assert figures["validation_loss_on"][str(count)] == figures["validation_loss_best"]
    assert len(lines(folder, "degeneration")) == 2
    assert [line["step"] for line in lines(folder, "degeneration")] == [0, figures["best_step"]]


@pytest.mark.long
def test_what_each_example_lost_is_kept_where_it_is_asked_for_and_trains_nothing_else(large: Runs) -> None:
    plain, apart = large.prepare("plain"), large.prepare("apart", by_example=True)
    assert [train(plain), train(apart)] == [0, 0]
    figures, other = result_of(apart)["figures"], result_of(plain)["figures"]
    assert "validation_by_example" not in other
    assert payload_bytes(apart) == payload_bytes(plain)
    assert figures["validation_loss_on"] == pytest.approx(other["validation_loss_on"], rel=1e-5)
    means = means_of(figures["validation_by_example"], figures["validation_loss_on"])
    assert means == pytest.approx(figures["validation_loss_on"], rel=1e-6)
    assert len(figures["validation_by_example"]) == max(map(int, means))
    assert [line["step"] for line in lines(apart, "validation_by_example")] == [
        line["step"] for line in lines(apart, "validation_loss") if line["step"]
    ]


@pytest.mark.slow
def test_a_training_evaluates_as_often_as_its_budget_pays_for_where_nothing_is_declared(
    large: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that are left keep their numbers, by which the runs of a sweep are compared."""
    folder = large.prepare(training={"evaluations": None, "watch": {"budget": 0.105}, "max_steps": 32})
    assert train(folder) == 0
    losses = lines(folder, "validation_loss")
    assert [(line["step"], line.get("evaluation")) for line in losses] == [(0, None), (16, 4), (32, 8)]
    assert [path.name for path in sorted((folder / "acme.support/checkpoints").iterdir())] == [
        "checkpoint-16",
        "checkpoint-32",
    ]
    assert ", 2 evaluations: " in capsys.readouterr().out
    assert _curves(folder / "acme.support/evidence")[0] == [
        *(None,) * 3, losses[1]["validation_loss"], *(None,) * 3, losses[2]["validation_loss"],
    ]  # fmt: skip


@pytest.mark.slow
def test_what_is_above_the_budget_because_less_would_say_little_is_said(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs.prepare(training={"watch": {"budget": 0.001}})
    assert train(folder) == 0
    said, warned = capsys.readouterr()
    assert "measuring is above its budget of 0.1% (training.watch.budget): validation loss " in said
    assert "Fewer than 8 examples of each would say little" in warned
    takes = float(said.partition("measuring takes ")[2].partition("%")[0])
    parts = warned.partition("(training.watch.budget): ")[2].partition(". Fewer")[0].split(", ")
    shares = {each.rpartition(" ")[0]: float(each.rpartition(" ")[2].removesuffix("%")) for each in parts}
    assert [*shares] == ["validation loss", "general holdout loss", "general prompts"]
    assert sum(shares.values()) == pytest.approx(takes, abs=0.2)
    assert "validation loss on 6 of 6 examples" in said
    assert "general holdout loss on 4 of 4 texts, at the first and the last look" in said


@pytest.mark.long
def test_without_a_budget_everything_is_measured_and_the_same_training_comes_out(large: Runs) -> None:
    everything = large.prepare("all", training={"watch": {"budget": None}, "keep_best": 8, "keep_last": 8})
    sampled = large.prepare("sampled", training={"keep_best": 8, "keep_last": 8})
    assert (train(everything), train(sampled)) == (0, 0)
    assert {line["on"] for line in lines(everything, "validation_loss")} == {"60 of 60 examples"}
    assert len(lines(everything, "degeneration")) == len(lines(everything, "general_holdout_loss")) == 4
    steps = [line["loss"] for line in lines(everything, "grad_norm")]
    assert steps == [line["loss"] for line in lines(sampled, "grad_norm")]
    figures = [result_of(folder)["figures"] for folder in (everything, sampled)]
    assert figures[0]["measured_tokens"] > 2 * figures[1]["measured_tokens"]
    weights = [
        (folder / f"acme.support/checkpoints/checkpoint-{len(steps)}/adapter_model.safetensors").read_bytes()
        for folder in (everything, sampled)
    ]
    assert weights[0] == weights[1]


@pytest.mark.long
def test_a_training_is_counted_beforehand_as_it_is_trained(large: Runs) -> None:
    """Examples of one row do not attend to each other, neither in its steps nor in what its budget is of."""
    one_row = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    folder = large.prepare("counted", training=one_row)
    assert train(folder) == 0
    run = read_run(folder)
    work = prepare(run, run.members[0], "recipe", Console())
    attends = attends_by_example(AutoConfig.from_pretrained(large.base), packs=True)
    counted = work_of(work.bins, work.train, attends)
    (last,) = (folder / "acme.support/checkpoints").glob(f"checkpoint-{work.steps}")
    journal = Journal.load(last)
    assert (journal.slots, journal.squares, journal.trained_tokens) == counted[:3]
    assert counted.squares < work_of(work.bins, work.train, lambda _: False).squares


@pytest.mark.long
def test_a_limit_of_the_runs_before_it_is_compared_on_as_many_examples(large: Runs) -> None:
    below = large.prepare("below", stop_above={"1": 0.5}, stop_above_on=8)
    train(below)
    assert result_of(below)["status"] == "stopped"
    fewer = large.prepare("fewer", stop_above={"1": 0.5}, stop_above_on=60)  # it measures fewer
    train(fewer)
    assert result_of(fewer)["status"] == "done"
