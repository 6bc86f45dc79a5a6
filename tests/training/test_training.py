"""Training of a member: what it writes, which weights it exports, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.training import loss as losses
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.batches.packing import schedule
from ft_dagster.training.contract import read_run
from ft_dagster.training.loss import loss_at_trained_positions
from tests.training.runs import (
    Runs,
    leaf,
    made_rows,
    payload_bytes,
    result_of,
    train,
    write_mixture,
    write_shard,
)

pytestmark = pytest.mark.slow


def failure(run_folder: Path) -> dict[str, Any]:
    """The error of a run that must exit with 2: of a member, or of run.json before there is one."""
    try:
        assert train(run_folder) == 2
    except UserError as error:
        return error.as_dict()
    return result_of(run_folder)["error"]


def micro_batch(run_folder: Path, number: int) -> list[int]:
    """The examples of the training's micro-batch of this number."""
    member = read_run(run_folder).members[0]
    settings, examples = member.plan.training, open_split(member.mixture, "train", member.output)
    assert examples is not None
    bins = schedule(examples.lengths, examples.shards, settings, settings.max_length, member.seed)
    rows = settings.per_device_train_batch_size
    return [ordinal for ordinals in bins[number * rows : (number + 1) * rows] for ordinal in ordinals]


def logged(run_folder: Path, figure: str) -> list[float]:
    lines = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line[figure] for line in map(json.loads, lines) if figure in line]


