"""What a server needs beside the weights: the tokenizer with its chat template, and the tokens to stop at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.render import load_tokenizer
from ft_dagster.data.weights import tokenizer_files
from ft_dagster.evaluation.weights import tokenizer_folder
from ft_dagster.program import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION_CONFIG = "generation_config.json"
_MARK = "ANSWER"


def save_serving_files(base: Path, weights: Path, target: Path) -> list[int]:
    """Write tokenizer, chat template and generation_config.json into `target`; returns the stop token ids.

    The tokenizer's files are copied, not saved again: a server sees the very bytes that training used.
    """
    source = tokenizer_folder(base, weights)
    for name in tokenizer_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    config = _generation_config(base, load_tokenizer(source))
    write_json(target / GENERATION_CONFIG, config)
    stop: list[int] = config.get("eos_token_id", [])
    return stop


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, declared: int | list[int] | None = None) -> list[int]:
    """Tokens that end an answer, sorted: the base's own, the tokenizer's eos, the template's end of turn."""
    ids = set(declared if isinstance(declared, list) else [] if declared is None else [declared])
    ids |= {tokenizer.eos_token_id, _end_of_turn(tokenizer)} - {None}
    return sorted(ids)


def _generation_config(base: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The base's generation settings with the stop tokens and the padding that training used."""
    file = base / GENERATION_CONFIG
    config: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    config.pop("_from_model_config", None)
    stop = stop_token_ids(tokenizer, config.get("eos_token_id"))
    config |= {"eos_token_id": stop} if stop else {}
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            config[name] = getattr(tokenizer, name)
    return config


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after an assistant's answer, if any."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_MARK)[2]
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((id_ for id_ in ids if id_ in special), None)
