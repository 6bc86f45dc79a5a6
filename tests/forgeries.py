"""Forges JSON documents, a place at a time: for whoever checks one."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any


def changed(said: Any, chance: random.Random) -> str:
    """A JSON document in which one thing is another, as text; the document itself stays."""
    said = copy.deepcopy(said)
    places = [*leaves_of(said, ())]
    path = chance.choice([place for place in places if chance.random() < 0.2] or places)
    holder: Any = said
    for part in path[:-1]:
        holder = holder[part]
    value, last = holder[path[-1]], path[-1]
    if chance.random() < 0.15:
        if isinstance(holder, list):
            holder.pop(last)
        else:
            del holder[last]
    elif isinstance(value, str) and value:
        at = chance.randrange(len(value))
        sign = chance.choice("0123456789abcdefG \u2076")
        holder[last] = chance.choice([
            value[:at] + sign + value[at + (chance.random() < 0.8) :],
            value.upper(), value[:-1], [value], None,
        ])  # fmt: skip
    else:
        number = value if isinstance(value, int) else 0
        holder[last] = chance.choice(
            [number + 1, number - 1, number * 2 + 1, float(number), str(value), True, {}]
        )
    return json.dumps(said)


def leaves_of(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from leaves_of(part, (*path, name))
    if path:
        yield path
