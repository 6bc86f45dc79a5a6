"""Greedy answers of a base and of its tuned model to the same prompts, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    prompt: str
    base: str
    tuned: str


def answer(
    base: Path,
    adapter: Path,
    prompts: list[str],
    *,
    chat: bool = True,
    system: str | None = None,
    max_new_tokens: int = 64,
) -> list[Answer]:
    """Load `base` once, put `adapter` on it, and let both answer each prompt.

    With `chat` a prompt is a user's turn after `system`, in the template of the adapter's own tokenizer;
    else it is continued as plain text. It must be what the model was trained on.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(device)
    model = PeftModel.from_pretrained(loaded, adapter).eval()
    texts = [_render(tokenizer, prompt, system) for prompt in prompts] if chat else prompts
    tuned = _generate(model, tokenizer, texts, chat, max_new_tokens)
    with model.disable_adapter():
        plain = _generate(model, tokenizer, texts, chat, max_new_tokens)
    return [Answer(*row) for row in zip(prompts, plain, tuned, strict=True)]


def _render(tokenizer: Any, prompt: str, system: str | None) -> str:
    before = [{"role": "system", "content": system}] if system else []
    turns = [*before, {"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _generate(model: Any, tokenizer: Any, texts: list[str], chat: bool, max_new_tokens: int) -> list[str]:
    """All texts in one batch, padded on the left, so that each answer starts where its prompt ends."""
    import torch

    inputs = tokenizer(
        texts,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=not chat,
    ).to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    new = output[:, inputs["input_ids"].shape[1] :]
    return [str(text).strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
