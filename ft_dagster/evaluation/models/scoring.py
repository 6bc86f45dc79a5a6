"""Scores many continuations of one context, with the context computed once, and so what contexts begin with.

A multiple-choice question asks for each of its choices after the same words, and lm-eval computes the words
again for each. Here a row holds the context once and then every continuation; an attention mask keeps the
continuations from seeing one another, and each counts its positions from the end of the context. What comes
out is the same to rounding (Medusa's tree attention, arXiv 2401.10774, is the same device).

Questions that begin alike, as after the same examples or the same system message, stand in a group: their
beginning is computed once, and its keys and values are given to the rest of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

# Positions whose logits are made together (256 of 49,152 tokens are 25 MB in bfloat16), and of how many the
# log-probabilities are then taken at a time, in float32: on a CPU of so few that they stay in its caches.
AT_ONCE = {"cpu": (256, 16), "cuda": (128, 128)}
LONGEST_ROW = 2048  # tokens of a shared row: the mask grows with the square
BEGINNINGS = (64, 256, 1024)  # tokens by which rows are told apart that begin alike, the least first
WORTH = 1024  # tokens that a group has to save: a beginning is a pass of its own


class ContinuationScore(NamedTuple):
    """Holds the sum of the log-probabilities of a continuation (nats), and whether greedy decoding would say
    it.
    """

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class ScoringRow:
    """Holds a context and its continuations, as token ids; `numbers` says which request each one answers."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.context) + self.scored - len(self.continuations)

    @property
    def scored(self) -> int:
        """Count the tokens whose log-probability is wanted."""
        return sum(map(len, self.continuations))

    def with_(self, other: ScoringRow) -> ScoringRow:
        """Return one row for both, of the same context."""
        return ScoringRow(
            self.context, self.continuations + other.continuations, self.numbers + other.numbers
        )

    def alone(self) -> list[ScoringRow]:
        """Return the same requests as rows of one continuation."""
        pairs = zip(self.continuations, self.numbers, strict=True)
        return [ScoringRow(self.context, (continuation,), (number,)) for continuation, number in pairs]


@dataclass(frozen=True)
class Group:
    """Holds rows, and the tokens with which the context of each begins; the rows' contexts are without
    them.
    """

    beginning: tuple[int, ...]
    rows: list[ScoringRow]

    @property
    def saved(self) -> int:
        """Count the tokens that are not computed again."""
        return len(self.beginning) * (len(self.rows) - 1)


def arrange_rows(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]], *, max_length: int, shared: bool
) -> list[ScoringRow]:
    """Make rows of (context, continuation) pairs, the longest first; a continuation has 1 to `max_length`
    tokens.

    A pair longer than `max_length` + 1 tokens loses its beginning, as in lm-eval, and shares with none; nor
    does one whose context is shorter than its continuation, since it would save nothing.
    """
    rows: list[ScoringRow] = []
    open_rows: dict[tuple[int, ...], ScoringRow] = {}
    for number, (said, continuation) in enumerate(requests):
        kept = max_length + 1 - len(continuation)
        added = ScoringRow(tuple(said[-kept:]), (tuple(continuation),), (number,))
        if not (shared and len(continuation) <= len(said) <= kept):
            rows.append(added)
            continue
        row = open_rows.get(added.context)
        if row is not None and row.length + len(continuation) > LONGEST_ROW:
            rows.append(row)
            row = None
        open_rows[added.context] = added if row is None else row.with_(added)
    return sorted([*rows, *open_rows.values()], key=lambda row: (-row.length, row.context))


def group_rows(rows: Sequence[ScoringRow]) -> list[Group]:
    """Divide rows into groups that begin alike, where that saves more than it takes, and one of all others,
    whose beginning is empty. The rows of a group stand in the order given.
    """
    groups: list[Group] = []
    for alike in _begin_alike(rows, BEGINNINGS[0]):
        divided = ([_group(part) for part in _begin_alike(alike, length)] for length in BEGINNINGS)
        groups += max(divided, key=lambda parts: sum(each.saved for each in parts if each.saved >= WORTH))
    groups = [group for group in groups if group.saved >= WORTH]
    grouped = {number for group in groups for row in group.rows for number in row.numbers}
    rest = [row for row in rows if grouped.isdisjoint(row.numbers)]
    return [*groups, Group((), rest)] if rest else groups


def _begin_alike(rows: Sequence[ScoringRow], length: int) -> Iterable[list[ScoringRow]]:
    found: dict[tuple[int, ...], list[ScoringRow]] = {}
    for row in rows:
        found.setdefault(row.context[:length], []).append(row)
    return found.values()


def _group(rows: list[ScoringRow]) -> Group:
    """Make a group of rows. Of each context the last token is left, whose state tells what comes next."""
    contexts = [row.context[:-1] for row in rows]
    first, last = min(contexts), max(contexts)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    rest = [ScoringRow(row.context[same:], row.continuations, row.numbers) for row in rows]
    return Group(first[:same], rest)


