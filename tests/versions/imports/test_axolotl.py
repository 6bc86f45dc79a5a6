"""Each documented field of Axolotl's configuration is carried, changed or dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.long import mostly_long
from tests.versions.imports.imported import (
    chat,
    configured,
    declaration,
    imported,
    lines,
    outcomes,
    refused,
    value_at,
)

pytestmark = pytest.mark.slow

CARRIED: dict[str, tuple[Any, str, Any]] = {
    "sequence_len": (2048, "training.max_length", 2048),
    "sample_packing": (True, "training.packing", True),
    "micro_batch_size": (2, "training.per_device_train_batch_size", 2),
    "gradient_accumulation_steps": (4, "training.gradient_accumulation_steps", 4),
    "num_epochs": (3, "training.num_train_epochs", 3),
    "max_steps": (100, "training.max_steps", 100),
    "learning_rate": ("2e-4", "training.learning_rate", 2e-4),  # YAML reads 2e-4 as a text
    "lr_scheduler": ("cosine", "training.lr_scheduler_type", "cosine"),
    "warmup_ratio": (0.1, "training.warmup_ratio", 0.1),
    "weight_decay": (0.01, "training.weight_decay", 0.01),
    "max_grad_norm": (1.0, "training.max_grad_norm", 1.0),
    "seed": (42, "training.seed", 42),
    "lora_r": (16, "method.rank", 16),
    "lora_alpha": (32, "method.alpha", 32),
    "lora_dropout": (0.05, "method.dropout", 0.05),
    "lora_target_linear": (True, "method.target_modules", "all-linear"),
    "lora_target_modules": (["q_proj", "v_proj"], "method.target_modules", ["q_proj", "v_proj"]),
    "peft_use_dora": (True, "method.use_dora", True),
    "peft_use_rslora": (True, "method.use_rslora", True),
    "peft_init_lora_weights": ("gaussian", "method.init_lora_weights", "gaussian"),
    "val_set_size": (0.2, "data.splits.validation", 0.2),
    "bf16": (True, "training.precision", "bf16"),
    "gradient_checkpointing": (True, "training.gradient_checkpointing", True),
    "save_total_limit": (2, "training.keep_last", 2),
    "revision_of_model": ("a" * 40, "base_model.revision", "a" * 40),
    "tokens": (["<call>"], "base_model.new_tokens", ["<call>"]),
}
KEPT: dict[str, Any] = {
    "train_on_inputs": False,
    "optimizer": "adamw_torch_fused",
    "fp16": False,
    "neftune_noise_alpha": 0,
    "load_in_8bit": False,
    "train_on_eos": "turn",
}
CHANGED: dict[str, Any] = {
    "output_dir": "./out",
    "flash_attention": True,
    "warmup_steps": 10,
    "optimizer": "adamw_bnb_8bit",
    "deepspeed": "deepspeed_configs/zero2.json",
    "wandb_project": "mine",
    "chat_template": "chatml",
    "logging_steps": 1,
    "dataset_prepared_path": "prepared",
    "special_tokens": {"pad_token": "<pad>"},
    "save_steps": 100,
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "val_set_size": 0,
    "eval_steps": 50,
}
DROPPED: dict[str, Any] = {
    "rl": "dpo",
    "peft_init_lora_weights": "loftq",
    "train_on_inputs": True,
    "optimizer": "muon",
    "lr_scheduler": "rex",
    "fp16": True,
    "neftune_noise_alpha": 5,
    "early_stopping_patience": 3,
    "test_datasets": [{"path": "x"}],
    "loraplus_lr_ratio": 16,
    "special_tokens": {"eos_token": "<end>"},
    "a_field_of_tomorrow": 1,
}


def with_fields(**fields: Any) -> dict[str, Any]:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    usual = {"base_model": "base", "adapter": "lora", "datasets": [{"path": rows, "type": "chat_template"}]}
    return imported("axolotl", configured(**{**usual, **fields}))


@pytest.mark.parametrize("field", mostly_long(CARRIED, every=2))
def test_a_field_with_an_equal_here_is_carried(field: str) -> None:
    value, here, expected = CARRIED[field]
    made = with_fields(**{field: value})
    assert outcomes(made)[field] == ("carried", here)
    assert value_at(declaration(made), here) == expected


@pytest.mark.parametrize("field", KEPT)
def test_a_field_that_says_what_is_done_here_anyway_is_carried(field: str) -> None:
    assert outcomes(with_fields(**{field: KEPT[field]}))[field] == ("carried", None)


@pytest.mark.parametrize("field", mostly_long(CHANGED, every=2))
def test_a_field_that_is_done_otherwise_is_changed_with_a_reason(field: str) -> None:
    made = with_fields(**{field: CHANGED[field]})
    [outcome] = [each for each in made["fields"] if each["field"] == field]
    assert outcome["outcome"] == "changed"
    assert outcome["why"]


@pytest.mark.parametrize("field", mostly_long(DROPPED, every=2))
def test_a_field_that_nothing_here_does_is_dropped_with_a_reason(field: str) -> None:
    made = with_fields(**{field: DROPPED[field]})
    [outcome] = [each for each in made["fields"] if each["field"] == field]
    assert outcome["outcome"] == "dropped"
    assert outcome["why"]
    assert made["counts"]["dropped"] == 1


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"adapter": "lora"}, "lora"),
        ({"adapter": "lora", "load_in_8bit": True}, "lora_8bit"),
        ({"adapter": "qlora", "load_in_4bit": True}, "qlora"),
        ({"adapter": None, "lora_r": 8, "lora_target_linear": True}, "full"),
    ],
)
def test_the_method_is_the_one_that_was_trained(fields: dict[str, Any], method: str) -> None:
    made = with_fields(**fields)
    assert declaration(made)["method"]["name"] == method
    assert made["counts"]["dropped"] == 0


@pytest.mark.parametrize("times", [1, 2, 4])
def test_evaluations_of_each_pass_are_counted_over_all_of_them(times: int) -> None:
    made = with_fields(num_epochs=3, evals_per_epoch=times)
    assert declaration(made)["training"]["evaluations"] == 3 * times


ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "chat_template": ({"type": "chat_template"}, chat(1), {"format": "chat"}),
    "of other names": (
        {
            "type": "chat_template",
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value"},
        },
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
        {"format": "sharegpt"},
    ),
    "of former names": (
        {"type": "chat_template", "field_messages": "chat", "message_field_role": "role"},
        {"chat": chat(1)["messages"]},
        {"format": "chat", "fields": {"messages": "chat"}},
    ),
    "sharegpt": (
        {"type": "sharegpt"},
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
        {"format": "sharegpt"},
    ),
    "alpaca": ({"type": "alpaca"}, {"instruction": "a?", "output": "b"}, {"format": "alpaca"}),
    "questions": (
        {"type": "alpaca_chat.load_qa"},
        {"question": "a?", "answer": "b"},
        {"format": "alpaca", "fields": {"instruction": "question", "output": "answer"}},
    ),
    "a type of its own": (
        {"type": {"field_instruction": "q", "field_output": "a"}},
        {"q": "a?", "a": "b"},
        {"format": "alpaca", "fields": {"instruction": "q", "output": "a"}},
    ),
    "completion": (
        {"type": "completion", "field": "body"},
        {"body": "a text"},
        {"format": "text", "fields": {"text": "body"}},
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_data_set_of_a_documented_type_is_read_where_it_lies(kind: str) -> None:
    fields, row, expected = ROWS[kind]
    rows = lines("mine/data/own.jsonl", [row])
    made = with_fields(datasets=[{"path": rows, "ds_type": "json", **fields}])
    [source] = declaration(made)["data"]["sources"]
    assert source == {"path": "data/own.jsonl", **expected}
    assert made["counts"]["dropped"] == 0


def test_files_of_a_data_set_are_a_source_each() -> None:
    files = [lines(f"{name}.jsonl", [chat(number) for number in range(300)]) for name in "ab"]
    made = with_fields(datasets=[{"path": "json", "data_files": files, "type": "chat_template"}])
    assert [Path(source["path"]).name for source in declaration(made)["data"]["sources"]] == [
        "a.jsonl",
        "b.jsonl",
    ]


def test_a_data_set_of_the_hub_is_named_and_not_read() -> None:
    made = with_fields(datasets=[{"path": "org/rows", "type": "alpaca", "split": "test"}])
    [source] = declaration(made)["data"]["sources"]
    assert source == {"path": "org/rows", "format": "alpaca", "split": "test"}


def test_rows_of_a_type_that_is_not_read_are_dropped_and_without_others_refused() -> None:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    odd = {"path": rows, "type": "input_output"}
    made = with_fields(datasets=[odd, {"path": rows, "type": "chat_template"}])
    assert outcomes(made)["datasets[0]"] == ("dropped", None)
    error = refused("axolotl", configured("odd.yaml", base_model="base", datasets=[odd]))
    assert error.problem == "no row to train on"
