"""Tells how much of a record a mixture has: all of it, its beginning, some of its pieces, or nothing.

A mixture says so beside its records (`mixture.cuts`). An older one counts how many rows of each source were
cut: where any was, those are among the rows whose examples are as long as an example may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.mixture.cuts import CUTS, Cut, Name, read_cuts
from ft_dagster.data.mixture.mixture_figures import GENERAL, MixtureFigures
from ft_dagster.errors import UserError
from ft_dagster.store import Artifact

OLDER = "its mixture is older than a record of that"


@dataclass(frozen=True)
class Parts:
    """Says which rows of a mixture are there in part. `cuts`: what is there in part or not at all. `full`: of
    an older one, rows that fill an example, some of which were cut: (split, source, row) -> tokens. `sure`:
    sources of which all of these were. `unknown`: sources of which rows were cut, and nothing says which.
    `left_out`: why an older one left out rows. `max_length`: of an example, in tokens; 0 of one that says
    all.
    """

    cuts: Mapping[Name, Cut] = field(default_factory=dict)
    full: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    sure: frozenset[tuple[str, str]] = frozenset()
    unknown: frozenset[tuple[str, str]] = frozenset()
    left_out: str = ""
    max_length: int = 0

    @property
    def is_whole(self) -> bool:
        """Say whether every row that is there is there whole."""
        return not (self.unknown or self.full or any(not cut.left_out for cut in self.cuts.values()))

    def said(self, facts: Mapping[str, Any]) -> str:
        """Say how much of a row is there, by its facts; empty of all of it."""
        split, source, row = (facts.get(name) for name in ("split", "source", "row"))
        cut = self.cuts.get((str(split), str(source).startswith(GENERAL), int(row or 0)))
        if cut is not None and not cut.left_out:
            of = f" of {cut.tokens:,} tokens" if cut.tokens is not None else " tokens"
            kept = "" if cut.kept is None else f"the first {cut.kept:,}{of}"
            return ", ".join(filter(None, (kept, cut.reason)))
        tokens, of_source = self.full.get((str(split), str(source), int(row or 0))), (str(split), str(source))
        if tokens is not None:
            first = f"the first {tokens:,} tokens"
            return f"{first} of more" if of_source in self.sure else f"perhaps {first} alone: {OLDER}"
        return f"perhaps its beginning alone: {OLDER}" if of_source in self.unknown else ""

    def why_left_out(self, split: str, row: int) -> tuple[str, int | None]:
        """Return (why a row of the data set is not there, how many tokens it has); empty where nothing says
        so.
        """
        cut = self.cuts.get((split, False, row))
        return (cut.reason, cut.tokens) if cut is not None and cut.left_out else (self.left_out, None)


def is_perhaps(said: str) -> bool:
    return said.startswith("perhaps ")


def parts_of(audit: Audit, mixture: Indexed) -> Parts:
    """Read how much of its rows a mixture has, once. Raises UserError for damage."""
    if mixture.id not in audit.parts:
        artifact = audit.artifact(mixture)
        if audit.stored.has(artifact, f"evidence/{CUTS}"):
            audit.parts[mixture.id] = Parts(read_cuts(audit.stored.file(artifact, f"evidence/{CUTS}")))
        else:
            audit.parts[mixture.id] = _of_older(audit, artifact)
    found = audit.parts[mixture.id]
    assert isinstance(found, Parts)
    return found


def _of_older(audit: Audit, mixture: Artifact) -> Parts:
    figures = MixtureFigures.of(mixture)
    truncated = {
        (split, source): counted.truncated
        for split, held in figures.splits.items()
        for source, counted in held.by_source.items()
        if counted.truncated and not source.startswith(GENERAL)
    }
    reasons = [reason for reason, number in figures.dropped.items() if number]
    left_out = " or ".join(reasons)
    full: dict[tuple[str, str, int], int] = {}
    unknown = set[tuple[str, str]]()
    for split in {split for split, _ in truncated}:
        files = [
            audit.stored.left(mixture, f"payload/{shard.file}") for shard in figures.splits[split].shards
        ]
        gone = None in files
        try:
            for source, row, tokens in _examples(files):
                if (split, source) in truncated and tokens >= figures.max_length:
                    full[split, source, row] = tokens
        except UserError:  # version 0.1 did not number rows
            gone = True
        unknown |= {of for of in truncated if of[0] == split and gone}
    counted = {of: sum(name[:2] == of for name in full) for of in truncated}
    sure = frozenset(of for of, number in truncated.items() if number == counted[of] and of not in unknown)
    return Parts({}, full, sure, frozenset(unknown), left_out, figures.max_length)


def _examples(files: list[Any]) -> Iterator[tuple[str, int, int]]:
    """Yield (source, row, tokens) of each example."""
    for file in files:
        for batch in rows_of(file, "source", '"row"', "len(input_ids)") if file is not None else ():
            yield from batch
