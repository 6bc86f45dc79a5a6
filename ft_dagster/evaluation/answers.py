"""Writes greedy answers of bases and of their tuned models to the same prompts, in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.rendering.chat_form import AS_USUAL, ChatOptions, note_chat
from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.data.rendering.chat_template import lead_of, render_asked, without_lead, without_specials
from ft_dagster.data.rendering.render import prompt_tokens
from ft_dagster.data.rows.rows import Message
from ft_dagster.evaluation.models.arithmetic import GENERATION_TOKENS, judging_dtype
from ft_dagster.evaluation.models.load import (
    inner_model,
    kind_of,
    let_go,
    load_base,
    load_tuned,
    trained_tokenizer,
)
from ft_dagster.models.quantize import quantization_of

if TYPE_CHECKING:
    from ft_dagster.evaluation.models.greedy import PromptRow


class PromptRequest(NamedTuple):
    """Holds prompts to a base and to what a training made of it (`tuned`: a payload folder of any kind). With
    `chat` a prompt is a user's turn after `system`, in the template that training used, by `options`; else it
    is continued as plain text.
    """

    base: Path
    tuned: Path
    prompts: list[str]
    chat: bool = True
    system: str | None = None
    options: ChatOptions = AS_USUAL


@dataclass(frozen=True)
class AnswerPair:
    """Holds a prompt with the base's answer and the fine-tuned model's."""

    prompt: str
    base: str
    tuned: str


class _Rendered(NamedTuple):
    """Holds prompts as tokens. `lead`: what the template writes before an answer, and nobody shows."""

    tokenizer: Any
    rows: list[PromptRow]
    lead: str


def answer(asked: Sequence[PromptRequest], *, max_new_tokens: int = 64) -> Iterator[list[AnswerPair]]:
    """Yield the answers to each of `asked`, in turn.

    A base answers all that it is asked together, as it is stored, also where it was quantized for training.
    Raises UserError.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rendered = [_render(each, max_new_tokens) for each in asked]
    plain: dict[int, list[str]] = {}
    for place, each in enumerate(asked):
        model = load_tuned(each.base, each.tuned, dtype=judging_dtype(device), device=device)
        (tuned,) = _write(model, [rendered[place]], device)
        if place not in plain:
            same = [n for n, other in enumerate(asked) if other.base == each.base]
            answers = _base_answers(model, each, [rendered[n] for n in same], device)
            plain.update(zip(same, answers, strict=True))
        let_go(model)
        yield [AnswerPair(*row) for row in zip(each.prompts, plain[place], tuned, strict=True)]


def _base_answers(
    model: Any, of: PromptRequest, rendered: Sequence[_Rendered], device: str
) -> list[list[str]]:
    """Return the answers of the base below `model`, the tuned one; where that is not the base as it is
    stored, of the stored base in its place.
    """
    if kind_of(of.tuned) == "adapter" and quantization_of(of.tuned) is None:
        with model.disable_adapter():
            return _write(inner_model(model), rendered, device)
    let_go(model)
    base = load_base(of.base, dtype=judging_dtype(device), device=device)
    answers = _write(base, rendered, device)
    let_go(base)
    return answers


def _render(asked: PromptRequest, max_new_tokens: int) -> _Rendered:
    from ft_dagster.evaluation.models.greedy import rows_of

    tokenizer = note_chat(trained_tokenizer(asked.base, asked.tuned), asked.options)
    texts = asked.prompts
    if asked.chat:
        before = [Message("system", asked.system)] if asked.system else []
        turns = [[*before, Message("user", prompt)] for prompt in texts]
        texts = [render_asked(each, tokenizer) for each in turns]
    ids = [prompt_tokens(text, tokenizer, special=not asked.chat) for text in texts]
    rows = rows_of(ids, new_tokens=max_new_tokens, ends=stop_token_ids(tokenizer))
    return _Rendered(tokenizer, rows, without_specials(lead_of(tokenizer), tokenizer) if asked.chat else "")


def _write(model: Any, rendered: Sequence[_Rendered], device: str) -> list[list[str]]:
    """Return the answers to each one's prompts, all of them written together."""
    from ft_dagster.evaluation.models.greedy import write_all

    rows = [row for each in rendered for row in each.rows]
    written = iter(write_all(model, rows, GENERATION_TOKENS[device]))
    return [[_text(each, next(written).tokens) for _ in each.rows] for each in rendered]


def _text(rendered: _Rendered, tokens: list[int]) -> str:
    return without_lead(
        rendered.lead, str(rendered.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    )
