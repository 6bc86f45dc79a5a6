"""Split by content: a row's split depends on its first user turn alone, never on the rows beside it."""

from __future__ import annotations

import hashlib
import unicodedata

from ft_dagster.errors import UserError
from ft_dagster.spec.variant import SplitsSpec

SPLITS = ("train", "validation", "test")


def split_of(first_turn: str, splits: SplitsSpec) -> str:
    """ "train", "validation" or "test". Case, spacing and Unicode form of the turn do not matter.

    A share of 0 gives a split no row. Rows of the same first turn share a split, so that no question
    of the test was trained on.
    """
    position = position_of(first_turn)
    if position < splits.test:
        return "test"
    return "validation" if position < splits.test + splits.validation else "train"


def position_of(text: str) -> float:
    """Where in [0, 1) a text falls, by the hash of its normalized form."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    digest = hashlib.sha256(b"ft_dagster split\0" + plain.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


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
    shares = {
        "train": 1 - splits.validation - splits.test,
        **splits.model_dump(include={"validation", "test"}),
    }
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
                fix=f"Add rows, raise its share{way_out}, or lower data.splits.minimum",
            )
