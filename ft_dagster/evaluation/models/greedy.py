"""Writes greedy answers to many prompts at once, each as the model gives it alone.

What all prompts of a batch begin with is computed once, and so is a learned prompt; prompts are read a few
of like length at a time, and answered all at once, since a step takes little longer for many rows; keys and
values stand in memory that is there from the start, where transformers' `generate` copies all of them at
each token; and a row whose answer has ended leaves the batch, where `generate` computes it until the
longest has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, StoppingCriteriaList

from ft_dagster.evaluation.models.arithmetic import BATCH_TOKENS
from ft_dagster.evaluation.models.key_values import (
    RoomyLayer,
    are_windowed,
    begin,
    cache_layers,
    cache_of_rows,
    forward_of,
    taken_by,
)
from ft_dagster.evaluation.models.load import generate, inner_model, virtual_tokens
from ft_dagster.evaluation.models.scoring import likeliest

LEAVING = 8  # ended rows leave once they are an eighth of the batch: each leaving copies the cache
Prompts = Sequence[Sequence[int]]
Over = Callable[[list[int]], bool]


class PromptRow(NamedTuple):
    """Holds a prompt in token ids, and where its answer ends: after `new_tokens`, with a token of `ends`, or
    where `stopped` says so of its tokens, for one of the words `stops`.
    """

    prompt: Sequence[int]
    new_tokens: int
    ends: Collection[int]
    stopped: Over | None = None
    stops: tuple[str, ...] = ()

    def is_over(self, answer: list[int]) -> bool:
        if len(answer) >= self.new_tokens or answer[-1] in self.ends:
            return True
        return self.stopped is not None and self.stopped(answer)


def rows_of(
    prompts: Prompts, *, new_tokens: int, ends: Collection[int], stopped: Over | None = None
) -> list[PromptRow]:
    """Make rows of prompts whose answers all end alike."""
    return [PromptRow(prompt, new_tokens, ends, stopped) for prompt in prompts]


@dataclass
class Greedy:
    """Holds the token ids of an answer, the end token last where one came. Where logits were asked for, those
    of the prompt's last positions, [positions, vocabulary], and those that each token was chosen from, each
    [vocabulary]; float32 on the CPU.
    """

    tokens: list[int] = field(default_factory=list)
    read: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    chosen_from: list[Tensor] = field(default_factory=list)


def batches_of(rows: Sequence[PromptRow], tokens: int) -> Iterator[list[int]]:
    """Yield the places of rows that are written together, the longest prompts first: no more than `tokens`,
    answers and padding among them, but for a single row.
    """
    waiting = sorted(range(len(rows)), key=lambda place: -len(rows[place].prompt))
    while waiting:
        longest, answer, count = len(rows[waiting[0]].prompt), 0, 0
        for place in waiting:
            answer = max(answer, rows[place].new_tokens)
            if count and (longest + answer) * (count + 1) > tokens:
                break
            count += 1
        yield waiting[:count]
        waiting = waiting[count:]


def _unheard(share: float) -> None:
    """Take a share that nobody asked for."""


def write(
    model: Any, rows: Sequence[PromptRow], *, logits: int = 0, on_progress: Callable[[float], None] = _unheard
) -> list[Greedy]:
    """Write the answers to all rows, in one batch; `on_progress` hears the share of it that is done, below 1.

    `logits`: of how many of the prompts' last positions they are returned, and those of each choice. `model`
    is in evaluation mode; its generation settings may be others afterwards.
    """
    with torch.no_grad():
        layers = cache_layers(model)
        if layers is None:
            return _generate(model, rows, logits)
        return _write(model, layers, rows, logits, on_progress)


def write_all(
    model: Any,
    rows: Sequence[PromptRow],
    tokens: int,
    on_progress: Callable[[float], None] = _unheard,
) -> list[Greedy]:
    """Write the answers to all rows, in batches of `tokens`; `on_progress` hears the share that is done."""
    found: dict[int, Greedy] = {}
    for some in batches_of(rows, tokens):
        before, own = len(found), len(some)

        def advance(share: float, before: int = before, own: int = own) -> None:
            on_progress((before + share * own) / len(rows))

        written = write(model, [rows[place] for place in some], on_progress=advance)
        found.update(zip(some, written, strict=True))
        on_progress(len(found) / len(rows))
    return [found[place] for place in range(len(rows))]


def last_logits(model: Any, ids: Sequence[int], count: int) -> Tensor:
    """Return the logits of the last `count` positions of one text, [positions, vocabulary], float32 on the
    CPU.
    """
    kept = {"logits_to_keep": count} if "logits_to_keep" in taken_by(model) else {}
    with torch.no_grad():
        given = torch.tensor([list(ids)], device=model.device)
        logits: Tensor = model(input_ids=given, use_cache=False, **kept).logits
    return logits[0, -min(count, len(ids)) :].float().cpu()


def _write(
    model: Any,
    layers: list[Any],
    asked: Sequence[PromptRow],
    logits: int,
    on_progress: Callable[[float], None],
) -> list[Greedy]:
    forward = forward_of(model)
    read, cache, mask = _read_prompts(model, layers, asked, logits)
    answers = [
        Greedy(read=_read(each, len(row.prompt), logits)) for each, row in zip(read, asked, strict=True)
    ]
    scores, position = torch.stack([each[-1] for each in read]), mask.sum(1, keepdim=True) - 1
    rows, ended = list(range(len(asked))), set()
    while True:
        chosen = likeliest(scores)
        for row, token, choice in zip(rows, chosen.tolist(), scores, strict=True):
            if row not in ended:
                answers[row].tokens.append(token)
                if logits:
                    answers[row].chosen_from.append(choice.float().cpu())
                if asked[row].is_over(answers[row].tokens):
                    ended.add(row)
        going = [n for n, row in enumerate(rows) if row not in ended]
        if not going:
            return answers
        done = sum(len(answers[rows[n]].tokens) / asked[rows[n]].new_tokens for n in going)
        on_progress((len(asked) - len(going) + done) / len(asked))
        if (len(rows) - len(going)) * LEAVING >= len(rows):
            rows, kept = [rows[n] for n in going], torch.tensor(going, device=model.device)
            mask, position, chosen = mask[kept], position[kept], chosen[kept]
            for layer in cache.layers:
                layer.batch_select_indices(kept.to(layer.keys.device))
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = position + 1
        given = {"input_ids": chosen[:, None], "attention_mask": mask, "position_ids": position}
        scores = forward(cache, 1, **given)[:, -1]


def _read_prompts(
    model: Any, layers: list[Any], asked: Sequence[PromptRow], logits: int
) -> tuple[list[Tensor], Cache, Tensor]:
    """Read all prompts; return the scores of each row's last positions [positions, vocabulary], what is
    remembered, and its mask [rows, positions]. A pass for some prompts of like length; one for all where keys
    fall out of a window.
    """
    forward, windowed, prompts = forward_of(model), are_windowed(layers), [row.prompt for row in asked]
    shared = 0 if logits or windowed else _shared(prompts)
    begun = begin(model, forward, prompts[0][:shared])
    tails = [prompt[shared:] for prompt in prompts]
    before, longest = begun.get_seq_length(), max(map(len, tails))
    room = before + longest + max(row.new_tokens for row in asked)
    mask = _padded(tails, before, model.device)[1]

    def read(some: Sequence[int], room: int) -> tuple[Tensor, Cache]:
        ids, seen = _padded([tails[n] for n in some], before, model.device)
        cache = cache_of_rows(begun, layers, rows=len(some), room=room)
        places = (seen.cumsum(1) - 1)[:, before:].clamp(min=0)
        given = {"input_ids": ids, "attention_mask": seen, "position_ids": places}
        return forward(cache, max(1, logits), **given), cache

    passes = list(_passes(tails, BATCH_TOKENS["cpu" if model.device.type == "cpu" else "cuda"]))
    if windowed or len(passes) == 1:
        scores, cache = read(range(len(asked)), room)
        return list(scores), cache, mask
    found, whole = dict[int, Tensor](), Cache(layers=[RoomyLayer(room) for _ in layers])
    for some in passes:
        scores, cache = read(some, before + len(tails[some[0]]))
        found.update(zip(some, scores, strict=True))
        for layer, part in zip(whole.layers, cache.layers, strict=True):
            layer.place(some, len(asked), part, before, before + longest)
    return [found[n] for n in range(len(asked))], whole, mask


def _passes(prompts: Prompts, tokens: int) -> Iterator[list[int]]:
    """Yield the places of prompts that are read together, the longest first."""
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    while order:
        count = max(1, tokens // len(prompts[order[0]]))
        yield order[:count]
        order = order[count:]


def _read(scores: Tensor, prompt: int, count: int) -> Tensor:
    """Return a row's scores of the last `count` positions of its prompt, padding left out."""
    return scores[max(len(scores) - prompt, 0) :].float().cpu() if count else torch.empty(0, 0)


