"""Finds what to change in a declaration that does not fit: the smallest changes that would, the mildest
first.

A pure search over a function that says how many bytes one device holds at a layout. Kinds of change, from the
one that hurts least: a smaller micro-batch (accumulation makes up for it), gradient checkpointing (20-40%
slower), shorter examples, another method, a ZeRO stage, offload, more GPUs. Where facts are taught another
method comes last, since they are said to need all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

from ft_dagster.methods import method_of
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.methods.sharding import is_sharded

KINDS = ("micro_batch", "checkpointing", "length", "method", "zero_stage", "offload", "gpus")
SHORTEST = 128  # tokens


@dataclass(frozen=True)
class Assignment:
    """Names a field of the declaration and the value to write there."""

    field: str
    value: Any


@dataclass(frozen=True)
class Change:
    """Names settings that together make it fit. `bytes_after`: of one device."""

    settings: tuple[Assignment, ...]
    layout: Layout
    bytes_after: int
    hurts: str

    def sentence(self) -> str:
        """Say the change as a person would write it."""
        wanted = " and ".join(f"{setting.field}: {_yaml(setting.value)}" for setting in self.settings)
        return f"{wanted} ({self.bytes_after / 1e9:,.1f} GB a device; {self.hurts})"


def changes(
    layout: Layout,
    bytes_of: Callable[[Layout], int],
    device_bytes: int,
    *,
    most_gpus: int = 8,
    teaches_facts: bool = False,
    most: int = 5,
) -> tuple[Change, ...]:
    """Return at most `most` changes of `layout`, each enough by itself; none where it fits already.

    Ordered by the most harmful kind in a change, then by how many kinds it takes. Of each kind the mildest
    value that suffices is named: the largest micro-batch, the longest length, the fewest GPUs. A change that
    holds all kinds of an earlier one is left out. `bytes_of` is called once for a layout at most.
    """
    measured = cache(bytes_of)
    if measured(layout) <= device_bytes:
        return ()
    order = _order(teaches_facts)
    found: list[tuple[frozenset[str], Change]] = []
    for kinds in _sets(order):
        if any(earlier <= set(kinds) for earlier, _ in found):
            continue
        reached = _mildest(layout, kinds, measured, device_bytes, most_gpus)
        if reached is not None:
            settings = _settings(layout, reached)
            hurts = "; ".join(_hurts(kind, layout, reached) for kind in kinds)
            found.append((frozenset(kinds), Change(settings, reached, measured(reached), hurts)))
    return tuple(change for _, change in found[:most])


def _order(teaches_facts: bool) -> tuple[str, ...]:
    if not teaches_facts:
        return KINDS
    return (*(kind for kind in KINDS if kind != "method"), "method")


def _sets(order: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every set of kinds: by its most harmful one, then by size."""
    for place, worst in enumerate(order):
        for size in range(place + 1):
            for milder in combinations(order[:place], size):
                yield (*milder, worst)


def _mildest(
    layout: Layout,
    kinds: tuple[str, ...],
    bytes_of: Callable[[Layout], int],
    device_bytes: int,
    most_gpus: int,
) -> Layout | None:
    """Return the layout that fits with the most harmful kind changed least, then the next; None where none
    fits.

    The last value of a kind saves most, so each kind in turn takes the first value that fits with the last
    ones of those still to come: a sum of tries, not their product.
    """
    worst_first = kinds[::-1]
    choices = [_values(kind, layout, most_gpus) for kind in worst_first]
    if not all(choices):
        return None

    def fitting(values: list[Any]) -> Layout | None:
        tried = layout
        for kind, value in zip(worst_first, values, strict=True):
            tried = _with(tried, kind, value)
        return tried if _differs(layout, tried, kinds) and bytes_of(tried) <= device_bytes else None

    values = [choice[-1] for choice in choices]
    best = fitting(values)
    for place, choice in enumerate(choices if best else []):
        for value in choice:
            milder = fitting([*values[:place], value, *values[place + 1 :]])
            if milder is not None:
                values[place], best = value, milder
                break
    return best


def _values(kind: str, layout: Layout, most_gpus: int) -> list[Any]:
    """Return what a kind may be changed to, the mildest first; empty where there is nothing to change."""
    if kind == "micro_batch":
        return [size for size in _halves(layout.micro_batch) if size < layout.micro_batch]
    if kind == "checkpointing":
        return [] if layout.gradient_checkpointing or not method_of(layout.method).recomputes else [True]
    if kind == "length":
        shorter = [layout.length * eighths // 8 // 64 * 64 for eighths in (6, 4, 3, 2)]
        return [length for length in dict.fromkeys(shorter) if SHORTEST <= length < layout.length]
    if kind == "method":
        return list(method_of(layout.method).smaller)
    if kind == "zero_stage":
        return [stage for stage in (2, 3) if stage > layout.zero_stage and layout.gpus > 1]
    if kind == "offload":
        return ["cpu"] if layout.offload == "none" else []
    return list(range(layout.gpus + 1, most_gpus + 1))


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size


def _with(layout: Layout, kind: str, value: Any) -> Layout:
    """Return `layout` changed, and what must go with it: several GPUs and offload shard whatever can be
    sharded.
    """
    if kind == "checkpointing":
        return replace(layout, gradient_checkpointing=value)
    if kind == "method" and not is_sharded(value):
        return replace(layout, method=value, zero_stage=0, offload="none")
    changed = replace(layout, **{kind: value})
    if not is_sharded(changed.method):
        shards = kind in ("zero_stage", "offload", "gpus")
        return replace(changed, zero_stage=0, offload="none") if shards else changed
    if kind in ("offload", "gpus") and changed.zero_stage == 0:
        return replace(changed, zero_stage=3)
    return changed


def _differs(before: Layout, after: Layout, kinds: tuple[str, ...]) -> bool:
    """Say whether each kind changed: one that another took back again is no change."""
    names = {"checkpointing": "gradient_checkpointing"}
    return all(
        getattr(before, names.get(kind, kind)) != getattr(after, names.get(kind, kind)) for kind in kinds
    )


_FIELDS = {
    "method": "method.name",
    "micro_batch": "training.per_device_train_batch_size",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "length": "training.max_length",
    "zero_stage": "training.deepspeed.stage",
    "offload": "training.deepspeed.offload",
    "gpus": "resources.gpus",
}


def _settings(before: Layout, after: Layout) -> tuple[Assignment, ...]:
    """Return every field that differs, with the value to declare."""
    return tuple(
        Assignment(field, getattr(after, name))
        for name, field in _FIELDS.items()
        if getattr(before, name) != getattr(after, name)
    )


def _hurts(kind: str, before: Layout, after: Layout) -> str:
    """Say what a change costs."""
    if kind == "micro_batch":
        return f"accumulate {before.micro_batch / after.micro_batch:g} times as often for the same batch"
    if kind == "length":
        return f"rows above {after.length} of {before.length} tokens are truncated"
    if kind == "method" and not method_of(before.method).freezes:
        return f"{after.method} learns behaviour as well as full, facts perhaps not"
    said = {
        "checkpointing": "20-40% slower: activations are computed twice",
        "method": "each step unpacks quantized weights"
        + (": slower" if replace(before, method=after.method) == after else ""),
        "zero_stage": "the GPUs exchange what they shard at each step: slower without a fast link",
        "offload": "states cross to the host's memory at each step: several times slower",
        "gpus": f"{after.gpus} GPUs where {before.gpus} {'is' if before.gpus == 1 else 'are'} declared",
    }
    return said[kind]


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
