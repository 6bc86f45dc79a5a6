"""Greedy answers of a base and of its tuned model to the same prompts, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.data.quantize import quantization_of
from ft_dagster.data.render import load_tokenizer
from ft_dagster.evaluation.arithmetic import judging_dtype
from ft_dagster.evaluation.weights import (
    inner_model,
    kind_of,
    let_go,
    load_base,
    load_tuned,
    tokenizer_folder,
)


@dataclass(frozen=True)
class AnswerPair:
    prompt: str
    base: str
    tuned: str


def answer(
    base: Path,
    tuned: Path,
    prompts: list[str],
    *,
    chat: bool = True,
    system: str | None = None,
    max_new_tokens: int = 64,
) -> list[AnswerPair]:
    """Let a base and what a training made of it (a payload folder of any kind) answer each prompt.

    With `chat` a prompt is a user's turn after `system`, in the template that training used; else it is
    continued as plain text. It must be what the model was trained on. The base answers as it is stored, also
    where it was quantized for training. Raises UserError.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(tokenizer_folder(base, tuned))
    texts = [_render(tokenizer, prompt, system) for prompt in prompts] if chat else prompts

    def ask(model: Any) -> list[str]:
        return _generate(model, tokenizer, texts, chat, max_new_tokens)

    dtype = judging_dtype(device)
    model = load_tuned(base, tuned, dtype=dtype, device=device)
    said = ask(model)
    if kind_of(tuned) == "adapter" and quantization_of(tuned) is None:
        with model.disable_adapter():
            plain = ask(inner_model(model))
    else:
        let_go(model)
        plain = ask(load_base(base, dtype=dtype, device=device))
    return [AnswerPair(*row) for row in zip(prompts, plain, said, strict=True)]


def _render(tokenizer: Any, prompt: str, system: str | None) -> str:
    before = [{"role": "system", "content": system}] if system else []
    turns = [*before, {"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _generate(model: Any, tokenizer: Any, texts: list[str], chat: bool, max_new_tokens: int) -> list[str]:
    from ft_dagster.evaluation.greedy import rows_of, write

    ids = [tokenizer(text, add_special_tokens=not chat)["input_ids"] for text in texts]
    ends = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    rows = rows_of(ids, new_tokens=max_new_tokens, ends=ends)
    written = [each.tokens for each in write(model, rows)]
    return [str(text).strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
