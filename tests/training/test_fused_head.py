"""Which way a GPU's step takes to its loss, called on a CPU: each gives the same loss and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.training.batches.attention import packed
from ft_dagster.training.contract import method_settings
from ft_dagster.training.loss import by_fused_head, loss_at_trained_positions, step_loss
from tests.older_trl import have_older_trl
from tests.tiny_model import make_tiny_model
from tests.training.methods.taught import prepared, trainer_of
from tests.training.runs import LORA, Runs, write_mixture

pytestmark = pytest.mark.slow

NEW = (17, 40, 41)  # rows of the vocabulary that stand for new tokens
TOKENS = torch.tensor(7)


@pytest.fixture(params=["tied", "untied"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Runs:
    base = make_tiny_model(tmp_path / "base", tied=request.param == "tied")
    return Runs(tmp_path, base, write_mixture(tmp_path / "mixture"))


def trainer(runs: Runs, new: tuple[int, ...] = ()) -> Any:
    _, found = trainer_of(prepared(runs, "run", "lora", base={"new_token_ids": list(new)}))
    torch.manual_seed(7)
    for name, parameter in found.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found.model.eval()
    return found


def batch_of(trainer: Any) -> dict[str, Any]:
    batch: dict[str, Any] = next(iter(trainer.get_train_dataloader()))
    del batch["ordinals"], batch["content"]
    return batch


def learned_by(way: Any, trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradient of each trained weight."""
    trainer.model.zero_grad()
    batch = batch_of(trainer)
    with packed(trainer.model, batch):
        loss = way(trainer.model, batch, TOKENS)
    loss.backward()
    weights = trainer.model.named_parameters()
    return loss.item(), {name: w.grad.clone() for name, w in weights if w.grad is not None}


def on_gpu(model: Any, batch: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    return step_loss(model, batch, tokens, device="cuda")


def same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-3)


def test_an_adapter_on_a_gpu_learns_through_the_fused_head_what_it_learns_on_a_cpu(runs: Runs) -> None:
    made = trainer(runs)
    assert by_fused_head(made.model, "cuda")
    assert not by_fused_head(made.model, "cpu")
    same(learned_by(on_gpu, made), learned_by(loss_at_trained_positions, made))


def test_new_tokens_on_a_gpu_fall_back_from_the_fused_head_and_learn_the_same(runs: Runs) -> None:
    made = trainer(runs, NEW)
    assert not by_fused_head(made.model, "cuda")
    loss, gradients = found = learned_by(on_gpu, made)
    same(found, learned_by(loss_at_trained_positions, made))
    assert loss > 0
    *_, last = (gradient for name, gradient in gradients.items() if "trainable_tokens" in name)
    assert last.any()  # of the head, whose rows are the embeddings' where both are tied


def test_a_trl_without_a_fused_head_falls_back_and_learns_the_same(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(runs)
    have_older_trl(runs.folder / "older", monkeypatch)
    assert not by_fused_head(made.model, "cuda")
    same(learned_by(on_gpu, made), learned_by(loss_at_trained_positions, made))


def test_the_dry_run_of_a_gpu_counts_the_logits_that_new_tokens_need(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", tied=False)
    step = Step(rows=8, length=64, trained_positions=48, device="cuda")
    method = method_settings(LORA)
    plain, wrapped = (footprint(base, method, step, new_token_ids=new) for new in ((), NEW))
    logits = 8 * 48 * 500 * 4  # rows, positions, words, bytes in fp32
    assert wrapped.peak - plain.peak > logits
