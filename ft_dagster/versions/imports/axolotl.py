"""Reads a configuration of Axolotl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.configured import (
    ADMINISTRATION,
    CHAT_TEMPLATE,
    COMMON,
    EVALUATED,
    LOADING,
    NOTHING_DOES_IT,
    SHARDED,
    SPEED,
    added_tokens,
    configuration,
    named_base,
    optimizer,
    place_of,
    reports,
    rules_of,
    scheduled,
    source_of,
    start,
    validation_share,
)
from ft_dagster.versions.imports.ledger import Item, Ledger
from ft_dagster.versions.imports.rules import (
    PREFERENCES,
    Rule,
    alike,
    apply,
    as_here,
    changed,
    is_object,
    lost,
    names_of,
    no_rows,
    number,
    numeric,
    one_of,
    switch,
    to,
)
from ft_dagster.versions.imports.staged import Staged

SHAREGPT_ROLES = {"role": "from", "content": "value"}
KEPT_OF_A_SET = ("path", "type", "split", "revision", "data_files", "ds_type", "field_messages")


def read_axolotl(files: Sequence[Path], staging: Path) -> tuple[Ledger, list[Staged]]:
    """Return what becomes of each field of a configuration, whose rows stay where they are. Raises
    UserError.
    """
    [file] = files
    content = configuration(file)
    ledger = Ledger()
    _method(ledger, file, content)
    _datasets(ledger, file, content)
    others = {name: value for name, value in content.items() if name not in _OWN}
    apply(ledger, file, others, rules_of(ledger, RULES))
    _evaluations(ledger, file, content)
    if not ledger.sources:
        raise no_rows(file, "Name data sets of rows with answers under `datasets`")
    return ledger, []


_OWN = (
    *("adapter", "load_in_4bit", "load_in_8bit", "datasets", "lora_target_linear", "lora_target_modules"),
    *("evals_per_epoch", "num_epochs", "train_on_inputs"),
)


def _method(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    """Note how the model is taught: an adapter, on a base in 4 or 8 bits, or all weights."""
    adapter = Item(file, "adapter", content.get("adapter") or None)
    four, eight = content.get("load_in_4bit") is True, content.get("load_in_8bit") is True
    for name in ("load_in_4bit", "load_in_8bit"):
        if name in content and content[name] is not None:
            ledger.keep(Item(file, name, content[name]), "by the method")
    if adapter.value is None:
        ledger.carry(adapter, "method.name", "full", "no adapter is named")
        ledger.declare(adapter, "export.format", "merged", "a whole model")
    elif adapter.value in ("lora", "qlora"):
        quantized = "qlora" if four or adapter.value == "qlora" else "lora_8bit"
        name = quantized if four or eight or adapter.value == "qlora" else "lora"
        ledger.carry(adapter, "method.name", name)
        _targets(ledger, file, content)
        return
    else:
        ledger.drop(adapter, "no such method here: the plan chooses one")
    for name in ("lora_target_linear", "lora_target_modules"):
        if content.get(name):
            ledger.change(Item(file, name, content[name]), why="no LoRA is trained")


def _targets(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    linear = Item(file, "lora_target_linear", content.get("lora_target_linear"))
    named = Item(file, "lora_target_modules", content.get("lora_target_modules"))
    if linear.value is True:
        ledger.carry(linear, "method.target_modules", "all-linear")
        if named.value:
            ledger.keep(named, "lora_target_linear names all of them")
    elif named.value == "all-linear":
        ledger.carry(named, "method.target_modules", "all-linear")
    elif named.value:
        ledger.carry(named, "method.target_modules", names_of(named))


def _datasets(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    named = Item(file, "datasets", content.get("datasets"))
    if not isinstance(named.value, list) or not named.value:
        raise named.error("not a list of data sets", "Name one at least: - path: rows.jsonl")
    for i, each in enumerate(named.value):
        _dataset(ledger, Item(file, f"datasets[{i}]", each))
    inputs = Item(file, "train_on_inputs", content.get("train_on_inputs"))
    if inputs.value is True:
        ledger.drop(inputs, "the loss is on answers alone")
    elif inputs.value is not None:
        ledger.keep(inputs, "as here")
    if ledger.sources:
        item = next(each.item for each in ledger.outcomes if each.item.field.startswith("datasets["))
        why = "each answer of a conversation is trained"
        ledger.declare(item, "data.train_on", "assistant_turns", why)


def _dataset(ledger: Ledger, item: Item) -> None:
    """Note a data set: its form, its columns, and where it lies."""
    said = is_object(item)
    kind = said.get("type") or "chat_template"
    form, fields, read = _form(item, kind, said)
    if form is None:
        ledger.drop(item, f"rows of type {kind if isinstance(kind, str) else 'of its own'} are not read here")
        return
    files = said.get("data_files")
    paths = files if isinstance(files, list) and files else [files or said.get("path")]
    for path in paths:
        place = place_of(item._replace(field=f"{item.field}.path"), path)
        more = {"split": said.get("split"), "revision": said.get("revision")}
        ledger.sources.append(source_of(item, place, format=form, fields=fields, **more))
    ledger.name(item, f"format {form}")
    for name, value in said.items():
        if name not in read and value not in (None, "", [], {}):
            _field_of_a_set(ledger, Item(item.file, f"{item.field}.{name}", value))


def _form(item: Item, kind: Any, said: Mapping[str, Any]) -> tuple[str | None, dict[str, str], set[str]]:
    """Return the format of a data set here, None where there is none; its columns by our names; and the
    fields that say so.
    """
    read = set(KEPT_OF_A_SET)
    if isinstance(kind, dict):
        columns = {ours: kind[theirs] for ours, theirs in _OF_OWN_TYPE.items() if kind.get(theirs)}
        return ("alpaca", columns, read) if {"instruction", "output"} <= columns.keys() else (None, {}, read)
    if kind == "chat_template":
        names = said.get("message_property_mappings") or _former_names(said)
        read |= {"message_property_mappings", "message_field_role", "message_field_content"}
        column = said.get("field_messages") or "messages"
        if names == SHAREGPT_ROLES:
            return "sharegpt", {} if column == "conversations" else {"conversations": column}, read
        if names in (None, {"role": "role", "content": "content"}):
            return "chat", {} if column == "messages" else {"messages": column}, read
        return None, {}, read
    if kind == "sharegpt":
        column = said.get("field_messages") or "conversations"
        return "sharegpt", {} if column == "conversations" else {"conversations": column}, read
    if kind in ("alpaca", "alpaca_chat.load_qa"):
        columns = {} if kind == "alpaca" else {"instruction": "question", "output": "answer"}
        return "alpaca", columns, read
    if kind in ("completion", "pretrain"):
        column = said.get("field") or "text"
        return "text", {} if column == "text" else {"text": column}, read | {"field"}
    return None, {}, read


_OF_OWN_TYPE = {
    "instruction": "field_instruction",
    "input": "field_input",
    "output": "field_output",
    "system": "field_system",
}


def _former_names(said: Mapping[str, Any]) -> JsonObject | None:
    role, content = said.get("message_field_role"), said.get("message_field_content")
    return {"role": role or "role", "content": content or "content"} if role or content else None


def _field_of_a_set(ledger: Ledger, item: Item) -> None:
    name = item.field.rpartition(".")[2]
    if name == "roles_to_train":
        as_here((["assistant"], ["gpt", "assistant"]), "answers of the assistant alone are trained")(
            ledger, item
        )
    elif name == "train_on_eos":
        ANSWER_ENDS(ledger, item)
    elif name == "chat_template":
        CHAT_TEMPLATE(ledger, item)
    elif name == "message_field_training":
        as_here(("train", "trainable", "weight"), "a turn says it by train or weight")(ledger, item)
    elif name == "field_tools":
        as_here(("tools",), "rows have them in a column `tools`")(ledger, item)
    elif name in ("shards", "preprocess_shards", "roles"):
        LOADING(ledger, item)
    else:
        ledger.drop(item, "nothing here knows this field of a data set")


def _revision(ledger: Ledger, item: Item) -> None:
    ledger.carry(item, "base_model.revision", str(item.value))


def _special_tokens(ledger: Ledger, item: Item) -> None:
    if set(is_object(item)) <= {"pad_token"}:
        ledger.change(item, why="padding is masked, by a token of the base's own")
    else:
        ledger.drop(item, "the base's own special tokens are used")


def _evaluations(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    """Note the passes, and how often they are interrupted to validate."""
    epochs = Item(file, "num_epochs", content.get("num_epochs"))
    times = Item(file, "evals_per_epoch", content.get("evals_per_epoch"))
    if epochs.value is not None:
        ledger.carry(epochs, "training.num_train_epochs", number(epochs, least=0))
    if times.value is None:
        return
    each = number(times, least=0, whole=True)
    if each and epochs.value is not None:
        in_all = max(1, round(each * number(epochs, least=0)))
        ledger.carry(times, "training.evaluations", in_all, "in all passes")
    else:
        EVALUATED(ledger, times)


def _tracker(name: str) -> Rule:
    return lambda ledger, item: reports(ledger, [name] if item.value else ["none"], item)


ANSWER_ENDS = as_here(("turn", "all"), "each answer is trained with the end of its turn")
RULES: dict[str, Rule] = {
    **COMMON,
    "base_model": named_base,
    "revision_of_model": _revision,
    "tokens": added_tokens,
    "special_tokens": _special_tokens,
    "sequence_len": numeric("training.max_length", least=1, whole=True),
    "sample_packing": to("training.packing"),
    "micro_batch_size": numeric("training.per_device_train_batch_size", least=1, whole=True),
    "lr_scheduler": scheduled,
    "optimizer": optimizer,
    "lora_r": numeric("method.rank", least=1, whole=True),
    "peft_use_dora": switch("method.use_dora"),
    "peft_use_rslora": switch("method.use_rslora"),
    "peft_init_lora_weights": start,
    "val_set_size": validation_share,
    "gradient_checkpointing": one_of(
        "training.gradient_checkpointing",
        {True: True, False: False, "true": True, "unsloth": True, "offload": True},
        "on or off here",
    ),
    "chat_template": CHAT_TEMPLATE,
    "train_on_eos": ANSWER_ENDS,
    "wandb_project": _tracker("wandb"),
    "mlflow_experiment_name": _tracker("mlflow"),
    "use_tensorboard": _tracker("tensorboard"),
    "fsdp_version": SHARDED,
    "model_type": as_here(
        ("AutoModelForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"),
        "the class is what the base's config.json names, of those of transformers",
    ),
    "saves_per_epoch": EVALUATED,
    **alike(ADMINISTRATION, "hub_strategy save_safetensors auto_resume_from_checkpoints"),
    **alike(
        SPEED,
        "plugins flash_attention xformers_attention sdp_attention flex_attention attn_implementation "
        "eager_attention pad_to_sequence_len eval_sample_packing group_by_length strict debug local_rank "
        "gradient_checkpointing_kwargs liger_rope liger_rms_norm liger_glu_activation liger_swiglu "
        "liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy lora_mlp_kernel lora_qkv_kernel "
        "lora_o_kernel bnb_config_kwargs eval_batch_size eval_table_size",
    ),
    **alike(
        LOADING,
        "dataset_prepared_path dataset_processes shuffle_merged_datasets dataloader_prefetch_factor "
        "tokenizer_type tokenizer_use_fast skip_prepare_dataset",
    ),
    **alike(
        changed("the tracker's own environment variables say it"),
        "wandb_entity wandb_watch wandb_name wandb_run_id wandb_log_model",
    ),
    **alike(lost(PREFERENCES), "rl rl_beta dpo_beta"),
    "test_datasets": lost("a split of the same rows judges"),
    "early_stopping_patience": lost(
        "training.watch ends what forgets too much; the best checkpoint is exported"
    ),
    **alike(
        NOTHING_DOES_IT,
        "lora_modules_to_save peft_layers_to_transform lora_model_dir unfrozen_parameters "
        "cosine_min_lr_ratio chat_template_jinja default_system_message overrides_of_model_config "
        "resize_token_embeddings_to_32x lora_fan_in_fan_out",
    ),
}
