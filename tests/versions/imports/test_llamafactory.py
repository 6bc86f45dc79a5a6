"""Each documented field of LLaMA-Factory's configuration and of dataset_info.json has an outcome."""

from __future__ import annotations

import json
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
    "lora_rank": (8, "method.rank", 8),
    "lora_alpha": (16, "method.alpha", 16),
    "lora_dropout": (0.1, "method.dropout", 0.1),
    "lora_target": ("all", "method.target_modules", "all-linear"),
    "use_dora": (True, "method.use_dora", True),
    "use_rslora": (True, "method.use_rslora", True),
    "pissa_init": (True, "method.init_lora_weights", "pissa"),
    "add_tokens": ("<call>,<end_of_call>", "base_model.new_tokens", ["<call>", "<end_of_call>"]),
    "model_revision": ("b" * 40, "base_model.revision", "b" * 40),
    "cutoff_len": (2048, "training.max_length", 2048),
    "packing": (False, "training.packing", False),
    "per_device_train_batch_size": (1, "training.per_device_train_batch_size", 1),
    "gradient_accumulation_steps": (8, "training.gradient_accumulation_steps", 8),
    "learning_rate": ("1.0e-4", "training.learning_rate", 1e-4),
    "num_train_epochs": (3.0, "training.num_train_epochs", 3.0),
    "max_steps": (50, "training.max_steps", 50),
    "lr_scheduler_type": ("linear", "training.lr_scheduler_type", "linear"),
    "warmup_ratio": (0.1, "training.warmup_ratio", 0.1),
    "weight_decay": (0.01, "training.weight_decay", 0.01),
    "max_grad_norm": (0.5, "training.max_grad_norm", 0.5),
    "seed": (1, "training.seed", 1),
    "bf16": (True, "training.precision", "bf16"),
    "disable_gradient_checkpointing": (True, "training.gradient_checkpointing", False),
    "val_size": (0.2, "data.splits.validation", 0.2),
    "save_total_limit": (3, "training.keep_last", 3),
    "mask_history": (True, "data.train_on", "completions"),
}
KEPT: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "optim": "adamw_torch",
    "quantization_method": "bnb",
    "double_quantization": True,
    "train_on_prompt": False,
    "report_to": "none",
}
CHANGED: dict[str, Any] = {
    "template": "qwen3",
    "output_dir": "saves/x",
    "overwrite_output_dir": True,
    "plot_loss": True,
    "ddp_timeout": 180000000,
    "preprocessing_num_workers": 16,
    "flash_attn": "fa2",
    "trust_remote_code": True,
    "warmup_steps": 20,
    "report_to": "wandb",
    "deepspeed": "ds_z3.json",
    "eval_strategy": "steps",
    "neat_packing": True,
}
DROPPED: dict[str, Any] = {
    "stage": "dpo",
    "train_on_prompt": True,
    "max_samples": 1000,
    "eval_dataset": "other",
    "double_quantization": False,
    "neftune_noise_alpha": 5,
    "use_galore": True,
    "pref_beta": 0.1,
    "additional_target": "embed_tokens",
    "quantization_bit": 3,
    "a_field_of_tomorrow": 1,
}
INFO: dict[str, Any] = {"mine": {"file_name": "rows.jsonl", "formatting": "openai"}}


def with_fields(info: dict[str, Any] = INFO, **fields: Any) -> dict[str, Any]:
    lines("data/rows.jsonl", [chat(number) for number in range(400)])
    Path("data/dataset_info.json").write_text(json.dumps(info))
    return imported("llamafactory", configured(**{"model_name_or_path": "base", "dataset": "mine", **fields}))


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
        ({}, "lora"),
        ({"finetuning_type": "lora", "quantization_bit": 4}, "qlora"),
        ({"finetuning_type": "lora", "quantization_bit": 8}, "lora_8bit"),
        ({"finetuning_type": "full", "lora_rank": 8}, "full"),
    ],
)
def test_the_method_is_the_one_that_was_trained(fields: dict[str, Any], method: str) -> None:
    made = with_fields(**fields)
    assert declaration(made)["method"]["name"] == method
    assert made["counts"]["dropped"] == 0


TALK = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]
SETS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "alpaca": ({}, {"instruction": "a?", "input": "", "output": "b"}, {"format": "alpaca"}),
    "alpaca of other names": (
        {"columns": {"prompt": "question", "response": "answer", "query": "context"}},
        {"question": "a?", "context": "c", "answer": "b"},
        {
            "format": "alpaca",
            "fields": {"instruction": "question", "input": "context", "output": "answer"},
        },
    ),
    "text": ({"columns": {"prompt": "body"}}, {"body": "x"}, {"format": "text", "fields": {"text": "body"}}),
    "sharegpt": ({"formatting": "sharegpt"}, {"conversations": TALK}, {"format": "sharegpt"}),
    "sharegpt of other columns": (
        {"formatting": "sharegpt", "columns": {"messages": "talk", "system": "who"}},
        {"talk": TALK, "who": "You are kind."},
        {"format": "sharegpt", "fields": {"conversations": "talk", "system": "who"}},
    ),
    "sharegpt with the tags of a chat without tools": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        },
        chat(1),
        {"format": "chat"},
    ),
    "sharegpt with the tags of a chat": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "observation_tag": "tool",
            },
        },
        chat(1),
        {"format": "chat"},
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_a_data_set_of_a_documented_form_is_read_where_it_lies(kind: str) -> None:
    said, row, expected = SETS[kind]
    lines("data/own.jsonl", [row])
    made = with_fields({"own": {"file_name": "own.jsonl", **said}}, dataset="own")
    [source] = declaration(made)["data"]["sources"]
    assert source == {"path": str(Path("data/own.jsonl").absolute()), **expected}
    assert made["counts"]["dropped"] == 0


def test_a_data_set_of_the_hub_is_named_and_not_read() -> None:
    made = with_fields({"own": {"hf_hub_url": "org/rows", "split": "train"}}, dataset="own")
    assert declaration(made)["data"]["sources"] == [{"path": "org/rows", "format": "alpaca"}]


def test_pairs_and_forms_that_are_not_read_are_dropped_with_their_data_set() -> None:
    info = {
        **INFO,
        "pairs": {"file_name": "rows.jsonl", "ranking": True},
        "odd": {"file_name": "rows.jsonl", "formatting": "sharegpt", "tags": {"user_tag": "me"}},
        "script": {"script_url": "load.py"},
    }
    made = with_fields(info, dataset="mine,pairs,odd,script")
    found = outcomes(made)
    assert [found[name] for name in ("pairs", "odd", "script")] == [("dropped", None)] * 3
    assert made["counts"]["dropped"] == 3


def test_a_data_set_that_is_not_known_is_refused_with_those_that_are() -> None:
    with_fields()
    given = configured("other.yaml", model_name_or_path="base", dataset="mien")
    assert "It names: mine" in refused("llamafactory", given, "--variant", "acme.x").fix
