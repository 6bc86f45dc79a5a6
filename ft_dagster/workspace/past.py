"""Answers what a stage may ask of what was made before it, beside the artifacts upstream: a method a
question.

A stage lists the questions that it asks (`Stage.asks`), and any other raises. An answer that decides the
bytes of an artifact stands among the stage's inputs, and so in its key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.dataset_io import dealt_turns
from ft_dagster.data.rows.planted import FIGURE as PLANTED
from ft_dagster.errors import UserError
from ft_dagster.gate.memorization.membership_rules import NAME as MEMBERSHIP
from ft_dagster.gate.memorization.platform_canaries import NAME as PLATFORM
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import StoredGraph, input_of, released_export
from ft_dagster.lineage.release import production
from ft_dagster.lineage.reserves import reserve_of, splits_asked
from ft_dagster.lineage.tries import Dealt, held_against, try_of
from ft_dagster.models.derived import ParentRelease, released_parent
from ft_dagster.planning.cost.learned import Finished, finished_training
from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    BASE_MODEL,
    EVALUATION,
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    PROMPTED_BASE,
    TASK_DATASET,
)
from ft_dagster.store import Artifact, Place, Store, find_artifact, read_head, verify_artifact
from ft_dagster.store.committed import committed_in
from ft_dagster.store.removal import keep
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.ancestors import Ancestor, ancestors_of, file_left
from ft_dagster.workspace.judged_once import judged_by
from ft_dagster.workspace.stage_version import is_of_now

TEST_ROWS = "payload/test.parquet"  # of a data set, and of what is left of one beside its ancestors
VARIANTS_ASKED = 8  # variants that are asked how long a question takes: a fleet has thousands
P = ParamSpec("P")
T = TypeVar("T")


class UnlistedQuestion(Exception):
    """Signals that a stage put a question to the past that it does not list in `asks`."""


class ProductionGone(UserError):
    """Signals that a release can no longer be asked: its weights, or the base that they stand on, are
    gone.
    """


class Released(NamedTuple):
    """Names a release: whose it is, by its part of the store, and its entry in that log. `role`: as what new
    weights are held against it.
    """

    prefix: str
    entry: ReleaseEntry
    role: str = "in production"

    def gone(self, what: str) -> ProductionGone:
        """Return the error for a part of it that turns out to be gone."""
        return ProductionGone(
            f"version {self.entry.version}, which is {self.role}, cannot be asked today's questions: {what}",
            fix="Restore it from a backup",
        )


class InProduction(NamedTuple):
    """Names a release that new weights are held against, and the artifacts that it was made from."""

    release: Released
    base_model: Artifact
    fine_tuned_model: Artifact
    model_export: Artifact

    def gone(self, what: str) -> ProductionGone:
        """Return the error for a part of it that turns out to be gone."""
        return self.release.gone(what)


def _question(answer: Callable[Concatenate[Past, P], T]) -> Callable[Concatenate[Past, P], T]:
    """Let a question be answered only where it is listed."""

    @wraps(answer)
    def guarded(past: Past, /, *arguments: P.args, **named: P.kwargs) -> T:
        if past.asks is not None and answer.__name__ not in past.asks:
            raise UnlistedQuestion(f"the past is asked for {answer.__name__}, and the stage does not list it")
        return answer(past, *arguments, **named)

    return guarded


@dataclass(frozen=True)
class Past:
    """Answers what was made before for a variant and its neighbours. `asks`: the questions that may be asked;
    None: all of them.
    """

    _store: Store
    key: VariantKey
    cache: Path
    declared_in: Path
    asks: tuple[str, ...] | None = None

    @_question
    def tries(self, weights: Artifact, questions: str, judged: Mapping[str, str]) -> int:
        """Return which try of the variant since its last release it is, from 1, to put the weights to these
        questions (by their digest), and to judge the answers so (see `tries.try_of`); once that was done, it
        stays the same. Raises UserError for a record that cannot be read.
        """
        by = judged_by(self._store, self.key.prefix, judged)
        return try_of(self._store, self.key.prefix, weights.digest, questions, by)

    @_question
    def held_against(self, weights: Artifact) -> dict[str, str]:
        """See `tries.held_against`."""
        return held_against(self._store, self.key.prefix, weights.digest)

    @_question
    def part_of_reserve(self, sets: int, asked_in: Callable[[Dealt], str]) -> Dealt:
        """Return the set of the test split, one of so many, that judges the variant's newest weights.
        `asked_in`: see `reserves.reserve_of`. Raises UserError for a record that cannot be read.
        """
        newest = read_head(self._store, self.key.prefix, FINE_TUNED_MODEL.name)
        weights = None if newest is None else newest.digest
        return reserve_of(self._store, self.key.prefix, weights, sets, asked_in).dealt

    @_question
    def asked_before(self, weights: Artifact, ordinal: int, rows: Path, dealt: Dealt) -> bool:
        """Say whether a first turn of this set of the test split, whose file is `rows`, was asked before this
        try of the weights, whatever the rows were dealt by then: a group that is declared later deals them
        otherwise. Splits that were asked and are no longer stored are not looked into. Raises UserError for a
        record that cannot be read.
        """
        store, prefix = self._store, self.key.prefix
        asked = splits_asked(store, prefix, weights.digest, ordinal, dealt)
        turns = _turns(rows, dealt) if asked else set[str]()
        stages = (TASK_DATASET.name, ANCESTOR_OVERLAP.name) if asked else ()
        stored = (each for stage in stages for each in committed_in(store, prefix, stage))
        splits = {
            each.files[TEST_ROWS].sha256: each
            for each in stored
            if isinstance(each, Artifact) and TEST_ROWS in each.files
        }
        with tempfile.TemporaryDirectory() as scratch:
            for sha256, then in asked:
                file = (
                    file_left(store, splits[sha256], TEST_ROWS, Path(scratch)) if sha256 in splits else None
                )
                if file is not None and not turns.isdisjoint(_turns(file, then)):
                    return True
        return False

    @_question
    def production(self, release: Released | None = None) -> InProduction:
        """Return a release, None: the one in production. Raises UserError where there is none, ProductionGone
        where its artifacts are gone.
        """
        store = self._store
        if release is None:
            entry = production(store, self.key.prefix)
            if entry is None:
                raise UserError(f"nothing of {self.key} is in production", fix="Run and release it first")
            release = Released(self.key.prefix, entry)
        try:
            export = released_export(store, release.prefix, release.entry)
            if export is None:
                raise release.gone("its export is gone")
            graph = StoredGraph(store)
            tuned, base = (input_of(graph, export, stage.name) for stage in (FINE_TUNED_MODEL, BASE_MODEL))
        except ProductionGone:
            raise
        except UserError as error:
            raise release.gone(str(error)) from None
        if tuned is None or base is None:
            raise release.gone("its base is gone" if tuned else "its weights are gone")
        return InProduction(release, base, tuned, export)

    @_question
    def parent(self, base: BaseModelSpec) -> ParentRelease:
        """Return the release in production of the variant that `base` names. Raises UserError where there is
        none, or its artifacts are gone.
        """
        return released_parent(self._store, self.key, base, file=self.declared_in)

    @_question
    def ancestors(self, base: Artifact) -> list[Ancestor]:
        """Return the releases that a base starts from, the parent first. Raises UserError."""
        return ancestors_of(self._store, base)

    @_question
    def file_left(self, artifact: Artifact, name: str, scratch: Path) -> Path | None:
        """Return a file of an artifact that retention may have removed, see `ancestors.file_left`."""
        return file_left(self._store, artifact, name, scratch)

    @_question
    def finished_on_base(self, variants: Sequence[VariantKey]) -> tuple[Finished, ...]:
        """Return the newest training of each of these variants, where it was measured and what it left
        holds.
        """
        found = []
        for key in variants:
            with suppress(UserError):  # of another variant: said to who asks for that one
                head = read_head(self._store, key.prefix, FINE_TUNED_MODEL.name)
                known = None if head is None else finished_training(TrainingFigures.of(head))
                found += [] if known is None else [known]
        return tuple(found)

    @_question
    def seconds_per_question(
        self, variants: Sequence[VariantKey], hardware: str | None = None
    ) -> float | None:
        """Return the seconds that one model took for a question, in the newest evaluation of the first of
        these variants that has one; None where the first few have none. `hardware`: on which they were
        trained, None: on any.
        """
        for key in variants[:VARIANTS_ASKED]:
            with suppress(UserError):  # said to who asks for that variant
                judged = read_head(self._store, key.prefix, EVALUATION.name)
                if judged is None or not self._was_on(key, hardware):
                    continue
                asked = _asked(judged.figures)
                if asked:
                    return float(judged.figures["seconds"] / asked)
        return None

    @_question
    def questions_there(self, mixture: Artifact) -> QuestionsThere:
        """Count the questions there are: of the data set of a mixture, of the tasks' texts that it was
        looked through for, and the canaries of its corpus.
        """
        with suppress(UserError):
            graph = StoredGraph(self._store)
            rows = input_of(graph, mixture, TASK_DATASET.name)
            texts = None if rows is None else input_of(graph, rows, EVALUATION_TEXTS.name)
            corpus = input_of(graph, mixture, GENERAL_CORPUS.name) if PLANTED in mixture.figures else None
            counts = None if rows is None else DatasetFigures.of(rows).rows
            return QuestionsThere(
                None if counts is None else counts.get("test", 0),
                None if texts is None else tuple(texts.figures["by_task"].values()),
                None if counts is None else counts.get("train", 0),
                planted=0 if corpus is None else int(corpus.figures[PLANTED]),
            )
        return NOT_COUNTED

    @_question
    def made_before(self, stage: str, wanted: Callable[[Artifact], bool]) -> Iterator[Artifact]:
        """Yield the artifacts of a stage of this variant that are as it is made today, and `wanted`, the
        newest first. Each is kept from retention and its bytes are hashed again; what is damaged is left out.
        """
        store, prefix = self._store, self.key.prefix
        committed = committed_in(store, prefix, stage)
        known = [one for one in committed if isinstance(one, Artifact) and is_of_now(one)]
        for each in sorted(known, key=lambda one: str(one.predicate["created"]), reverse=True):
            with suppress(UserError):
                found = find_artifact(store, each.place) if wanted(each) else None
                if found is not None and keep(store, found):
                    verify_artifact(store, found, self.cache)
                    yield found

    @_question
    def made_beside(self, stage: str, key: str) -> Artifact | None:
        """Return what another variant of the tenant has under this key of a stage, kept from retention and
        its bytes hashed again; None where none has it, or it is damaged.
        """
        store, tenant = self._store, self.key.prefix.rpartition("/")[0]
        for variant in sorted(store.names(tenant)):
            if variant == self.key.variant:
                continue
            with suppress(UserError):
                found = find_artifact(store, Place(f"{tenant}/{variant}", stage, key))
                if found is not None and keep(store, found):
                    verify_artifact(store, found, self.cache)
                    return found
        return None

    @_question
    def with_examples(self, base: Artifact, dataset: Artifact) -> list[Artifact]:
        """Return what a base answered with examples of these rows in its prompt."""
        return answers_with_examples(self._store, self.key.prefix, base, dataset)

    def _was_on(self, key: VariantKey, hardware: str | None) -> bool:
        if hardware is None:
            return True
        model = read_head(self._store, key.prefix, FINE_TUNED_MODEL.name)
        predicted = None if model is None else TrainingFigures.of(model).predicted
        return predicted is not None and predicted["hardware"] == hardware


def _turns(rows: Path, dealt: Dealt) -> set[str]:
    """Return the first turns of the rows of a set, in normal form."""
    turns = dealt_turns(rows, dealt.sets, joined=dealt.joined)
    return {turn for turn, part in turns if part == dealt.part}


def answers_with_examples(store: Store, prefix: str, base: Artifact, dataset: Artifact) -> list[Artifact]:
    """Return the newest artifact for each split that a base was asked with examples of a data set, for the
    variant whose part of the store is `prefix`: validation before test.
    """
    wanted = {BASE_MODEL.name: base.digest, TASK_DATASET.name: dataset.digest}
    found = dict[str, Artifact]()
    committed = (one for one in committed_in(store, prefix, PROMPTED_BASE.name) if isinstance(one, Artifact))
    for one in sorted(committed, key=lambda each: str(each.predicate["created"])):
        if all(one.inputs.get(name) == digest for name, digest in wanted.items()) and is_of_now(one):
            found[str(one.figures["split"])] = one
    return [found[split] for split in ("validation", "test") if split in found]


def _asked(figures: Mapping[str, Any]) -> int:
    """Count the questions of its tasks, and those that a plan counts beside these: all else that an
    evaluation asks, wherever it does, comes with these.
    """
    rules = figures.get("verdict", {}).get("rules", ())
    asked = sum(rule["questions"] for rule in rules if rule["rule"] in ("task", "general_benchmark"))
    if not asked:
        return int(figures.get("questions") or 0)
    told, secrets = figures.get(MEMBERSHIP), figures.get(PLATFORM)
    asked += told["trained_on"] + told["held_out"] if told else 0
    return int(asked + (secrets["planted"] + secrets["references"] if secrets else 0))
