"""Adds what a server needs beside the weights: the tokenizer with its chat template, and the tokens to stop
at.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.evaluation.models.load import tokenizer_folder, trained_tokenizer
from ft_dagster.model_files.weights import GENERATION_CONFIG, tokenizer_files
from ft_dagster.program import write_json


def save_serving_files(base: Path, weights: Path, target: Path) -> list[int]:
    """Write tokenizer, chat template and generation_config.json into `target`; returns the stop token ids.

    The tokenizer's files are copied, not saved again: a server sees the very bytes that training used.
    """
    source = tokenizer_folder(base, weights)
    for name in tokenizer_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    config = _generation_config(base, trained_tokenizer(base, weights))
    write_json(target / GENERATION_CONFIG, config)
    stop: list[int] = config.get("eos_token_id", [])
    return stop


def _generation_config(base: Path, tokenizer: Any) -> dict[str, Any]:
    """Return the base's generation settings with the stop tokens and the padding that training used."""
    file = base / GENERATION_CONFIG
    config: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    config.pop("_from_model_config", None)
    stop = stop_token_ids(tokenizer)
    config |= {"eos_token_id": stop} if stop else {}
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            config[name] = getattr(tokenizer, name)
    return config
