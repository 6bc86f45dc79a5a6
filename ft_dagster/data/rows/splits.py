"""Split by content: by a row's first user turn alone, or by its group; never by the rows around it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from ft_dagster.data.rows.content import normal_text
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SplitsSpec

SPLITS = ("train", "validation", "test")


def split_at(position: float, splits: SplitsSpec) -> str:
    """Return "train", "validation" or "test" of a position in [0, 1). A share of 0 gives a split no row."""
    if position < splits.test:
        return "test"
    return "validation" if position < splits.test + splits.validation else "train"


def position_of(text: str) -> float:
    """Return where in [0, 1) a text falls, by the hash of its normal form."""
    return position_of_normal(normal_text(text))


def position_of_normal(normal: str) -> float:
    """Return where in [0, 1) a text falls, given its normal form."""
    return _position(normal.encode())


def group_key(turn: str, group: str | None) -> bytes:
    """Return the key of rows that share a split: 16 bytes of the hash of the group's name, else of the first
    turn in normal form.
    """
    return _key("turn", turn) if group is None else _key("group", group)


def sets_of(rows: Sequence[tuple[str, str | None]], sets: int, *, joined: bool) -> list[int]:
    """Return into which of so many sets, from 1, each row of a test split is dealt, given its first turn in
    normal form and its group: by the group, else by the turn. `joined`: all rows of one turn are in one set,
    with their groups, as they are in one split; else no row moves another.
    """
    groups = SplitGroups()
    for turn, group in rows if joined else ():
        if group is not None:
            groups.join(turn, group)
    names = (groups.name(group_key(turn, group)) for turn, group in rows)
    digests = (hashlib.sha256(b"ft_dagster reserve\0" + name).digest() for name in names)
    return [int.from_bytes(digest[:8], "big") % sets + 1 for digest in digests]


class SplitGroups:
    """Joins rows that share a split: those of one first turn, so that no question of the test was trained on,
    and those of one group.

    Two groups that ask the same question are one, and so are groups of rows that were dropped as duplicates.
    Where a group falls depends on its name, of several on the smallest hash of their names. Some hundred
    bytes a group and a turn that has one; rows without a group cost nothing.
    """

    def __init__(self) -> None:
        # Of a group or turn, another of the same split; of the root, itself.
        self._above: dict[bytes, bytes] = {}
        self._smallest: dict[bytes, bytes] = {}  # of a root, the smallest of its groups

    def join(self, turn: str, group: str) -> None:
        """Join the rows of this first turn, in normal form, with those of this group."""
        one, name = group_key(turn, None), group_key(turn, group)
        self._smallest.setdefault(self._root(name), name)
        one, other = self._root(one), self._root(name)
        if one != other:
            groups = [self._smallest[root] for root in (one, other) if root in self._smallest]
            self._above[one] = other
            self._smallest[other] = min(groups)

    def position(self, key: bytes, fallback: float) -> float:
        """Return where in [0, 1) a row of this `group_key` falls, after all with a group were joined;
        `fallback`, by its first turn alone, where none was.
        """
        return _position(b"group\0" + self.name(key)) if key in self._above else fallback

    def name(self, key: bytes) -> bytes:
        """Return the smallest group of those that rows of this `group_key` were joined with; itself, where
        none was.
        """
        return self._smallest[self._root(key)] if key in self._above else key

    def _root(self, key: bytes) -> bytes:
        at = self._above.setdefault(key, key)
        while at != self._above[at]:
            self._above[at] = self._above[self._above[at]]
            at = self._above[at]
        return at


def _key(kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{kind}\0{name}".encode()).digest()[:16]


def _position(name: bytes) -> float:
    digest = hashlib.sha256(b"ft_dagster split\0" + name).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def shares_of(splits: SplitsSpec) -> dict[str, float]:
    """Return the share of the rows that each split is to have."""
    held_out = splits.model_dump(include={"validation", "test"})
    return {"train": 1 - splits.validation - splits.test, **held_out}


def usual_least(splits: SplitsSpec) -> int:
    """Return how many rows give each split its minimum, where they fall as its share says."""
    return max(math.ceil(splits.minimum / share) for share in shares_of(splits).values() if share > 0)


def refuse_few(rows: int, splits: SplitsSpec, *, file: object = None, repeated: bool = False) -> None:
    """Raise UserError for fewer rows than the splits need however they fall. `repeated`: there are more, and
    equal ones count once.
    """
    asked = [split for split, share in shares_of(splits).items() if share > 0]
    which = "different rows" if repeated else "rows"
    if rows < len(asked) * splits.minimum:
        raise UserError(
            f"too few {which}: {' and '.join(asked)} take {splits.minimum} each",
            file=file,
            field="data.sources",
            value=rows,
            fix=f"{usual_least(splits)} rows are about the least: add rows, set shares of data.splits to 0, "
            "or lower data.splits.minimum",
        )


def check_sizes(
    rows: dict[str, int],
    splits: SplitsSpec,
    *,
    file: object = None,
    overlapping: int = 0,
) -> None:
    """Raise UserError for a split that was asked for and has fewer rows than `splits.minimum`.

    `overlapping`: rows that were left out because they overlap an evaluation set.
    """
    removed = f"; {overlapping:,} rows were left out that overlap an evaluation set" if overlapping else ""
    shares = shares_of(splits)
    for split in SPLITS:
        if shares[split] > 0 and rows[split] < splits.minimum:
            has = ", ".join(f"{name} {rows[name]}" for name in SPLITS)
            way_out = "" if split == "train" else f", set data.splits.{split} to 0"
            found = f"the {split} split would have {rows[split]} rows, fewer than {splits.minimum}"
            raise UserError(
                f"{found} ({has}){removed}",
                file=file,
                field="data.splits.minimum",
                value=splits.minimum,
                fix=f"Add rows ({usual_least(splits)} are about the least), raise its share{way_out}, or "
                "lower data.splits.minimum",
            )
