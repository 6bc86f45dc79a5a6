"""Records the rows that are in a mixture in part, and those left out of it: cuts.parquet of its evidence.

A row longer than an example is cut at its end, or left out; of a conversation reasoning, and turns after the
last trained answer, may not be rendered; of a document of general text the last piece that
was due may be a part of it, and pieces that overlap the evaluation are not there. What the file does not name
is in the mixture whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ft_dagster.data.files.parquet import dicts_of
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.rows.content import normal_text
from ft_dagster.data.rows.rows import Row, upto_trained

if TYPE_CHECKING:
    from ft_dagster.data.rendering.pieces import Piece
    from ft_dagster.spec.variant import VariantSpec

CUTS = "cuts.parquet"
IN_PART = "some of its pieces"  # of a document, how many tokens is not counted
UNTHOUGHT, UNFOLLOWED = "without reasoning that is not rendered", "up to its last trained answer"
IN_PARTS = (IN_PART, UNTHOUGHT, UNFOLLOWED, f"{UNTHOUGHT}, {UNFOLLOWED}")
TOO_LONG, UNTRAINED = "too long", "no trained tokens"  # of rows that are left out
THOUGHT = "reasoning_content"
_BETWEEN = 80  # characters that a template may write between two texts
_ROW_BYTES = 60
Name = tuple[str, bool, int]


class Cut(NamedTuple):
    """Names a row that is in a mixture in part or not at all. `row`: its number in the split of the data set,
    or in the part of the corpus. `kept` of its `tokens` are in the mixture; None: not counted. `part` and
    `characters`: the number of the text that it was cut within, and how much of that, stripped, is kept;
    None: it is not known, or all of its text is kept. `reason`: why it is in part or left out, empty of one
    that was cut at its end.
    """

    split: str
    source: str
    row: int
    tokens: int | None = None
    kept: int | None = None
    part: int | None = None
    characters: int | None = None
    reason: str = ""

    @property
    def name(self) -> Name:
        """Return the mixture's name for the row: split, whether it is of a corpus, number."""
        return self.split, self.source.startswith(GENERAL), self.row

    @property
    def left_out(self) -> bool:
        return bool(self.reason) and self.reason not in IN_PARTS

    @property
    def is_unfollowed(self) -> bool:
        """Say whether turns after the last trained answer are all that is cut off."""
        return self.kept is None and UNFOLLOWED in self.reason


def unrendered(row: Row, rendered: Callable[[], str | None]) -> str:
    """Say what of a conversation is not rendered, empty of most. `rendered` returns its text, None where it
    was cut.
    """
    read = upto_trained(row)
    thoughts = [str(turn.said[THOUGHT]) for turn in read.messages if f'"{THOUGHT}":' in turn.more]
    text = rendered() if thoughts else None
    there = None if text is None else normal_text(text)
    lost = there is not None and any(normal_text(each) not in there for each in thoughts)
    return ", ".join(filter(None, (UNTHOUGHT * lost, UNFOLLOWED * (read is not row))))


def unrendered_of(spec: VariantSpec, row: Row, pieces: Sequence[Piece]) -> str:
    """Say what of a conversation is not rendered, by its pieces; empty of most."""
    text = "" if spec.data.reasoning == "drop" else "".join(piece.text for piece in pieces)
    cut = any(piece.part == "cut" for piece in pieces)
    return unrendered(row, lambda: None if text and cut else text)


def place_of(texts: Sequence[str], kept: str) -> tuple[int | None, int | None]:
    """Return (`part`, `characters`) of a `Cut`: where a rendering of these texts ends, of which the beginning
    is `kept`.
    """
    end, at = kept.rstrip("\ufffd"), 0  # half a letter is none
    for number, text in enumerate(map(str.strip, texts)):
        found = kept.find(text, at)
        if found >= 0:
            at = found + len(text)
            continue
        starts = (start for start in _beginnings(text, end, at) if text.startswith(end[start:]))
        start = next(starts, len(end))
        told = start < len(end) or len(end) - at <= _BETWEEN
        return (number, len(end) - start) if told else (None, None)
    return None, None


def _beginnings(text: str, kept: str, at: int) -> Iterator[int]:
    """Yield each place where `text` may begin in `kept`, from `at` on: where its first characters stand, or
    `kept` ends.
    """
    first, last = text[:_BETWEEN], max(at, len(kept) - _BETWEEN)
    while first and 0 <= (at := kept.find(first, at)) < last:
        yield at
        at += 1
    yield from range(last, len(kept))


def is_same_up_to(cut: Cut, row: Row, other: Row) -> bool:
    """Say whether another row begins like one that was cut, up to the cut: both have what was trained on."""
    length = len(upto_trained(row).messages)
    behind = UNFOLLOWED in cut.reason and cut.part is not None and cut.part >= length
    if cut.is_unfollowed or behind:
        begins = [replace(each, messages=each.messages[:length]).likeness for each in (row, other)]
        return begins[0] == begins[1]
    if cut.part is None or cut.characters is None or (row.kind, row.tools) != (other.kind, other.tools):
        return False
    if _said_before(row, cut.part) != _said_before(other, cut.part):
        return False
    before, (role, text) = row.parts[: cut.part], row.parts[cut.part]
    same = [(role, normal_text(text)) for role, text in other.parts[: cut.part]]
    if same != [(role, normal_text(text)) for role, text in before] or len(other.parts) <= cut.part:
        return False
    there, (its_role, its_text) = normal_text(text.strip()[: cut.characters]), other.parts[cut.part]
    return role == its_role and normal_text(its_text).startswith(there)


def _said_before(row: Row, part: int) -> tuple[object, ...]:
    """Return what the turns up to a text say beside theirs; calls of its own come after it."""
    own = row.messages[part].said if part < len(row.messages) else {}
    own.pop("tool_calls", None)
    return *(turn.more for turn in row.messages[:part]), own


def write_cuts(cuts: Iterable[Cut], evidence: Path) -> None:
    import pyarrow as pa

    from ft_dagster.data.files.tables import TableWriter

    texts = {"split", "source", "reason"}
    schema = pa.schema([(name, pa.string() if name in texts else pa.int64()) for name in Cut._fields])
    with TableWriter(evidence / CUTS, schema) as table:
        for cut in cuts:
            table.add(cut._asdict(), _ROW_BYTES)


def read_cuts(file: Path) -> Mapping[Name, Cut]:
    """Raises UserError for a file that is none."""
    return {cut.name: cut for cut in (Cut(**row) for row in dicts_of(file))}
