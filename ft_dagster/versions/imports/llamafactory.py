"""Reads a configuration of LLaMA-Factory, and the data sets that its dataset_info.json names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.files import read_text
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.configured import (
    ADMINISTRATION,
    CHAT_TEMPLATE,
    COMMON,
    EVALUATED,
    LOADING,
    NOTHING_DOES_IT,
    QUIET,
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
    UNKNOWN,
    Rule,
    alike,
    apply,
    as_here,
    changed,
    is_object,
    lost,
    must_be,
    names_of,
    no_rows,
    numeric,
    switch,
    to,
)
from ft_dagster.versions.imports.staged import Staged

INFO = "dataset_info.json"
LARGEST_INFO = 4_000_000  # bytes
QUANTIZED = {4: "qlora", 8: "lora_8bit"}
ALPACA = {"instruction": "prompt", "input": "query", "output": "response", "system": "system"}
ALPACA_NAMES = {"prompt": "instruction", "query": "input", "response": "output"}  # unless columns are named
SHAREGPT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OF_A_TURN = {"role_tag", "content_tag", "user_tag", "assistant_tag"}
CHAT_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
NOT_READ = ("images", "videos", "audios", "chosen", "rejected", "kto_tag", "history")  # columns


def read_llamafactory(files: Sequence[Path], staging: Path) -> tuple[Ledger, list[Staged]]:
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
    if not ledger.sources:
        raise no_rows(file, "Name data sets of rows with answers under `dataset`")
    return ledger, []


_OWN = ("finetuning_type", "quantization_bit", "dataset", "dataset_dir", "mask_history", "train_on_prompt")


def _method(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    kind = Item(file, "finetuning_type", content.get("finetuning_type") or "lora")
    bits = Item(file, "quantization_bit", content.get("quantization_bit"))
    if kind.value == "full":
        ledger.carry(kind, "method.name", "full")
        ledger.declare(kind, "export.format", "merged", "a whole model")
    elif kind.value == "lora":
        name = QUANTIZED[bits.value] if bits.value in tuple(QUANTIZED) else "lora"
        ledger.carry(kind, "method.name", name)
    else:
        ledger.drop(kind, "no such method here: the plan chooses one")
    if bits.value in tuple(QUANTIZED) and kind.value == "lora":
        ledger.keep(bits, "by the method")
    elif bits.value is not None:
        ledger.drop(bits, "a base is quantized to 4 bits (qlora) or 8 (lora_8bit), under LoRA alone")


def _datasets(ledger: Ledger, file: Path, content: Mapping[str, Any]) -> None:
    named = Item(file, "dataset", content.get("dataset"))
    if named.value is None:
        raise no_rows(file, "Name data sets of rows with answers under `dataset`")
    names, info = names_of(named), _info(file, content)
    for name in names:
        _dataset(ledger, Item(info, name, _known(info).get(name)), file)
    ledger.name(named, "", "data.sources")
    if content.get("dataset_dir") is not None:
        ledger.keep(Item(file, "dataset_dir", content["dataset_dir"]), "the sources name its files")
    history = Item(file, "mask_history", content.get("mask_history"))
    if history.value is not None:
        ledger.carry(history, "data.train_on", "completions" if history.value is True else "assistant_turns")
    elif ledger.sources:
        why = "each answer of a conversation is trained, since mask_history is off"
        ledger.declare(named, "data.train_on", "assistant_turns", why)
    prompt = Item(file, "train_on_prompt", content.get("train_on_prompt"))
    if prompt.value is True:
        ledger.drop(prompt, "the loss is on answers alone")
    elif prompt.value is not None:
        ledger.keep(prompt, "as here")


def _info(file: Path, content: Mapping[str, Any]) -> Path:
    folder = Item(file, "dataset_dir", content.get("dataset_dir") or "data")
    if not isinstance(folder.value, str):
        raise folder.error("not the name of a folder", "Name the folder with dataset_info.json")
    info = Path(folder.value) / INFO
    if not info.is_file():
        fix = f"Go where the training was started: paths count from the current folder, {Path.cwd()}"
        raise folder.error(f"no {INFO} there", fix)
    return info


def _known(info: Path) -> JsonObject:
    try:
        known = json.loads(read_text(info, most=LARGEST_INFO))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        problem = f"malformed JSON: {getattr(error, 'msg', 'nested too deep')}"
        raise UserError(problem, file=info, line=line, fix="Mend the file") from None
    return is_object(Item(info, "", known))


def _dataset(ledger: Ledger, item: Item, asked_by: Path) -> None:
    if item.value is None:
        known = ", ".join(sorted(_known(item.file))[:20])
        fix = f"It names: {known or 'none'}"
        raise UserError("no such data set", file=item.file, field="dataset", value=item.field, fix=fix)
    said = is_object(item)
    if said.get("ranking") is True:
        ledger.drop(item, PREFERENCES)
        return
    columns = is_object(Item(item.file, f"{item.field}.columns", said.get("columns") or {}))
    tags = is_object(Item(item.file, f"{item.field}.tags", said.get("tags") or {}))
    form, fields = _form(said.get("formatting") or "alpaca", columns, tags)
    if form is None:
        ledger.drop(item, "rows of this form, or with these tags, are not read here")
        return
    place = _place(item, said)
    if place is None:
        ledger.drop(item, "its rows are neither a file nor a set of the Hugging Face hub")
        return
    split = None if said.get("split") in (None, "train") else said["split"]
    ledger.sources.append(source_of(item, place, format=form, fields=fields, split=split))
    ledger.name(item, f"format {form}")
    for name in NOT_READ:
        if columns.get(name):
            ledger.drop(
                Item(item.file, f"{item.field}.columns.{name}", columns[name]), "nothing here reads it"
            )
    for name, value in said.items():
        if name not in _READ_OF_A_SET and value not in (None, "", [], {}):
            ledger.drop(Item(item.file, f"{item.field}.{name}", value), UNKNOWN)


_READ_OF_A_SET = ("file_name", "hf_hub_url", "formatting", "columns", "tags", "split", "ranking")


def _place(item: Item, said: Mapping[str, Any]) -> str | None:
    at = item._replace(field=f"{item.field}.file_name")
    if said.get("file_name"):
        return place_of(at, str(item.file.parent / str(said["file_name"])))
    if said.get("hf_hub_url"):
        return place_of(item._replace(field=f"{item.field}.hf_hub_url"), said["hf_hub_url"])
    return None


def _form(
    formatting: Any, columns: Mapping[str, Any], tags: Mapping[str, Any]
) -> tuple[str | None, dict[str, str]]:
    """Return the format of a data set here, None where there is none, and its columns by our names."""
    if formatting == "alpaca":
        named = columns or ALPACA_NAMES
        read = {ours: str(named[theirs]) for ours, theirs in ALPACA.items() if named.get(theirs)}
        if {"instruction", "output"} <= read.keys():
            ours_already = read == {"instruction": "instruction", "input": "input", "output": "output"}
            return "alpaca", {} if ours_already and not columns else read
        return ("text", {"text": read["instruction"]}) if "instruction" in read else (None, {})
    if formatting in ("sharegpt", "openai"):
        usual = SHAREGPT_TAGS if formatting == "sharegpt" else CHAT_TAGS
        found = {**usual, **tags}
        column = str(columns.get("messages") or ("conversations" if usual is SHAREGPT_TAGS else "messages"))
        beside = {name: str(columns[name]) for name in ("system", "tools") if columns.get(name)}
        renamed = {ours: theirs for ours, theirs in beside.items() if ours != theirs}
        if found == SHAREGPT_TAGS:
            return "sharegpt", ({} if column == "conversations" else {"conversations": column}) | renamed
        own = {name: value for name, value in tags.items() if name != "function_tag"}
        if own.items() <= CHAT_TAGS.items() and (usual is CHAT_TAGS or own.keys() >= OF_A_TURN):
            return "chat", ({} if column == "messages" else {"messages": column}) | renamed
    return None, {}


def _revision(ledger: Ledger, item: Item) -> None:
    if item.value == "main":
        ledger.keep(item, "the newest is pinned and recorded")
    else:
        ledger.carry(item, "base_model.revision", str(item.value))


def _targets(ledger: Ledger, item: Item) -> None:
    names = names_of(item)
    ledger.carry(item, "method.target_modules", "all-linear" if names == ["all"] else names)


def _checkpointing(ledger: Ledger, item: Item) -> None:
    ledger.carry(item, "training.gradient_checkpointing", item.value is not True)


def _report(ledger: Ledger, item: Item) -> None:
    reports(ledger, names_of(item), item)


def _packing(ledger: Ledger, item: Item) -> None:
    if isinstance(item.value, bool):
        ledger.carry(item, "training.packing", item.value, "examples of a row never see each other")
    else:
        raise item.error("not true or false", "Write true or false")


RULES: dict[str, Rule] = {
    **COMMON,
    "model_name_or_path": named_base,
    "model_revision": _revision,
    "stage": as_here(("sft",), "only supervised training is done here"),
    "lora_rank": numeric("method.rank", least=1, whole=True),
    "lora_target": _targets,
    "use_dora": switch("method.use_dora"),
    "use_rslora": switch("method.use_rslora"),
    "pissa_init": lambda ledger, item: start(ledger, item._replace(value="pissa" if item.value else True)),
    "pissa_convert": changed("the export is a plain LoRA over the base as it was"),
    "add_tokens": added_tokens,
    "cutoff_len": numeric("training.max_length", least=1, whole=True),
    "packing": _packing,
    "neat_packing": changed("packed examples never see each other"),
    "per_device_train_batch_size": numeric("training.per_device_train_batch_size", least=1, whole=True),
    "num_train_epochs": numeric("training.num_train_epochs"),
    "lr_scheduler_type": scheduled,
    "optim": optimizer,
    "pure_bf16": as_here((False,), "trained weights are kept in fp32"),
    "disable_gradient_checkpointing": _checkpointing,
    "gradient_checkpointing": to("training.gradient_checkpointing"),
    "val_size": validation_share,
    "report_to": _report,
    "template": CHAT_TEMPLATE,
    "quantization_method": as_here(("bnb", "bitsandbytes"), "bitsandbytes quantizes here"),
    "quantization_type": as_here(("nf4",), "4 bits are nf4 here"),
    "double_quantization": must_be(True, "4 bits are quantized twice here"),
    "do_train": as_here((True,), "a variant is trained"),
    **alike(changed("each training is validated and judged"), "do_eval do_predict"),
    "predict_with_generate": changed("evaluation.kind says how answers are judged"),
    "ddp_timeout": SHARDED,
    **alike(QUIET, "plot_loss include_num_input_tokens_seen"),
    "evaluation_strategy": EVALUATED,
    **alike(
        ADMINISTRATION, "overwrite_output_dir save_only_model logging_dir run_name push_to_hub cache_dir"
    ),
    **alike(
        SPEED,
        "flash_attn use_unsloth enable_liger_kernel use_cache per_device_eval_batch_size use_unsloth_gc "
        "upcast_layernorm",
    ),
    **alike(
        LOADING,
        "overwrite_cache preprocessing_num_workers preprocessing_batch_size streaming buffer_size "
        "tokenized_path media_dir use_fast_tokenizer",
    ),
    **alike(
        lost(PREFERENCES),
        "pref_beta pref_loss pref_ftx kto_chosen_weight kto_rejected_weight ppo_buffer_size ref_model "
        "reward_model",
    ),
    "eval_dataset": lost("a split of the same rows judges"),
    "max_samples": lost("only rows themselves are limited: shorten the file"),
    **alike(
        NOTHING_DOES_IT,
        "adapter_name_or_path loraplus_lr_embedding additional_target use_badam use_galore use_apollo "
        "use_adam_mini use_muon rope_scaling shift_attn freeze_trainable_layers freeze_trainable_modules "
        "freeze_extra_modules mix_strategy interleave_probs create_new_adapter default_system tool_format "
        "enable_thinking moe_aux_loss_coef resize_vocab new_special_tokens add_special_tokens pissa_iter",
    ),
}
