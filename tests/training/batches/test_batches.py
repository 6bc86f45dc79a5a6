"""The batch that the trainer really feeds: packed examples never see each other, the loss is the full one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from ft_dagster.errors import UserError
from ft_dagster.training.arguments import training_arguments
from ft_dagster.training.batches.attention import ENDS, given, packed
from ft_dagster.training.batches.batches import Collator
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.loss import loss_of_fused_head
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.trainer import build_trainer, prepare
from ft_dagster.training.work import Work
from tests.training.runs import Runs

pytestmark = pytest.mark.slow


def built(runs: Runs, **changes: Any) -> tuple[Work, Any]:
    """The work and its trainer, with an adapter that already says something and no dropout."""
    run = read_run(runs.prepare(method={"dropout": 0.0}, **changes))
    member = run.members[0]
    member.output.mkdir(parents=True)
    work = prepare(run, member, recipe_digest(run, member), Console())
    trainer, _ = build_trainer(run, work, Stop(), training_arguments(work))
    torch.manual_seed(7)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return work, trainer


def batches(trainer: Any) -> list[dict[str, Any]]:
    return list(trainer.get_train_dataloader())


def logits(trainer: Any, **inputs: Any) -> torch.Tensor:
    """By transformers' own attention."""
    with torch.no_grad():
        return trainer.model.eval()(use_cache=False, **inputs).logits


def alone(work: Work, trainer: Any, ordinal: int) -> torch.Tensor:
    ids, _ = work.train.read(ordinal)
    return logits(trainer, input_ids=torch.from_numpy(ids)[None])[0]


@pytest.mark.parametrize("masked", [False, True])
def test_each_packed_examples_logits_equal_those_of_the_example_alone(runs: Runs, masked: bool) -> None:
    work, trainer = built(runs)
    worst, most = 0.0, 0
    for batch in batches(trainer):
        with packed(trainer.model, batch, off=masked):
            inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
            together = logits(trainer, **inputs, **given(batch))
        for row, ordinals in enumerate(batch["ordinals"]):
            at = 0
            for ordinal in ordinals:
                expected = alone(work, trainer, ordinal)
                difference = together[row, at : at + len(expected)] - expected
                worst = max(worst, difference.abs().max().item())
                at += len(expected)
            most = max(most, len(ordinals))
    assert most > 1
    assert worst < 1e-5


def test_an_attention_mask_of_ones_would_let_examples_see_each_other(runs: Runs) -> None:
    work, trainer = built(runs)
    batch = batches(trainer)[0]
    leaky = logits(
        trainer,
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=torch.ones_like(batch["input_ids"]),
    )
    first, second = batch["ordinals"][0][:2]
    start = int(work.train.lengths[first])
    expected = alone(work, trainer, second)
    assert (leaky[0, start : start + len(expected)] - expected).abs().max() > 1e-2


def test_batches_carry_no_attention_mask(runs: Runs) -> None:
    _, trainer = built(runs)
    tensors = {name for name, value in batches(trainer)[0].items() if isinstance(value, torch.Tensor)}
    assert tensors == {"input_ids", "labels", "position_ids", ENDS}


def test_padding_is_a_block_of_its_own_without_labels(runs: Runs) -> None:
    work, trainer = built(runs, training={"packing": False, "per_device_train_batch_size": 4})
    batch = batches(trainer)[0]
    for row, (ordinal,) in enumerate(batch["ordinals"]):
        length, width = int(work.train.lengths[ordinal]), batch["input_ids"].shape[1]
        assert batch["position_ids"][row, length:].tolist() == list(range(width - length))
        assert (batch["labels"][row, length:] == -100).all()


@pytest.mark.parametrize(
    ("longest", "max_length", "width"),
    [(1, 1024, 2), (256, 1024, 256), (257, 1024, 288), (1004, 1004, 1004), (997, 1004, 1004), (300, 0, 300)],
)
def test_rows_are_padded_to_no_more_than_the_longest_that_is_allowed(
    longest: int, max_length: int, width: int
) -> None:
    batch = Collator(of_lengths(longest), 0, max_length)([{"bin": [0]}])
    assert batch["input_ids"].shape == (1, width)


