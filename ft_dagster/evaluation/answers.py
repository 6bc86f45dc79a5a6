"""Greedy answers of bases and of their tuned models to the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.render import load_tokenizer
from ft_dagster.evaluation.arithmetic import GENERATION_TOKENS, judging_dtype
from ft_dagster.evaluation.weights import let_go, load_base, load_tuned, tokenizer_folder

if TYPE_CHECKING:
    from ft_dagster.evaluation.greedy import PromptRow


class Asked(NamedTuple):
    """Prompts to a base and to what a training made of it (`tuned`: a payload folder of any kind).

    With `chat` a prompt is a user's turn after `system`, in the template that training used; else it is
    continued as plain text. It must be what the model was trained on.
    """

    base: Path
    tuned: Path
    prompts: list[str]
    chat: bool = True
    system: str | None = None


@dataclass(frozen=True)
class AnswerPair:
    prompt: str
    base: str
    tuned: str


class _Rendered(NamedTuple):
    tokenizer: Any
    rows: list[PromptRow]


def answer(asked: Sequence[Asked], *, max_new_tokens: int = 64) -> Iterator[list[AnswerPair]]:
    """The answers to each of `asked`, in turn.

    A base is loaded once and answers all that it is asked together, as it is stored, also where it was
    quantized for training. Raises UserError.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = judging_dtype(device)
    rendered = [_render(each, max_new_tokens) for each in asked]
    plain: dict[int, list[str]] = {}
    for place, each in enumerate(asked):
        if place not in plain:
            same = [n for n, other in enumerate(asked) if other.base == each.base]
            model = load_base(each.base, dtype=dtype, device=device)
            plain.update(zip(same, _write(model, [rendered[n] for n in same], device), strict=True))
            let_go(model)
        model = load_tuned(each.base, each.tuned, dtype=dtype, device=device)
        (tuned,) = _write(model, [rendered[place]], device)
        let_go(model)
        yield [AnswerPair(*row) for row in zip(each.prompts, plain[place], tuned, strict=True)]


def _render(asked: Asked, max_new_tokens: int) -> _Rendered:
    from ft_dagster.evaluation.greedy import rows_of

    tokenizer = load_tokenizer(tokenizer_folder(asked.base, asked.tuned))
    before = [{"role": "system", "content": asked.system}] if asked.system else []
    texts = asked.prompts
    if asked.chat:
        turns = [[*before, {"role": "user", "content": prompt}] for prompt in texts]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = [tokenizer(text, add_special_tokens=not asked.chat)["input_ids"] for text in texts]
    ends = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    return _Rendered(tokenizer, rows_of(ids, new_tokens=max_new_tokens, ends=ends))


def _write(model: Any, rendered: Sequence[_Rendered], device: str) -> list[list[str]]:
    """The answers to each one's prompts, all of them written together, as many at a time as memory holds."""
    from ft_dagster.evaluation.greedy import batches_of, write

    rows = [row for each in rendered for row in each.rows]
    written: dict[int, list[int]] = {}
    for places in batches_of(rows, GENERATION_TOKENS[device]):
        answers = write(model, [rows[place] for place in places])
        written.update((place, each.tokens) for place, each in zip(places, answers, strict=True))
    tokens = iter([written[place] for place in range(len(rows))])
    return [[_text(each.tokenizer, next(tokens)) for _ in each.rows] for each in rendered]


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