def batches(
    rows: Sequence[ScoringRow], *, tokens: float, positions: float, before: int = 0, held: float = math.inf
) -> Iterator[list[ScoringRow]]:
    """Yield consecutive rows whose padded size is at most `tokens`, and at most `held` with the `before`
    tokens that each begins with; and whose logits fill at most `positions`.
    """
    batch: list[ScoringRow] = []
    for row in rows:
        wider = [*batch, row]
        longest = max(each.length for each in wider)
        kept = longest - min(len(each.context) for each in wider) + 1
        too_large = len(wider) * longest > tokens or len(wider) * (before + longest) > held
        if batch and (too_large or len(wider) * kept > positions):
            yield batch
            wider = [row]
        batch = wider
    if batch:
        yield batch


def score(
    rows: Sequence[ScoringRow],
    forward: Callable[..., Any],
    *,
    device: Any,
    dtype: Any,
    head: Callable[[Any], Any] | None = None,
    before: int = 0,
) -> dict[int, ContinuationScore]:
    """Return the scores of every request in `rows`, by request number.

    `forward(input_ids, keep, **inputs)` returns the logits of the last `keep` positions or more, shape (rows,
    positions, vocabulary); or, with `head`, which makes logits of them, the states before it, shape (rows,
    positions, hidden). `before`: the tokens that it remembers of each row's beginning. Position ids and mask
    are given only if a row has several continuations, or a beginning.
    """
    longest = max(row.length for row in rows)
    keep = longest - min(len(row.context) for row in rows) + 1
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens = [*row.context, *(token for c in row.continuations for token in c[:-1])]
        ids[number, : len(tokens)] = torch.tensor(tokens)
    shared = any(len(row.continuations) > 1 for row in rows)
    inputs = _apart(rows, longest, device, dtype, before) if shared or before else {}
    with torch.inference_mode():
        states = forward(ids.to(device), keep, **inputs)
        width = states.shape[1]
        where = [n * width + at - (longest - width) for n, row in enumerate(rows) for at in _scored_at(row)]
        wanted = [token for row in rows for c in row.continuations for token in c]
        likely, greedy = _likelihoods(
            states.flatten(0, 1),
            torch.tensor(where, device=states.device),  # of several devices that of the last layer
            torch.tensor(wanted, device=states.device),
            head,
        )
    return dict(_by_request(rows, likely, greedy))


def _scored_at(row: ScoringRow) -> Iterator[int]:
    """Yield the positions of the row at which the tokens of its continuations are told."""
    start = len(row.context)
    for continuation in row.continuations:
        yield len(row.context) - 1
        yield from range(start, start + len(continuation) - 1)
        start += len(continuation) - 1


def _likelihoods(
    states: Any, where: Any, wanted: Any, head: Callable[[Any], Any] | None
) -> tuple[list[float], list[bool]]:
    """Return for each wanted token, told by the state at its place: log-probability, whether it is the
    likeliest.
    """
    likely: list[float] = []
    greedy: list[bool] = []
    many, few = AT_ONCE["cpu" if states.device.type == "cpu" else "cuda"]
    for some, those in zip(where.split(many), wanted.split(many), strict=True):
        made = states[some] if head is None else head(states[some])
        for part, tokens in zip(made.split(few), those.to(made.device).split(few), strict=True):
            logits = part.float()
            told = torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0]
            likely += told.double().tolist()
            greedy += (likeliest(logits) == tokens).tolist()
    return likely, greedy


def likeliest(logits: Any) -> Any:
    """Return the first place of the largest number of each row [rows, vocabulary]. On a CPU torch looks at
    one number after another, numpy at many at once.
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)
    return torch.from_numpy(logits.float().numpy().argmax(axis=-1))


def _by_request(
    rows: Sequence[ScoringRow], likely: Sequence[float], greedy: Sequence[bool]
) -> Iterator[tuple[int, ContinuationScore]]:
    at = 0
    for row in rows:
        for continuation, number in zip(row.continuations, row.numbers, strict=True):
            end = at + len(continuation)
            yield number, ContinuationScore(sum(likely[at:end]), all(greedy[at:end]))
            at = end


def _apart(
    rows: Sequence[ScoringRow], longest: int, device: Any, dtype: Any, before: int = 0
) -> dict[str, object]:
    """Return position ids (rows, longest) and an additive mask (rows, 1, longest, before + longest) for
    shared contexts.
    """
    segment = torch.full((len(rows), longest), -1)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        start = len(row.context)
        segment[number, :start] = 0
        positions[number, :start] = torch.arange(start)
        for part, continuation in enumerate(row.continuations, start=1):
            end = start + len(continuation) - 1
            segment[number, start:end] = part
            positions[number, start:end] = len(row.context) + torch.arange(end - start)
            start = end
    order = torch.arange(longest)
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    seen &= (order[None, :] <= order[:, None])[None]
    seen = torch.cat([seen.new_ones(len(rows), longest, before), seen], dim=2)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return {"position_ids": (before + positions).to(device), "attention_mask": mask[:, None].to(device)}
