"""Build a training mixture: task rows tokenized and span-masked, general text mixed in at a stated share.

What a row becomes is for the declared objective to say. Where it cuts documents into chunks, each chunk is an
example of its own with the document's row: every token is trained but each chunk's first. Nothing is lost,
so `data.on_too_long` and `data.train_on` have no say there.

General text that overlaps the evaluation is left out here and not in the corpus, which all tenants share:
what is asked is each variant's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow.parquet import read_metadata

from ft_dagster.data.files.gc_freeze import heap_frozen
from ft_dagster.data.files.pace import RowPace
from ft_dagster.data.files.tables import TableWriter
from ft_dagster.data.mixture.cuts import (
    IN_PART,
    TOO_LONG,
    UNTRAINED,
    Cut,
    place_of,
    unrendered,
    unrendered_of,
)
from ft_dagster.data.mixture.mixture_figures import (
    GENERAL,
    GeneralShare,
    MixtureFigures,
    SplitFigures,
    asked_share,
)
from ft_dagster.data.mixture.shards import SplitWriter
from ft_dagster.data.rendering.examples import examples_of, refuse_kind
from ft_dagster.data.rendering.general import WATCHED, GeneralText, holdout_chunks
from ft_dagster.data.rendering.pieces import marked, pieces_of_row
from ft_dagster.data.rendering.render import has_control_tokens, load_tokenizer
from ft_dagster.data.rows.coverage import evaluation_grams
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.decontaminate import read_items
from ft_dagster.data.rows.rows import Row, said_of_seams
from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import tokenizer_digest
from ft_dagster.objectives import Rendered
from ft_dagster.spec.data import GeneralSpec
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.strict_json import dumps

ORDER = "permute shards then rows, seeded by (seed, epoch)"
BATCH = 256  # rows given to the tokenizer at once
MANY_CUT = 0.05  # share of rows cut or dropped above which a warning is due
SHOWN, PIECES, LONG = 3, 40, 600  # rows that are shown, pieces of each, characters of a piece


class ShownExample(NamedTuple):
    """Shows a row as it is trained: (what is done with it, text) of its pieces, long texts without their
    middle, and how many more there are; and which of its turns are read, "" for all.
    """

    pieces: Sequence[tuple[str, str]]
    read: str = ""


class BuiltMixture(NamedTuple):
    """Holds the outcome of a build. `sample`: the first training example, its trained text between « and »;
    None where nothing is trained. The caller decides whether it may be shown. `overlaps`: by task, the row in
    the corpus of each piece that was left out. `cuts`: of the rows that are there in part or not at all.
    `shown`: the first rows, as `sample` for the caller to decide on.
    """

    figures: MixtureFigures
    sample: str | None
    overlaps: Mapping[str, Sequence[int]]
    cuts: Sequence[Cut] = ()
    shown: Sequence[ShownExample] = ()


@dataclass(frozen=True)
class MixtureParts:
    """Names what a mixture is made from: payload folders of the data set, the base and the general corpus (or
    the folder of the one corpus in it), and the file of evaluation texts that general text must not overlap.

    `paths`: what the data set's sources are called in errors. `exchange`: see `rows.in_exchange`.
    """

    dataset: Path
    base: Path
    corpus: Path | None = None
    evaluation_texts: Path | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    exchange: bool = False


def build_mixture(
    spec: VariantSpec,
    parts: MixtureParts,
    max_length: int,
    out: Path,
    progress: Callable[[str], None] | None = None,
    *,
    declared_in: object = None,
) -> BuiltMixture:
    """Write the shards of train, validation and general_holdout and mixture.json into `out`.

    `max_length` is in tokens. Raises UserError: no chat template where one is needed, rows that the objective
    cannot use, nothing trained, a corpus too small for the share.
    """
    build = _Build(spec, parts, max_length, out, progress=progress, declared_in=declared_in)
    general, corpus = spec.data.general, parts.corpus
    if general is not None and corpus is None:
        raise ValueError("data.general is declared: its corpus is needed")
    if general is not None and corpus is not None and general.corpus and (corpus / general.corpus).is_dir():
        corpus = corpus / general.corpus
    with heap_frozen():
        splits = {"train": build.train(parts.dataset / "train.parquet", corpus)}
        splits["validation"] = build.validation(parts.dataset / "validation.parquet")
        splits["general_holdout"] = build.holdout(corpus)
    figures = MixtureFigures(
        tokenizer=tokenizer_digest(parts.base),
        max_length=max_length,
        seed=spec.training.seed,
        order=ORDER,
        splits=splits,
        general_share=GeneralShare(asked_share(general), _realized(general, splits["train"])),
        longest=build.longest,
        dropped=dict(sorted(build.dropped.items())),
        warnings=tuple(build.warnings()),
        overlaps={task: len(rows) for task, rows in sorted(build.overlaps.items())},
    )
    file_text = dumps(figures.file_json(), indent=1, sort_keys=True) + "\n"
    (out / "mixture.json").write_text(file_text, "utf-8")
    return BuiltMixture(figures, build.sample, build.overlaps, build.cuts, build.shown)


class _Build:
    """Holds the state of one build: the writers' counts, the rows dropped, the sample."""

    def __init__(
        self,
        spec: VariantSpec,
        parts: MixtureParts,
        max_length: int,
        out: Path,
        *,
        progress: Callable[[str], None] | None,
        declared_in: object,
    ) -> None:
        self._spec, self._max_length, self._out = spec, max_length, out
        self._tokenizer, self._paths = load_tokenizer(parts.base), parts.paths
        self._evaluation_texts, self._exchange = parts.evaluation_texts, parts.exchange
        self._share = asked_share(spec.data.general)
        self._say = progress or (lambda line: None)
        self._declared_in = declared_in
        self._rows = 0
        self._cut = 0
        self._with_control_tokens = 0
        self._ending_in_space, self._run_together, self._prompts = 0, 0, 0
        self.dropped = Counter[str]()
        self.overlaps: Mapping[str, Sequence[int]] = {}
        self.longest = 0
        self.sample: str | None = None
        self.cuts: list[Cut] = []
        self.shown: list[ShownExample] = []

    def train(self, file: Path, corpus: Path | None) -> SplitFigures:
        general, counted, last = self._general(corpus), 0, -1
        name = f"{GENERAL}{self._spec.data.general.name}" if self._spec.data.general else ""
        writer = SplitWriter(self._out, "train")
        for number, row, example in self._examples(file, writer):
            writer.add(example, row.source, number)
            self.sample = self.sample or marked(example, self._tokenizer)
            if len(self.shown) < SHOWN and number != last:
                self._show(row)
            last = number
            if general:
                counted += general.counted(example)
                for chunk, document in general.due(counted):
                    writer.add(chunk, name, document)
        self._refuse_empty(writer)
        if general:
            for chunk, document in general.due(counted, last=True):
                writer.add(chunk, name, document)
            self.overlaps = general.overlaps
            self.cuts += [Cut("train", name, row, reason=IN_PART) for row in general.in_part()]
            self._refuse_small(general, counted)
        self.longest = max(self.longest, writer.longest)
        return writer.close()

    def validation(self, file: Path) -> SplitFigures:
        writer = SplitWriter(self._out, "validation")
        for number, row, example in self._examples(file, writer):
            writer.add(example, row.source, number)
        if writer.by_source and not writer.total("trained_tokens"):
            raise self._empty("validation", next(iter(writer.by_source)))
        self.longest = max(self.longest, writer.longest)
        return writer.close()

    def holdout(self, corpus: Path | None) -> SplitFigures:
        """Write all of the held-out texts, by which the gate judges, and count the tokens of those that are
        watched.
        """
        writer = SplitWriter(self._out, "general_holdout")
        general = self._spec.data.general
        if general is None or corpus is None:
            return writer.close()
        chunks = holdout_chunks(corpus, self._tokenizer, self._max_length, self._spec.data.held_out)
        schema = pa.schema([("text", pa.string()), ("group", pa.string())])
        with TableWriter(self._out / "general_holdout" / "texts.parquet", schema) as texts:
            for place, (document, chunk) in enumerate(chunks):
                if place < WATCHED:
                    writer.add(chunk.rendered(), f"{GENERAL}{general.name}", chunk.row)
                texts.add({"text": chunk.text, "group": document}, len(chunk.text))
        return writer.close()

    def warnings(self) -> list[str]:
        """Return what a person should know of the rows before training on them, one line each."""
        lines = list[str]()
        lost = self._cut + sum(self.dropped.values())
        if lost > MANY_CUT * self._rows:
            dropped = ", ".join(f"{n} dropped: {reason}" for reason, n in sorted(self.dropped.items()))
            lines.append(
                f"of {self._rows} rows, {self._cut} were cut to {self._max_length} tokens"
                + (f", {dropped}" if dropped else "")
            )
        if self._ending_in_space:
            lines.append(
                f"{self._ending_in_space} prompts end with a space, which training may read as part of the "
                "answer's first word, while a server reads the prompt alone: begin the answer with the space"
            )
        lines += said_of_seams(self._run_together, self._prompts)
        if self._with_control_tokens:
            lines.append(
                f"{self._with_control_tokens} rows hold special tokens of the base as text "
                "(rendered already?): they are read as special tokens"
            )
        return lines

    def _general(self, corpus: Path | None) -> GeneralText | None:
        general = self._spec.data.general
        if general is None or corpus is None or self._share == 0:
            return None
        grams, texts = None, self._evaluation_texts
        if texts is not None:
            grams = evaluation_grams(read_items(texts), self._spec.data.decontaminate)
        seed = self._spec.training.seed
        return GeneralText(
            corpus,
            self._tokenizer,
            self._share,
            self._max_length,
            seed,
            grams,
            share_of=general.share_of,
        )

    def _examples(self, file: Path, writer: SplitWriter) -> Iterator[tuple[int, Row, Rendered]]:
        """Yield the rows' examples in order, each with its row's number; a row without one is counted."""
        rows, pace, done = read_split(file, self._paths), RowPace(read_metadata(file).num_rows), 0
        number = -1
        while batch := list(islice(rows, BATCH)):
            for row in batch:
                refuse_kind(self._spec, row, self._declared_in)
                self._with_control_tokens += has_control_tokens(row, self._tokenizer)
                self._ending_in_space += row.prompt.endswith(" ") and not self._exchange
                self._run_together += row.runs_together and not self._exchange
                self._prompts += row.kind == "prompt_completion"
                writer.counts_of(row.source)
            self._rows += len(batch)
            done += len(batch)
            made = examples_of(self._spec, batch, self._tokenizer, self._max_length, exchange=self._exchange)
            for row, examples in made:
                number += 1
                place = Cut(file.stem, row.source, number)
                yield from ((number, row, example) for example in self._kept(place, row, examples))
            self._say(f"{pace.said(done)} of {file.stem} tokenized")

    def _kept(self, place: Cut, row: Row, examples: Sequence[Rendered]) -> Iterator[Rendered]:
        """Yield the examples of a row that may be trained on, cut where `on_too_long` allows it. `place`: of
        the row.
        """
        if not examples:
            self.dropped[UNTRAINED] += 1
            self.cuts.append(place._replace(reason=UNTRAINED))
        for example in examples:
            if reason := self._reason(row, example):
                self.dropped[reason] += 1
                self.cuts.append(place._replace(tokens=example.whole, kept=0, reason=reason))
            else:
                self._cut += example.truncated
                self.cuts += self._cut_of(place, row, example)
                yield example

    def _cut_of(self, place: Cut, row: Row, example: Rendered) -> Iterator[Cut]:
        """Yield what says that a row is there in part; nothing where all of it is."""
        place = place._replace(reason=unrendered(row, lambda: self._rendered(example)))
        if example.truncated:
            part, characters = place_of([text for _, text in row.parts], self._decode(example.input_ids))
            kept = len(example.input_ids)
            yield place._replace(tokens=example.whole, kept=kept, part=part, characters=characters)
        elif place.reason:
            yield place

    def _rendered(self, example: Rendered) -> str | None:
        """Return the text of an example with its reasoning, "" where none is rendered; None of one that was
        cut.
        """
        if self._spec.data.reasoning == "drop":
            return ""
        return None if example.truncated else self._decode(example.input_ids)

    def _reason(self, row: Row, example: Rendered) -> str | None:
        if example.truncated and self._spec.data.on_too_long == "refuse":
            raise UserError(
                f"a row longer than {self._max_length} tokens (record {row.identity.hex()[:16]})",
                file=row.named,
                field="data.on_too_long",
                value="refuse",
                fix="Shorten the row, raise training.max_length, or let data.on_too_long truncate or drop it",
            )
        if example.truncated and self._spec.data.on_too_long == "drop":
            return TOO_LONG
        return None if example.trained_tokens else UNTRAINED

    def _refuse_empty(self, writer: SplitWriter) -> None:
        untrained = [source for source, n in writer.by_source.items() if not n["trained_tokens"]]
        if untrained:
            raise self._empty("train", untrained[0])

    def _empty(self, split: str, source: str) -> UserError:
        dropped = ", ".join(f"{n} rows dropped: {reason}" for reason, n in sorted(self.dropped.items()))
        return UserError(
            f"the loss mask is empty: no token of this source would be trained on in the {split} split "
            f"({dropped or 'no rows'})",
            file=self._declared_in,
            field="data.sources",
            value=self._paths.get(source, source),
            fix=f"Raise training.max_length ({self._max_length}), shorten the prompts, or leave it out",
        )

    def _refuse_small(self, general: GeneralText, counted: int) -> None:
        declared = self._spec.data.general
        assert declared is not None
        needed, inexact = general.needed(counted), int(declared.share_of == "processed")
        if general.given >= needed - inexact:
            return
        most = general.given / (general.given + counted)
        text = f"corpus {declared.corpus}" if declared.corpus else "the text sampled from the base"
        small = f"it has {general.given} {declared.share_of} tokens, the share needs {needed}"
        ways = [
            f"Lower the share to {int(most * 1e4) / 1e4}",
            f"add text to corpora/{declared.corpus}.yaml" if declared.corpus else "name a corpus",
            *([] if declared.corpus else ["let the base write more (data.general.texts)"]),
            *(["count trained tokens alone (share_of: trained)"] if declared.share_of == "processed" else []),
        ]
        raise UserError(
            f"{text} is too small: {small}",
            file=self._declared_in,
            field="data.general.share",
            value=self._share,
            fix=f"{', '.join(ways[:-1])}, or {ways[-1]}",
        )

    def _show(self, row: Row) -> None:
        pieces = pieces_of_row(self._spec, row, self._tokenizer, self._max_length, exchange=self._exchange)
        texts: list[tuple[str, str]] = [(each.part, _short(each.text)) for each in pieces[:PIECES]]
        if len(pieces) > PIECES:
            texts.append(("not shown", f"{len(pieces) - PIECES:,} more pieces"))
        self.shown.append(ShownExample(texts, unrendered_of(self._spec, row, pieces)))

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _short(text: str) -> str:
    """Return a text without its middle where it is long."""
    return text if len(text) <= LONG else f"{text[: LONG // 2]} … {text[-LONG // 2 :]}"


def _realized(declared: GeneralSpec | None, train: SplitFigures) -> float:
    name = "tokens" if declared and declared.share_of == "processed" else "trained_tokens"
    general = sum(getattr(n, name) for s, n in train.by_source.items() if s.startswith(GENERAL))
    whole = getattr(train, name)
    return general / whole if whole else 0.0