def test_the_exported_adapter_loads_with_peft_and_has_the_reported_loss(
    trained: Path, tiny_model_folder: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    model = PeftModel.from_pretrained(base, trained / "acme.support/payload").eval()
    total, count = 0.0, 0
    for ids, spans in made_rows(6, seed=2):
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        learned = [t for start, end in zip(spans[::2], spans[1::2], strict=True) for t in range(start, end)]
        total -= sum(log_probs[t - 1, ids[t]].item() for t in learned)
        count += len(learned)
    assert total / count == pytest.approx(result_of(trained)["figures"]["validation_loss_best"], abs=1e-5)


def test_the_tokenizer_lies_beside_the_adapter_with_a_pad_token_apart_from_eos(trained: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained / "acme.support/payload")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template


def test_the_best_checkpoint_is_exported_not_the_last(runs: Runs) -> None:
    """Trained on one row until it knows nothing else: the validation loss rises again."""
    mixture = write_mixture(runs.folder / "narrow", train=4, shards=1)
    folder = runs.prepare(
        mixture=str(mixture),
        training={"max_steps": 60, "learning_rate": 0.1, "evaluations": 12, "lr_scheduler_type": "constant"},
    )
    train(folder)
    figures = result_of(folder)["figures"]
    losses = logged(folder, "validation_loss")
    assert figures["best_step"] < figures["steps"]
    assert figures["validation_loss_best"] == min(losses[1:]) < losses[-1]


def test_without_validation_split_the_last_checkpoint_is_exported_and_it_is_said(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs.prepare(mixture=str(write_mixture(runs.folder / "plain", validation=0, general=0)))
    assert train(folder) == 0
    figures = result_of(folder)["figures"]
    assert (figures["best_step"], figures.get("validation_loss_best")) == (figures["steps"], None)
    assert "no validation split" in capsys.readouterr().out


def test_general_loss_is_measured_before_and_after(trained: Path) -> None:
    figures = result_of(trained)["figures"]
    assert figures["general_holdout_loss_first"] != figures["general_holdout_loss_last"]


def test_the_ledger_counts_every_example_once_an_epoch(trained: Path) -> None:
    assert read_run(trained).members[0].plan.training.num_train_epochs == 2
    ledger = json.loads((trained / "acme.support/evidence/ledger.json").read_text())
    assert ledger["records"] == [leaf("train", ordinal) for ordinal in range(30)]
    assert ledger["times"] == [2] * 30
    assert len(ledger["batches"]) == len(set(ledger["batches"])) == result_of(trained)["figures"]["steps"]


def test_accumulated_micro_batches_give_the_step_of_one_batch(runs: Runs) -> None:
    """Mean over all trained tokens of the step, however it is cut."""
    figures = []
    for rows, accumulation in ((1, 4), (4, 1)):
        folder = runs.prepare(
            f"{rows}x{accumulation}",
            method={"dropout": 0.0},
            training={
                "per_device_train_batch_size": rows,
                "gradient_accumulation_steps": accumulation,
                "packing": False,
            },
        )
        train(folder)
        figures.append([*logged(folder, "loss"), *logged(folder, "grad_norm")])
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_at_most_the_kept_checkpoints_lie_on_disk(runs: Runs) -> None:
    folder = runs.prepare(training={"max_steps": 12, "evaluations": 12, "keep_best": 2, "keep_last": 1})
    train(folder)
    assert len(list((folder / "acme.support/checkpoints").iterdir())) <= 3


def test_gradient_checkpointing_changes_no_byte_of_the_result(runs: Runs, trained: Path) -> None:
    saved = runs.prepare("saved", training={"gradient_checkpointing": True})
    train(saved)
    assert payload_bytes(trained) == payload_bytes(saved)


def test_layers_that_are_named_train(runs: Runs) -> None:
    assert train(runs.prepare(method={"target_modules": ["q_proj"]})) == 0


def test_a_run_of_several_members_is_refused_by_field(runs: Runs) -> None:
    with pytest.raises(UserError) as refused:
        read_run(runs.prepare("several", members={"acme.one": {}, "acme.other": {}}))
    assert refused.value.field == "members"


def test_a_finished_member_is_kept_on_a_second_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(trained) == 0
    assert capsys.readouterr().out == "acme.support: already trained, kept\n"


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"method": {"rank": 65}}, "method.rank", "at most 32"),
        ({"method": {"target_modules": ["nothing"]}}, "method.target_modules", "q_proj"),
        ({"method": {"target_modules": ["lm_head"]}}, "method.target_modules", "q_proj"),
        ({"method": {"name": "magic"}}, "method.name", "lora"),
        ({"method": {"rnk": 3}}, "method.rnk", "rank"),
        ({"training": {"max_length": 16}}, "training.max_length", "training_plan again"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_by_field(
    runs: Runs, changes: dict[str, Any], field: str, said: str
) -> None:
    error = failure(runs.prepare(**changes))
    assert error["field"] == field
    assert said in error["fix"]


def test_a_mixture_of_another_tokenizer_is_refused(runs: Runs) -> None:
    mixture = runs.folder / "foreign"
    write_shard(mixture / "train/shard-00000.parquet", "train", 0, [([1, 2, 500], [1, 3])])
    assert "another tokenizer" in failure(runs.prepare(mixture=str(mixture)))["problem"]


def test_a_mixture_without_trained_tokens_is_refused(runs: Runs) -> None:
    mixture = runs.folder / "masked"
    write_shard(mixture / "train/shard-00000.parquet", "train", 0, [([1, 2, 3], [])])
    assert "no trained tokens" in failure(runs.prepare(mixture=str(mixture)))["problem"]


def test_a_base_with_pickled_weights_only_is_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "pickled" / name).write_bytes((runs.base / name).read_bytes())
    runs.base = tmp_path / "pickled"
    assert "safetensors" in failure(runs.prepare())["problem"]


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second micro-batch of the fourth step on the loss is multiplied by infinity, as an exploding
    step would.
    """
    honest = loss_at_trained_positions
    calls = iter(range(10_000))

    def exploding(model: Any, inputs: Any, tokens: Any, summed: Any) -> Any:
        loss = honest(model, inputs, tokens, summed)
        return loss * float("inf") if model.training and next(calls) >= 7 else loss

    monkeypatch.setattr(losses, "loss_at_trained_positions", exploding)
    folder = runs.prepare()
    error = failure(folder)
    named = [leaf("train", ordinal) for ordinal in range(30) if leaf("train", ordinal) in error["problem"]]
    assert named
    assert f"examples {micro_batch(folder, 7)[:8]}" in error["problem"]
    assert "checkpoint-2 is the last good one" in error["problem"]
    assert (folder / "acme.support/checkpoints/checkpoint-2/checkpoint.json").exists()


def test_a_diverging_training_is_stopped_by_its_own_numbers(runs: Runs) -> None:
    """A learning rate of 1e30 in fp32 overflows within a few steps."""
    folder = runs.prepare(training={"learning_rate": 1e30, "warmup_ratio": 0.0, "num_train_epochs": 8.0})
    error = failure(folder)
    assert error["field"] == "training.learning_rate"
    assert "nan" in error["problem"] or "inf" in error["problem"]
