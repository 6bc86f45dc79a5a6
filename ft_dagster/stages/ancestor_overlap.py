"""Looks for what a variant is asked in what the releases that it starts from were trained on.

Made for variants that start from a release alone. What an ancestor was trained on is left out of what is
asked, of base and tuned model alike: test.parquet and general_holdout.parquet have the rows and texts that
are left, left_out.json names the questions of benchmarks. overlaps.json says of each ancestor how far it was
looked through. What was found in a mixture is remembered on this host by its content and the questions, so
that none is read twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.mixture.asked_before import (
    EXACT,
    GENERAL_TEXT,
    NOT,
    OWN,
    ROWS,
    TASKS,
    TEXTS,
    WHOLE,
    Hits,
    Questions,
    Records,
    Searcher,
    find_records,
    stored_rows,
    trained_rows,
)
from ft_dagster.data.mixture.mixture_io import HOLDOUT
from ft_dagster.provenance.findings import recalled, remembered
from ft_dagster.records.record_keys import RESTORE
from ft_dagster.records.record_tree import TreeHead
from ft_dagster.records.sealed_rows import namer_of, tree_column
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import shown
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    BASE_MODEL,
    DECLARATION,
    EVALUATION_TEXTS,
    GENERAL_CORPUS,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.stages import evaluation_texts
from ft_dagster.store import Artifact, Attempt
from ft_dagster.strict_json import dumps
from ft_dagster.workspace.ancestors import RECORDS, Ancestor
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, File, derived, key_parts
from ft_dagster.workspace.questions import LEFT_OUT, LEFT_TESTS, LEFT_TEXTS
from ft_dagster.workspace.stage import Stage

PARTS = {ROWS: TASK_DATASET.name, GENERAL_TEXT: GENERAL_CORPUS.name}  # of what an ancestor was trained on
OFF = "off"  # what the declaration has looked for nowhere
OVERLAPS, HITS = "overlaps.json", "hits.json"
SEARCH = "ancestors 1"  # raise it when the same rows and questions come to other hits
GONE = "{stage} could look through more, or less, of what the ancestors were trained on"


@dataclass(frozen=True)
class OverlapInputs:
    """Names the inputs. `base_model` leads to the ancestors. `test`: the variant's own test rows, where they
    are asked; `texts`: held-out general text. `gone`: ancestors of which rows cannot be read, and were not
    looked through for the same questions before; None where there are none. `unsought`: benchmarks are asked,
    and the declaration has their questions looked for nowhere; None elsewhere.
    """

    spec: VariantSpec
    base_model: Artifact
    test: Derived[File | None]
    texts: Derived[File | None]
    evaluation_texts: Artifact | None
    unsought: Derived[bool | None] = None
    gone: Annotated[list[str] | None, derived(GONE)] = None


def inputs(view: View) -> OverlapInputs:
    spec, tasks = view.spec, view.frozen("tasks")
    dataset, mixture = view.upstream(TASK_DATASET.name), view.upstream(TRAINING_MIXTURE.name)
    sought = spec.data.decontaminate.enabled and (tasks["task"] or tasks["general"])
    found = OverlapInputs(
        spec,
        view.upstream(BASE_MODEL.name),
        None if tasks["task"] else view.file(dataset, "test.parquet"),
        view.file(mixture, f"{HOLDOUT}/texts.parquet"),
        view.made(evaluation_texts.STAGE) if sought else None,
        True if not sought and (tasks["task"] or tasks["general"]) else None,
    )
    return replace(found, gone=view.unlooked(lambda: _gone(view, found)))


def _gone(view: View, asked: OverlapInputs) -> list[str] | None:
    """Return the ancestors of which rows cannot be read any more, unless they were looked through before."""
    missing = [f"{each.name}: {part}" for each in view.past.ancestors(asked.base_model) for part in each.gone]
    if not missing:
        return None
    parts = key_parts(asked)
    wanted = parts.inputs, parts.spec
    before = view.past.made_before(ANCESTOR_OVERLAP.name, lambda made: (made.inputs, made.spec) == wanted)
    return None if next(before, None) is not None else missing


def build(inputs: OverlapInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    texts = inputs.evaluation_texts
    tasks = None if texts is None else context.payload(texts) / evaluation_texts.TEXTS
    test, held_out = (None if file is None else file.path for file in (inputs.test, inputs.texts))
    questions = Questions.read(test, held_out, tasks)
    search = _Search(inputs, context, questions, attempt.folder)
    found = [(each, *search.through(each)) for each in context.past.ancestors(inputs.base_model)]
    never = {"near": OFF} if inputs.spec.data.deduplicate.method == "off" else {}
    never |= {"benchmarks": OFF} if inputs.unsought else {}
    overlaps = [_told(each, {**parts, **never}, hits, questions) for each, parts, hits in found]
    hits = [hits for _, _, hits in found]
    left_out = {kind: sorted({n for each in hits for n in each.found[kind]}) for kind in (OWN, TEXTS, TASKS)}
    _write_rows(test, left_out[OWN], attempt.payload / LEFT_TESTS)
    _write_rows(held_out, left_out[TEXTS], attempt.payload / LEFT_TEXTS)
    by_task = _by_task(questions, left_out[TASKS])
    if by_task:
        _write(attempt.payload / LEFT_OUT, {"tasks": by_task})
    _write(attempt.payload / OVERLAPS, {"ancestors": overlaps})
    _write(attempt.evidence / HITS, {"ancestors": [_named(*each, questions) for each in found]})
    asked = {kind: len(held_out) for kind, held_out in questions.held_out.items()}
    return {
        "ancestors": overlaps,
        "left_out": {kind: len(numbers) for kind, numbers in left_out.items()},
        "asked": asked,
        TASKS: {
            task: {"asked": count, "left_out": len(by_task.get(task, {"numbers": ()})["numbers"])}
            for task, count in Counter(item.task for item in questions.items).items()
        },
    }


class _Search:
    """Looks through ancestors for the questions of one variant."""

    def __init__(
        self, inputs: OverlapInputs, context: BuildContext, questions: Questions, scratch: Path
    ) -> None:
        self._context, self._questions, self._scratch = context, questions, scratch
        self._searcher = Searcher(questions, inputs.spec.data)
        asked = key_parts(replace(inputs, gone=None))
        names = {name: digest for name, digest in asked.inputs.items() if name != BASE_MODEL.name}
        self._asked = {"search": SEARCH, "questions": names, "spec": shown(inputs.spec)}

    def through(self, ancestor: Ancestor) -> tuple[dict[str, str], Hits]:
        """Return how each part of what an ancestor was trained on was looked through, and what it has."""
        states, hits = dict[str, str](), Hits()
        for part, stage in PARTS.items():
            made = ancestor.dataset if part == ROWS else ancestor.general
            if part == ROWS or made is not None or stage in ancestor.gone:
                states[part], found = self._part(ancestor, part, made, gone=stage in ancestor.gone)
                hits.join(found)
        return states, hits

    def _part(self, ancestor: Ancestor, part: str, made: Artifact | None, *, gone: bool) -> tuple[str, Hits]:
        mixture, cache = ancestor.mixture, self._context.cache
        known = {"mixture": mixture and mixture.manifest, "made": made and made.manifest, "part": part}
        question = {**self._asked, **known}
        remembers = recalled(cache, question)
        if remembers is not None:
            return WHOLE, Hits.from_json(remembers)
        records = None if mixture is None else self._context.past.file_left(mixture, RECORDS, self._scratch)
        if gone or made is None:
            hits = Hits()
            left = None if records is None or mixture is None else self._known(mixture, records)
            if left is not None:
                find_records(left, part, self._questions, hits)
            return NOT if left is None else EXACT, hits
        self._context.say(f"looking for what is asked in the {part} of {ancestor.name}")

        def search() -> dict[str, Any]:
            files = sorted(self._context.payload(made).rglob("train.parquet"))
            trained, hits = None if records is None else trained_rows(records, part), Hits()
            self._searcher.look_through(stored_rows(files, part, trained, self._context.say), hits)
            return hits.to_json()

        return WHOLE, Hits.from_json(remembered(cache, question, search))

    def _known(self, mixture: Artifact, file: Path) -> Records | None:
        """Return by what an ancestor's mixture knows its records; None where that takes a key that is lost,
        which is said.
        """
        head = TreeHead.of(mixture.figures)
        key = "" if head is None else head.key
        name = namer_of(file, self._context.keys_of_tenant, key)
        if name is None:
            self._context.say(
                f"records of {mixture.path} are not looked through: the key {key} is lost. {RESTORE}"
            )
            return None
        return Records(file, tree_column(file), name)


def _told(ancestor: Ancestor, parts: dict[str, str], hits: Hits, questions: Questions) -> dict[str, Any]:
    """Return what is said of an ancestor: which it is, how it was looked through, how much of what is asked
    it was trained on.
    """
    tasks = Counter(questions.items[number].task for number in hits.found[TASKS])
    return {
        "variant": ancestor.variant,
        "version": ancestor.version,
        "generations": ancestor.generations,
        "weights": ancestor.weights,
        "searched": parts,
        OWN: len(hits.found[OWN]),
        TEXTS: len(hits.found[TEXTS]),
        TASKS: dict(sorted(tasks.items())),
    }


def _named(ancestor: Ancestor, parts: dict[str, str], hits: Hits, questions: Questions) -> dict[str, Any]:
    """Return each question that an ancestor has, with its rows; no text of either."""
    ids = {kind: [one.id for one in held_out] for kind, held_out in questions.held_out.items()}
    ids[TASKS] = [
        f"{item.task}:{number}" for item, number in zip(questions.items, _numbers(questions), strict=True)
    ]
    rows = [
        {"kind": kind, "question": ids[kind][number], **hit._asdict()}
        for kind, found in hits.found.items()
        for number, hit in sorted(found.items())
    ]
    return {"variant": ancestor.variant, "version": ancestor.version, "searched": parts, "questions": rows}


def _numbers(questions: Questions) -> list[int]:
    """Return the number of each benchmark's question within its task."""
    seen, found = Counter[str](), []
    for item in questions.items:
        found.append(seen[item.task])
        seen[item.task] += 1
    return found


def _by_task(questions: Questions, left_out: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return by task how many questions it has, and the numbers of those that are left out."""
    numbers, sizes = _numbers(questions), Counter(item.task for item in questions.items)
    found: dict[str, dict[str, Any]] = {}
    for each in left_out:
        task = questions.items[each].task
        found.setdefault(task, {"of": sizes[task], "numbers": []})["numbers"].append(numbers[each])
    return dict(sorted(found.items()))


def _write_rows(file: Path | None, left_out: Sequence[int], to: Path) -> None:
    """Write the rows of a file but those that are left out; nothing where none is."""
    if file is None or not left_out:
        return
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    kept = np.ones(len(table), np.bool_)
    kept[list(left_out)] = False
    pq.write_table(table.filter(pa.array(kept)), to, compression="zstd")


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(dumps({"schema_version": 1, **content}, indent=1, sort_keys=True) + "\n", "utf-8")


STAGE = Stage(
    ANCESTOR_OVERLAP,
    reads=(DECLARATION, BASE_MODEL, TASK_DATASET, TRAINING_MIXTURE, EVALUATION_TEXTS),
    fields=("data.decontaminate", "data.deduplicate"),
    inputs=inputs,
    build=build,
    asks=("ancestors", "file_left", "made_before"),
)
