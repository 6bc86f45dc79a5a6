"""Writes a mixture again with empty slots in the place of erased records.

Shards, ordinals, lengths and order stand, so that a plan made for the mixture fits the new one step by step.
Of an erased record its number of tokens and its place stay, and no token: they are padding without labels.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetWriter

from ft_dagster.data.files.tables import TableWriter, open_table
from ft_dagster.data.mixture.mixture_figures import GENERAL, MixtureFigures, SplitFigures
from ft_dagster.data.mixture.mixture_io import HOLDOUT, read_mixture
from ft_dagster.data.mixture.shards import SCHEMA
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.strict_json import dumps

TEXTS = f"{HOLDOUT}/texts.parquet"
Row = tuple[str, int]  # (source, number of its row), as an example names what it was made of


@dataclass(frozen=True)
class Erased:
    """Names what is erased of a mixture. `rows`: by split; `held_out`: documents of the held-out texts, by
    their group.
    """

    rows: Mapping[str, Collection[Row]]
    held_out: Collection[str] = ()


@dataclass(frozen=True)
class Slots:
    """Says what became of the erased records in the new mixture. `examples`, `tokens`: by split, that are
    padding now; `labels`: that were trained on; `ordinals`: of the training examples; `texts`: held-out texts
    that are gone; `longest`: the longest example of the mixture is one of them.
    """

    examples: Mapping[str, int]
    tokens: Mapping[str, int]
    labels: Mapping[str, int]
    ordinals: tuple[int, ...]
    texts: int
    longest: bool

    @property
    def measured_with(self) -> bool:
        """Say whether a loss that chooses a checkpoint, or ends a training, counted an erased record."""
        return any(self.examples[split] for split in self.examples if split != "train")

    def counted_by_plan(self, before: MixtureFigures) -> tuple[str, ...]:
        """Say which figures of the mixture, by which its plan was made, counted the erased records."""
        train, empty = before.train, self.examples.get("train", 0)
        said = []
        if empty:
            said.append(
                f"{self.labels['train']:,} of {train.trained_tokens:,} trained tokens and "
                f"{self.tokens['train']:,} of {train.tokens:,} tokens, by which steps and rate were planned"
            )
        if self.longest:
            said.append(f"the longest example, {before.longest:,} tokens, by which memory was planned")
        return tuple(said)


def write_slots(mixture: Path, out: Path, erased: Erased, padding: int) -> tuple[MixtureFigures, Slots]:
    """Write the mixture of a payload folder into the empty folder `out`, without the erased records.

    `padding`: the token id that stands in their place. A shard without any of them is the same file. Raises
    UserError where none of the training examples would be left, or a shard does not name its rows.
    """
    before = read_mixture(mixture)
    count = _Count()
    splits = {
        name: _split(mixture, out, name, split, frozenset(erased.rows.get(name, ())), padding, count)
        for name, split in before.splits.items()
    }
    if not splits["train"].trained_tokens:
        raise UserError(
            "nothing is left to train on without the erased records",
            file=mixture,
            fix="Take the variant out of production, and remove its declaration",
        )
    texts = _held_out(mixture, out, frozenset(erased.held_out))
    share = _realized(before, splits["train"])
    after = replace(
        before,
        splits=splits,
        general_share=replace(before.general_share, realized=share),
        slots={name: number for name, number in sorted(count.examples.items()) if number},
    )
    (out / "mixture.json").write_text(dumps(after.file_json(), indent=1, sort_keys=True) + "\n", "utf-8")
    longest = count.longest == before.longest and bool(count.ordinals)
    examples, tokens, labels = (dict(each) for each in (count.examples, count.tokens, count.labels))
    return after, Slots(examples, tokens, labels, tuple(count.ordinals), texts, longest)


class _Count:
    """Counts what is emptied."""

    def __init__(self) -> None:
        self.examples, self.tokens, self.labels = Counter[str](), Counter[str](), Counter[str]()
        self.of_source = Counter[tuple[str, str]]()
        self.ordinals: list[int] = []
        self.longest = 0


def _split(  # noqa: PLR0917
    mixture: Path,
    out: Path,
    name: str,
    split: SplitFigures,
    rows: frozenset[Row],
    padding: int,
    count: _Count,
) -> SplitFigures:
    shards, first = [], 0
    count.examples[name] += 0
    for shard in split.shards:
        source, target = mixture / shard.file, out / shard.file
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _places(source, rows) if rows else {}
        if not found:
            shutil.copyfile(source, target)
            shards.append(shard)
        else:
            labels = _emptied(source, target, found, name, padding, count)
            if name == "train":
                count.ordinals += [first + at for at in sorted(found)]
            trained = shard.trained_tokens - labels
            shards.append(replace(shard, trained_tokens=trained, sha256=sha256_file(target)))
        first += shard.examples
    by_source = {
        source: replace(part, trained_tokens=part.trained_tokens - count.of_source[name, source])
        for source, part in split.by_source.items()
    }
    trained = sum(shard.trained_tokens for shard in shards)
    return replace(split, trained_tokens=trained, shards=tuple(shards), by_source=by_source)


def _places(shard: Path, rows: frozenset[Row]) -> dict[int, str]:
    """Return the source of each example of a shard that was made of one of the rows, by its place."""
    found: dict[int, str] = {}
    place = 0
    with open_table(shard) as table:
        if "row" not in table.schema_arrow.names:
            fix = "Materialize task_dataset and training_mixture again"
            raise UserError("a mixture of version 0.1 does not number its rows", file=shard, fix=fix)
        for batch in table.iter_batches(columns=["source", "row"]):
            pairs = zip(batch.column("source").to_pylist(), batch.column("row").to_pylist(), strict=True)
            found |= {at: pair[0] for at, pair in enumerate(pairs, place) if pair in rows}
            place += len(batch)
    return found


def _emptied(  # noqa: PLR0917
    source: Path, target: Path, found: Mapping[int, str], split: str, padding: int, count: _Count
) -> int:
    """Write a shard with padding at the places that were found; returns how many labels went."""
    place = gone = 0
    with open_table(source) as table, ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for number in range(table.num_row_groups):
            lines = table.read_row_group(number).to_pylist()
            for at, line in enumerate(lines, place):
                if at not in found:
                    continue
                spans, length = line["trained_spans"], len(line["input_ids"])
                labels = sum(spans[1::2]) - sum(spans[::2])
                line["input_ids"], line["trained_spans"] = [padding] * length, []
                count.examples[split] += 1
                count.tokens[split] += length
                count.labels[split] += labels
                count.of_source[split, found[at]] += labels
                count.longest = max(count.longest, length)
                gone += labels
            writer.write_table(pa.Table.from_pylist(lines, schema=SCHEMA))
            place += len(lines)
    return gone


def _held_out(mixture: Path, out: Path, groups: frozenset[str]) -> int:
    """Copy the held-out texts but those of the erased documents; returns how many these are."""
    source, target = mixture / TEXTS, out / TEXTS
    if not source.is_file():
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    if not groups:
        shutil.copyfile(source, target)
        return 0
    with open_table(source) as table:
        whole = table.read()
    kept = whole.filter(pc.invert(pc.is_in(whole.column("group"), pa.array(sorted(groups), pa.string()))))
    with TableWriter(target, whole.schema) as texts:
        for line in kept.to_pylist():
            texts.add(line, len(line["text"]))
    return len(whole) - len(kept)


def _realized(before: MixtureFigures, train: SplitFigures) -> float:
    """Return the share of general text among the tokens of the kind that the share is of."""
    shares = train.shares(before.share_of)
    return sum(share for source, share in shares.items() if source.startswith(GENERAL))