def test_padding_takes_no_position_beyond_those_of_the_examples() -> None:
    batch = Collator(of_lengths(50, 60, 70), 0, 128)([{"bin": [0, 2]}, {"bin": [1]}, {"bin": []}])
    positions = batch["position_ids"]
    assert positions.max() == 69
    assert positions[1, 60:].tolist() == list(range(60))
    assert positions[2].tolist() == [*range(70), *range(50)]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_examples_beyond_the_positions_that_a_model_learned_are_refused(
    kind: str, runs: Runs, tmp_path: Path
) -> None:
    """Rotary positions go on."""
    vocabulary = AutoConfig.from_pretrained(runs.base).vocab_size
    sizes = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 20, "ffn_dim": 48, "word_embed_proj_dim": 32,
    }  # fmt: skip
    base = shutil.copytree(runs.base, tmp_path / "base")
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(base)
    shorter = replace(runs, base=base)
    if kind == "llama":
        built(shorter)
        return
    with pytest.raises(UserError, match="has learned 20 positions, and the longest example takes 24"):
        built(shorter)


def of_lengths(*lengths: int) -> Examples:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    spans = np.zeros(len(lengths) + 1, np.int64)
    return Examples(np.full(sum(lengths), 7, np.int32), starts, np.zeros(0, np.int32), spans, (len(lengths),))


def test_the_loss_at_trained_positions_equals_the_full_computation(runs: Runs) -> None:
    _, trainer = built(runs)
    for batch in batches(trainer):
        ordinals = batch.pop("ordinals")
        assert ordinals
        fast = trainer.compute_loss(trainer.model.eval(), dict(batch)).item()
        whole = logits(trainer, input_ids=batch["input_ids"], position_ids=batch["position_ids"])
        full = cross_entropy(whole[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        assert fast == pytest.approx(full.item(), rel=1e-6)  # float32: the order of a sum


def test_the_loss_equals_that_of_trls_fused_head(runs: Runs) -> None:
    """Ours at trained positions, and TRL's own head as a GPU runs it, without its metrics."""
    from trl import SFTTrainer

    _, trainer = built(runs)
    batch, seven = batches(trainer)[0], torch.tensor(7)
    del batch["ordinals"], batch["content"]
    ours = trainer.compute_loss(trainer.model.eval(), dict(batch), num_items_in_batch=seven)
    theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=seven)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert loss_of_fused_head(trainer.model, batch, seven).item() == theirs.item()


def test_a_step_has_the_gradients_of_trainers_own(runs: Runs) -> None:
    from trl import SFTTrainer

    _, trainer = built(runs)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    found = []
    for step in (trainer.training_step, partial(SFTTrainer.training_step, trainer)):
        batch = batches(trainer)[0]
        del batch["ordinals"], batch["content"]
        loss = step(trainer.model, batch, torch.tensor(7))
        found.append((loss, [weight.grad.clone() for weight in trained]))
        trainer.model.zero_grad()
    (ours, mine), (theirs, their) = found
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for one, other in zip(mine, their, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_a_micro_batch_without_trained_tokens_adds_nothing(runs: Runs) -> None:
    _, trainer = built(runs)
    batch = batches(trainer)[0]
    batch.pop("ordinals")
    batch["labels"].fill_(-100)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(7))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_trained_weights_are_fp32_and_frozen_ones_have_the_plans_precision(
    runs: Runs, precision: str
) -> None:
    _, trainer = built(runs, training={"precision": precision})
    kinds = {(p.requires_grad, p.dtype) for p in trainer.model.parameters()}
    frozen = torch.bfloat16 if precision == "bf16" else torch.float32
    assert kinds == {(True, torch.float32), (False, frozen)}
