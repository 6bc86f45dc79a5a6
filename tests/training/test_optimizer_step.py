"""The optimizer's step: its rates, its kernel, and what a micro-batch reads from the device."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from ft_dagster.errors import UserError
from ft_dagster.training import ranks
from ft_dagster.training.journal import JournalStep
from tests.training.methods.taught import trainer_of
from tests.training.runs import Runs

pytestmark = pytest.mark.slow


class Rates(TrainerCallback):
    """The rate that each step is made with."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("schedule", "share", "first"),
    [
        ("cosine", 0.5, 0.25),
        ("linear", 0.1, 1.0),
        ("constant_with_warmup", 0.5, 0.25),
        ("constant", 0.5, 1.0),
    ],
)
def test_no_step_is_made_at_a_rate_of_zero(runs: Runs, schedule: str, share: float, first: float) -> None:
    training = {
        "lr_scheduler_type": schedule, "warmup_ratio": share, "max_steps": 7, "learning_rate": 1e-3,
        "evaluations": 1,
    }  # fmt: skip
    folder = runs.prepare(training=training)
    _, trainer = trainer_of(folder)
    rates = Rates()
    trainer.add_callback(rates)
    trainer.train()
    log = (folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    said = [line["learning_rate"] for line in map(json.loads, log) if "learning_rate" in line]
    assert said == pytest.approx(rates.used)
    assert len(rates.used) == 7
    assert min(rates.used) > 0
    assert max(rates.used) == pytest.approx(1e-3)
    assert rates.used[0] == pytest.approx(first * 1e-3)


def test_adamw_is_torchs_fused_one(runs: Runs) -> None:
    _, trainer = trainer_of(runs.prepare())
    assert trainer.create_optimizer().defaults["fused"]


class Reads(TorchDispatchMode):
    """How often a value was read by the host, for which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_micro_batch_reads_nothing_of_the_device(runs: Runs) -> None:
    _, trainer = trainer_of(runs.prepare(method={"dropout": 0.0}))
    trainer.create_optimizer()
    reads = Reads()
    batches = iter(trainer.get_train_dataloader())
    next(batches)  # the loader draws its seed
    with reads:
        found, tokens = trainer.get_batch_samples(batches, 2, trainer.args.device)
        for batch in found:
            trainer.training_step(trainer.model, batch, tokens)
    assert reads.count == 0
    trainer._get_grad_norm(trainer.model)
    assert len(trainer._losses) == len(found) == 2
    assert trainer.current.loss == pytest.approx(sum(loss.item() for loss in trainer._losses))


def test_a_loss_of_another_rank_that_is_not_finite_is_raised_here_too(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one rank would begin again at a lower rate, and the others would wait for it."""
    _, trainer = trainer_of(runs.prepare())
    trainer.create_optimizer()
    found, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, trainer.args.device)
    for batch in found:
        trainer.training_step(trainer.model, batch, tokens)
    other = JournalStep([[[7]], [[8]]], "", 2, 2, 2)
    monkeypatch.setattr(ranks, "gather", lambda mine: [mine, (other, [1.0, math.nan], False, False)])
    with pytest.raises(UserError, match=r"the loss became nan at step 1, in the batch with examples \[8\]"):
        trainer._get_grad_norm(trainer.model)
