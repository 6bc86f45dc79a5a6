"""Finds examples that begin alike, so that a packed row computes what they have in common once.

Pure functions of tokens and lengths. A group is a beginning and what goes on from it, side by side in one
row. The last token in common is left to each that goes on: it predicts what they do not share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 16  # tokens of a beginning: fewer save less than parts of their own take


class Part(NamedTuple):
    """Is a part of a row: tokens `start` to `end` of an example. `after`: the part of the row that it goes on
    from; -1: it begins by itself.
    """

    ordinal: int
    start: int
    end: int
    after: int = -1


@dataclass(frozen=True)
class Beginnings:
    """Says which examples begin alike: `kinds[i]` numbers the beginning of example i, -1 where it has none in
    common; beginning k is the first `lengths[k]` tokens.
    """

    kinds: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def by_example(self) -> NDArray[np.int64]:
        """Return the tokens of each example's beginning, 0 where it has none."""
        return np.where(self.kinds < 0, 0, np.append(self.lengths, 0)[self.kinds])


def parts_of(
    ordinals: Sequence[int], lengths: NDArray[np.int64], beginnings: Beginnings | None = None
) -> list[Part]:
    """Return the parts of a row that holds these examples: those of one beginning that stand side by side
    are one group.
    """
    if beginnings is None:
        return [Part(i, 0, int(lengths[i])) for i in ordinals]
    found: list[Part] = []
    for kind, alike in groupby(ordinals, lambda i: int(beginnings.kinds[i])):
        members = list(alike)
        if kind < 0 or len(members) == 1:
            found += parts_of(members, lengths)
            continue
        first, shared = len(found), int(beginnings.lengths[kind])
        found.append(Part(members[0], 0, shared))
        found += [Part(i, shared, int(lengths[i]), first) for i in members]
    return found


def computed(parts: Sequence[Part]) -> int:
    """Count the tokens that a row of these parts computes."""
    return sum(part.end - part.start for part in parts)


def pairs(lengths: Sequence[int], after: Sequence[int]) -> int:
    """Count the pairs of positions that attend: each part's with its own, and with those that it goes on
    from.
    """
    return sum(n * (n + (lengths[a] if a >= 0 else 0)) for n, a in zip(lengths, after, strict=True))


def find_beginnings(tokens: NDArray[np.int32], starts: NDArray[np.int64], capacity: int) -> Beginnings:
    """Find the beginnings that save most where rows hold `capacity` tokens; example i is
    `tokens[starts[i]:starts[i + 1]]`.

    Of beginnings within each other, each example has the one by which more is saved.
    """
    kinds, lengths = np.full(len(starts) - 1, -1, np.int64), list[int]()
    sizes = np.diff(starts)
    for alike in _that_may_share(tokens, starts):
        for height, members in _groups(*_sorted(tokens, starts, alike), sizes, capacity):
            kinds[members] = len(lengths)
            lengths.append(height)
    return Beginnings(kinds, np.array(lengths, np.int64))


def _that_may_share(tokens: NDArray[np.int32], starts: NDArray[np.int64]) -> Iterator[list[int]]:
    """Yield the examples whose first tokens are the same, several at a time."""
    found: dict[bytes, list[int]] = {}
    for ordinal, first in enumerate(starts[:-1].tolist()):
        if starts[ordinal + 1] - first > LEAST:
            found.setdefault(tokens[first : first + LEAST + 1].tobytes(), []).append(ordinal)
    return (each for each in found.values() if len(each) > 1)


def _sorted(
    tokens: NDArray[np.int32], starts: NDArray[np.int64], ordinals: list[int]
) -> tuple[list[int], list[int]]:
    """Return the examples in the order of their tokens, and how much of each the next one can share."""

    def read(ordinal: int) -> NDArray[np.int32]:
        return tokens[starts[ordinal] : starts[ordinal + 1]]

    ordered = sorted(ordinals, key=lambda i: read(i).astype(">u4").tobytes())
    return ordered, [_alike(read(one), read(other)) - 1 for one, other in pairwise(ordered)]


def _alike(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Count the first tokens that two examples have in common."""
    most = min(len(one), len(other))
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if len(differ) else most


@dataclass
class _Node:
    """Is a beginning of `height` tokens: the examples that have it in the `pool`, and groups of longer ones
    that save more by themselves; `saved`: by those groups.
    """

    height: int
    pool: list[int] = field(default_factory=list)
    groups: list[tuple[int, list[int]]] = field(default_factory=list)
    saved: float = 0.0

    @property
    def everyone(self) -> list[int]:
        return [*self.pool, *(i for _, members in self.groups for i in members)]


def _groups(
    ordered: Sequence[int], common: Sequence[int], sizes: NDArray[np.int64], capacity: int
) -> list[tuple[int, list[int]]]:
    """Return groups as (tokens of the beginning, examples). `common`: of each and the next in order."""

    def saved(height: int, members: Sequence[int]) -> float:
        own = int(sizes[list(members)].sum()) - height * len(members)
        return height * (len(members) - max(1.0, own / (capacity - height)))

    def whole(node: _Node) -> float:
        return node.saved + (saved(node.height, node.pool) if len(node.pool) > 1 else 0.0)

    def take(parent: _Node, child: _Node) -> None:
        everyone = child.everyone
        by_itself = whole(child)
        own = int(sizes[everyone].sum()) - parent.height * len(everyone)
        if parent.height * (len(everyone) - own / (capacity - parent.height)) >= by_itself:
            parent.pool += everyone
            return
        parent.groups += child.groups
        parent.saved += by_itself
        if len(child.pool) > 1:
            parent.groups.append((child.height, child.pool))
        else:
            parent.pool += child.pool

    found: list[tuple[int, list[int]]] = []
    stack: list[_Node] = []
    for ordinal, height in zip(ordered, [*common, 0], strict=True):
        last = _Node(int(sizes[ordinal]), [ordinal])
        while stack and stack[-1].height > height:
            take(stack[-1], last)
            last = stack.pop()
        if height < LEAST:
            found += [*last.groups, *([(last.height, last.pool)] if len(last.pool) > 1 else [])]
            continue
        if not stack or stack[-1].height < height:
            stack.append(_Node(height))
        take(stack[-1], last)
    return [(height, members) for height, members in found if saved(height, members) > 0]
