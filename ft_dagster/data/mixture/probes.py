"""Renders prompts of the variant's own rows as training rendered them: an export is compared on these."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.data.rendering.chat_form import AS_USUAL, ChatOptions, note_chat
from ft_dagster.data.rendering.render import load_tokenizer, render_turn
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import in_exchange

OPENING = 200  # characters of a text row, which has no prompt of its own


def probe_prompts(
    dataset_folder: Path,
    base_folder: Path,
    count: int,
    *,
    exchange: bool = False,
    options: ChatOptions = AS_USUAL,
) -> list[str]:
    """Return at most `count` different prompts, of the validation rows first, then of the test and train
    rows.

    A text row gives its first 200 characters. `exchange`: see `rows.in_exchange`; `options`: how chats are
    rendered. Raises UserError where the template refuses a row.
    """
    tokenizer = note_chat(load_tokenizer(base_folder), options)
    found: dict[str, None] = {}
    for split in ("validation", "test", "train"):
        for row in read_split(dataset_folder / f"{split}.parquet"):
            if len(found) == count:
                return list(found)
            asked = in_exchange(row, exchange)
            prompt = row.text[:OPENING] if row.kind == "text" else render_turn(asked, tokenizer).prompt
            if prompt:
                found[prompt] = None
    return list(found)
