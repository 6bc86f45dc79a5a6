"""A training whose rows share beginnings: its steps, its ledger, its counts, and that it goes on alike."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.training.arguments import training_arguments
from ft_dagster.training.batches.attention import AFTER, TIMES, packed
from ft_dagster.training.batches.batches import Collator
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.loss import loss_at_trained_positions
from ft_dagster.training.oom_retry import in_force
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.trainer import build_trainer, prepare
from ft_dagster.training.work import Work
from tests.programs import RunningProgram
from tests.training.runs import (
    Row,
    Runs,
    ledger,
    losses,
    payload_bytes,
    result_of,
    train,
    wait_for_step,
    write_shard,
)

Start = Callable[..., RunningProgram]
ON: dict[str, Any] = {"share_beginnings": "on"}
EXACT = {"dropout": 0.0}
pytestmark = pytest.mark.slow


def alike(count: int, seed: int) -> list[Row]:
    """Rows that begin by one of two texts of 20 tokens, trained on in part of it, or by none."""
    drawn = random.Random(seed)
    fixed = random.Random(0)
    texts = [[fixed.randint(10, 480) for _ in range(20)] for _ in range(2)] + [[]]
    rows = []
    for _ in range(count):
        text = drawn.choice(texts)
        ids = text + [drawn.randint(10, 480) for _ in range(drawn.randint(4, 12))]
        rows.append((ids, [15, len(ids)] if text else [1, len(ids)]))
    return rows


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("shared")
    for split, count, seed in (("train", 40, 1), ("validation", 6, 2)):
        write_shard(folder / "mixture" / split / "shard-00000.parquet", split, 0, alike(count, seed))
    return Runs(folder, tiny_model_folder, folder / "mixture")


def built(runs: Runs, name: str, **changes: Any) -> tuple[Work, Any]:
    run = read_run(runs.prepare(name, training=ON, method=EXACT, **changes))
    member = in_force(run.members[0])
    member.output.mkdir(parents=True)
    work = prepare(run, member, recipe_digest(run, member), Console())
    trainer, _ = build_trainer(run, work, Stop(), training_arguments(work))
    torch.manual_seed(7)
    for weight_name, parameter in trainer.model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return work, trainer


def adapters(trainer: Any) -> torch.Tensor:
    found = [w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None]
    trainer.model.zero_grad()
    return torch.cat(found)


def test_a_steps_gradient_is_that_of_its_examples_computed_whole(shared: Runs) -> None:
    work, trainer = built(shared, "step")
    batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, "cpu")
    step = trainer.current
    assert all(AFTER in batch and TIMES in batch for batch in batches)
    assert int(tokens) == step.trained_tokens
    assert step.tokens - step.shared <= step.slots < step.tokens
    assert step.trained_tokens - step.shared_labels == sum(
        int((batch["labels"] != -100).sum()) for batch in batches
    )
    found = [trainer.training_step(trainer.model, batch, tokens).item() for batch in batches]
    mine, expected = adapters(trainer), []
    whole = Collator(without(work), 0, 10_000)
    for bins in step.bins:
        batch = whole([{"bin": ordinals} for ordinals in bins])
        with packed(trainer.model, batch):
            loss = loss_at_trained_positions(trainer.model, batch, step.trained_tokens)
            loss.backward()
        expected.append(loss.item())
    theirs = adapters(trainer)
    assert found == pytest.approx(expected, rel=1e-6)
    assert ((mine - theirs).norm() / theirs.norm()).item() < 1e-6


def without(work: Work) -> Any:
    return replace(work.train, beginnings=None)


def test_a_training_counts_each_example_once_an_epoch_and_what_it_computes(shared: Runs) -> None:
    folders = {
        said: shared.prepare(said, training={"share_beginnings": said}, method=EXACT)
        for said in ("on", "off")
    }
    assert [train(folder) for folder in folders.values()] == [0, 0]
    on, off = (result_of(folder)["figures"] for folder in folders.values())
    written = json.loads(ledger(folders["on"]))
    assert written["times"] == [2] * 40
    assert len(set(written["batches"])) == written["steps"] == on["steps"] < off["steps"]
    assert (on["tokens"], on["trained_tokens"]) == (off["tokens"], off["trained_tokens"])
    assert on["shared_tokens"] > 0.2 * on["tokens"]
    assert "shared_tokens" not in off
    assert 0.5 < on["packing_fill"] <= 1
    assert on["flops"] < 0.8 * off["flops"]
    assert on["validation_loss_first"] == pytest.approx(off["validation_loss_first"], rel=1e-6)


def test_what_was_interrupted_equals_what_was_not_bit_for_bit(shared: Runs, start: Start) -> None:
    settings = {**ON, "num_train_epochs": 6.0, "evaluations": 3, "keep_last": 3}
    whole = shared.prepare("whole", training=settings, method=EXACT)
    run_folder = shared.prepare("preempted", training=settings, method=EXACT)
    process = start(run_folder)
    wait_for_step(process, run_folder, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    assert train(whole) == train(run_folder) == 0
    assert result_of(run_folder)["figures"]["resumed_from"]
    assert payload_bytes(run_folder) == payload_bytes(whole)
    assert ledger(run_folder) == ledger(whole)
    assert losses(run_folder) == losses(whole)


def test_half_the_micro_batch_has_the_same_rows_in_the_same_steps(shared: Runs) -> None:
    whole, halved = (built(shared, f"halved-{half}", micro_batch_halved=half)[0] for half in (False, True))
    assert halved.bins == whole.bins
    assert halved.steps == whole.steps


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"method": {"dropout": 0.1}}, "dropout"), ({"training": {**ON, "packing": False}}, "packed")],
)
def test_a_plan_by_hand_is_refused_where_it_cannot_hold(
    shared: Runs, changes: dict[str, Any], why: str, request: pytest.FixtureRequest
) -> None:
    run_folder = shared.prepare(f"by-hand-{why}", **{"training": ON, "method": EXACT, **changes})
    assert train(run_folder) == 2
    error = result_of(run_folder)["error"]
    assert why in error["problem"]
    assert error["field"] == "training.share_beginnings"


@pytest.mark.long
def test_two_ranks_share_as_one_process_does(shared: Runs, start: Start) -> None:
    halves = {"per_device_train_batch_size": 1}
    one, two = (
        shared.prepare(name, training={**ON, **said}, method=EXACT, ranks=count)
        for name, said, count in (("one-rank", {}, 1), ("two-ranks", halves, 2))
    )
    assert train(one) == 0
    process = start(two)
    _, complained = process.communicate(timeout=300)
    assert process.returncode == 0, complained
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    first, second = (json.loads(ledger(folder)) for folder in (one, two))
    assert first["times"] == second["times"] == [2] * 40
