"""Tracks which storages live, when, and what they hold: of real and of fake tensors alike.

A storage is born with the first operation that returns it and dies with its last reference, so views cost
nothing. What the kernels allocate within an operation is not seen. Imported only where torch is.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ft_dagster.fake_tensors import EagerMode, storage_of, tensors_of

FROZEN, TRAINED, GRADIENTS, STATES, ACTIVATIONS, TEMPORARIES = KINDS = (
    "frozen",
    "trained",
    "gradients",
    "states",
    "activations",
    "temporaries",
)


@dataclass(eq=False)
class Block:
    """Is the memory of one storage, from `born` until `died` on the tracker's clock (None: it lives)."""

    nbytes: int
    born: int
    kind: str = TEMPORARIES
    died: int | None = None


class Tracker(EagerMode):
    """Records every storage made under it; `track` adds those that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.blocks: list[Block] = []
        self.phases: list[tuple[str, int]] = [("before", 0)]
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], Block]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_of(out):
            self._block(tensor)
        return out

    def track(self, tensors: Iterable[torch.Tensor], kind: str, *, always: bool = False) -> None:
        """Say what these hold; a kind said later wins. A gradient is a temporary until backward is done.

        `always`: count them from the beginning, whenever they were made.
        """
        for tensor in tensors:
            block = self._block(tensor)
            block.kind, block.born = kind, 0 if always else block.born

    def phase(self, name: str) -> None:
        """Begin a phase, to which all that follows belongs."""
        self.phases.append((name, self.clock))

    def keep(self) -> None:
        """Mark what lives and is not known otherwise as held for the backward pass."""
        for _, block in self._live.values():
            if block.kind == TEMPORARIES:
                block.kind = ACTIVATIONS

    def peaks(self) -> dict[str, dict[str, int]]:
        """Return the bytes by kind at the highest moment of each phase, in the order of their first
        appearance.
        """
        found: dict[str, dict[str, int]] = {}
        ends = [start for _, start in self.phases[1:]] + [self.clock]
        moments = iter(_timeline(self.blocks))
        now, pending = dict.fromkeys(KINDS, 0), next(moments, None)
        for (name, _), end in zip(self.phases, ends, strict=True):
            before = found.get(name, now)
            best = dict(before if _sum(before) > _sum(now) else now)
            while pending is not None and pending[0] <= end:
                _, kind, change = pending
                now[kind] += change
                if _sum(now) > _sum(best):
                    best = dict(now)
                pending = next(moments, None)
            found[name] = best
        return found

    def _block(self, tensor: torch.Tensor) -> Block:
        storage = storage_of(tensor)
        known = self._live.get(id(storage))
        if known:
            return known[1]
        self.clock += 1
        block, key = Block(storage.nbytes(), self.clock), id(storage)

        def died(_: Any) -> None:
            self.clock += 1
            block.died = self.clock
            self._live.pop(key, None)

        self._live[key] = (weakref.ref(storage, died), block)
        self.blocks.append(block)
        return block


def _sum(kinds: dict[str, int]) -> int:
    return sum(kinds.values())


def _timeline(blocks: list[Block]) -> list[tuple[int, str, int]]:
    """Return (moment, kind, change in bytes), in order."""
    changes = [(block.born, block.kind, block.nbytes) for block in blocks]
    changes += [(block.died, block.kind, -block.nbytes) for block in blocks if block.died is not None]
    return sorted(changes)
