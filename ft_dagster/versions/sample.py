"""Counts the mixture that a declaration's rows would become, from a sample of them.

Sampled rows are rendered and tokenized as the mixture will be; duplicates and overlaps with the evaluation,
which it drops, are not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.data.mixture.mixture_figures import asked_share
from ft_dagster.data.rendering.examples import examples_of, refuse_kind
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.faults import fault_of
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.rows_read import PLACED, SourceLook
from ft_dagster.data.rows.sources import read_raw, read_rows
from ft_dagster.data.rows.split_look import SplitLook
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.planning.context import Counts
from ft_dagster.planning.longest_example import longest_example
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.roots import Roots
from ft_dagster.spec import Declared, VariantSpec

ROWS = 400  # of each source, tokenized
COUNTED = 1_000_000  # of each source, read to be counted


class Counted(NamedTuple):
    """Holds facts of the data, where they come from, and some of its rows. `more`: some source has more rows
    than were counted.
    """

    counts: Counts
    basis: str
    test_rows: int
    rows: tuple[Row, ...]
    more: bool = False


class _Lengths(NamedTuple):
    """Counts examples, their tokens and those with a label, and the tokens of the longest."""

    examples: int
    tokens: int
    trained: int
    longest: int


def sample(
    declared: Declared,
    project: Path,
    tokenizer: KnownTokenizer,
    roots: Roots | None = None,
    *,
    first: int = ROWS,
    most: int = COUNTED,
    looks: Sequence[SourceLook] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Counted:
    """Return counts of the mixture to be, from the `first` rows of each source; of each at most `most` rows
    are counted. `looks`: at each source, where it was read already. Raises UserError.
    """
    spec = declared.spec
    max_length = longest_example(spec, tokenizer.folder)
    exchange = spec.data.render == "auto" and tokenizer.chats
    examples, tokens, trained, read, longest = 0.0, 0.0, 0.0, list[Row](), 0
    rows_in_all, unplaced, more, splits = 0, 0, False, SplitLook()
    for place, source in enumerate(spec.data.sources):
        asked = DeclaredAt(declared.file, f"data.sources[{place}]", roots)
        say(f"reads rows of {source.path}")
        look = None if looks is None else looks[place]
        placed = list(islice(read_rows(source, project, asked), PLACED)) if look is None else look.rows
        rows = [row for row in placed[:first] if fault_of(row) is None]
        splits.add(*placed)
        for row in rows:
            refuse_kind(spec, row, declared.file)
        say(f"tokenizes {len(rows):,} rows of {source.path}")
        made = _lengths(spec, rows, tokenizer, max_length, exchange=exchange)
        whole = len(placed)
        if whole == PLACED:
            say(f"counts the rows of {source.path}")
            counted = islice(read_raw(source, project, asked), most)
            whole = sum(1 for _ in counted) if look is None else min(most, look.counted)
            more = more or whole == most
        times = whole / max(1, len(rows))
        examples += times * made.examples
        tokens += times * made.tokens
        trained += times * made.trained
        longest = max(longest, made.longest)
        read, rows_in_all, unplaced = [*read, *rows], rows_in_all + whole, unplaced + whole - len(placed)
    of_split = splits.rows_by_split(spec.data.splits, unplaced)
    kept, validating = (of_split[split] / max(1, rows_in_all) for split in ("train", "validation"))
    mixed = spec.data.general
    share = asked_share(mixed)
    processed = mixed is not None and mixed.share_of == "processed"
    general = kept * (tokens if processed else trained) * share / (1 - share)  # text: every token is trained
    counts = Counts(
        round(kept * examples + general / max_length),
        round(kept * tokens + general),
        round(kept * trained + general),
        share,
        max_length,
        math.ceil(examples * validating),
        longest,
    )
    looked_at = f"{len(read):,} of {rows_in_all:,} rows of the sources{_held_out(of_split)}"
    basis = f"an estimate from {looked_at}; near duplicates are not looked for"
    return Counted(counts, basis, round(of_split["test"]), tuple(read), more)


def _held_out(of_split: Mapping[str, float]) -> str:
    beside = " and ".join(f"{of_split[split]:,.0f} to {split}" for split in SPLITS[1:] if of_split[split])
    return f", with {beside.replace('validation', 'validate')} beside them" if beside else ""


def _lengths(
    spec: VariantSpec, rows: Sequence[Row], tokenizer: KnownTokenizer, max_length: int, *, exchange: bool
) -> _Lengths:
    """Count what the rows become; of rows that this host rendered before, what was counted then."""

    def find(loaded: Any) -> _Lengths:
        rendered = examples_of(spec, rows, loaded, max_length, exchange=exchange)
        found = [example for _, examples in rendered for example in examples if example.trained_tokens]
        lengths = [len(example.input_ids) for example in found]
        trained = sum(example.trained_tokens for example in found)
        return _Lengths(len(found), sum(lengths), trained, max(lengths, default=0))

    said = sha256_json([[row.kind, row.messages or row.parts, row.tools] for row in rows])
    chats = {"reasoning": spec.data.reasoning, "kwargs": spec.data.chat_template_kwargs}
    given = {"objective": spec.objective, "train_on": spec.data.train_on, "exchange": exchange, **chats}
    return _Lengths(*tokenizer.answer({"lengths": said, "max_length": max_length, **given}, find))