def _shared(prompts: Prompts) -> int:
    """Count the tokens that all prompts begin with, at least one of each left out."""
    shortest = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:shortest] for prompt in prompts), strict=True)
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)


def _padded(prompts: Prompts, before: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return ids [rows, longest], padded on the left, and their mask [rows, before + longest]."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.ones(len(prompts), before + longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, before : before + longest - len(prompt)] = 0
    return ids.to(device), mask.to(device)


def _generate(model: Any, rows: Sequence[PromptRow], logits: int) -> list[Greedy]:
    """Write the answers by the model's own `generate`."""
    ids, mask = _padded([row.prompt for row in rows], 0, model.device)
    before = virtual_tokens(model) + ids.shape[1]
    settings = GenerationConfig(
        max_new_tokens=max(row.new_tokens for row in rows),
        do_sample=False,
        pad_token_id=0,
        use_cache=True,
        output_logits=logits > 0,
        return_dict_in_generate=True,
    )
    model.generation_config = inner_model(model).generation_config = settings  # its own are not greedy

    def are_over(written: Tensor, *_: Any, **__: Any) -> Tensor:
        answers = written[:, before:].tolist()
        over = [row.is_over(answer) for row, answer in zip(rows, answers, strict=True)]
        return torch.tensor(over, device=written.device)

    made = generate(model, ids, mask, stopping_criteria=StoppingCriteriaList([are_over]))
    answers = []
    for place, (row, tokens) in enumerate(zip(rows, made.sequences[:, before:].tolist(), strict=True)):
        last = next((n for n in range(1, len(tokens) + 1) if row.is_over(tokens[:n])), None)
        answer = Greedy(tokens[:last])
        if logits:
            answer.read = last_logits(model, row.prompt, logits)
            answer.chosen_from = [each[place].float().cpu() for each in made.logits[:last]]
        answers.append(answer)
    return answers
