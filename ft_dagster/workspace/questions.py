"""Describes what base and tuned model are asked: the variant's own task, general benchmarks, held-out text,
probes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.mixture.mixture_io import trained_rows_of
from ft_dagster.data.rendering.chat_rules import chat_rules
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.data.rows.planted import FIGURE, FILE
from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import expected_of
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.own_checks import own_names
from ft_dagster.evaluation.request import (
    BaseFiles,
    EvaluationRequest,
    JudgedModel,
    Membership,
    QuestionsFile,
    Regurgitation,
    ReserveSet,
    SplitTask,
    TunedWeights,
    Until,
)
from ft_dagster.evaluation.tasks.tasks import is_file_entry, resolve_tasks
from ft_dagster.gate.answer_scores import find_database
from ft_dagster.gate.judged_by import BASE, Opponent
from ft_dagster.gate.samples import SAMPLES
from ft_dagster.lineage.tries import Dealt
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    BASE_MODEL,
    DECLARATION,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import (
    UNKNOWN,
    Derived,
    Digest,
    File,
    declared_as,
    derived,
    key_parts,
    recorded,
)
from ft_dagster.workspace.rendered_prompts import OTHER_ROWS, RENDERING, lead_of_answers
from ft_dagster.workspace.workspace import Workspace

JUDGING, CHOOSING = (
    "test.parquet",
    "validation.parquet",
)  # of a data set: by whose rows models are judged, chosen
OTHER_CHAT = "{stage} was answered by other rules of a chat"
QUESTIONS = ("evaluation.limit", "evaluation.seed", "evaluation.num_fewshot")
TASK = (
    "evaluation.task",
    "evaluation.max_new_tokens",
    "evaluation.kind",
    "evaluation.call_order",
    "evaluation.probed_rows",
    "evaluation.canaries",
    "evaluation.reserve",
    "evaluation.membership",
    "data.train_on",
    "data.reasoning",
    "data.chat_template_kwargs",
)
GENERAL = ("evaluation.general",)
LEFT_TESTS, LEFT_TEXTS = "test.parquet", "general_holdout.parquet"  # of an ancestor_overlap
LEFT_OUT = "left_out.json"
FIELDS = (*QUESTIONS, *TASK, *GENERAL, "evaluation.database")
READS = (DECLARATION, BASE_MODEL, TASK_DATASET, TRAINING_MIXTURE, ANCESTOR_OVERLAP, TRAINING_PLAN)


@dataclass(frozen=True)
class OwnTask:
    """Describes the variant's own task: the declared tasks (`tasks`: by digest), else the test split; and
    what is probed for regurgitation. `spec`: how it is asked. `lead`: what the base's chat template writes
    before an answer of the variant's rows, which is none of it; None where rows are not asked, or it writes
    nothing. `rendering`: of prompts with completions, as they were trained. `choosing`: models are chosen by
    the answers, and judged by others: `test` then has the rows of the validation split, and of tasks other
    questions are asked; None where they judge. `part`: which set of the test split's rows is asked
    (`evaluation.reserve`); None: all. `joined`: see `splits.sets_of`. `members`, `others`: the training rows
    and the held-out ones that are to be told apart, None where that is not asked; `mixed`: what says which
    training rows the mixture has, `mixed_rows`: the digest of their numbers. `planted`: the platform's
    canaries, where its corpus has any. `left_out`: questions of the declared tasks that are not asked, since
    an ancestor was trained on them; None where there are none.
    """

    spec: VariantSpec
    tasks: dict[str, str]
    test: Derived[File | None]
    train: Derived[File | None]
    database: Annotated[File | None, declared_as("evaluation.database")]
    lead: Annotated[str | None, derived(OTHER_ROWS)] = None
    rendering: Derived[str | None] = None
    choosing: Derived[bool | None] = None
    part: Derived[int | None] = None
    members: Derived[File | None] = None
    others: Derived[File | None] = None
    mixed: File | None = recorded(default=None)
    mixed_rows: Derived[Digest | None] = None
    planted: Derived[File | None] = None
    left_out: Derived[File | None] = None
    joined: Derived[bool | None] = None


@dataclass(frozen=True)
class General:
    """Describes benchmarks (`tasks`: by digest) and held-out general text. `choosing`: see `OwnTask`; texts
    and prompts, of which there are no others, are not asked then. `left_out`: see `OwnTask`.
    """

    spec: VariantSpec
    tasks: dict[str, str]
    general_holdout: Derived[File | None]
    choosing: Derived[bool | None] = None
    left_out: Derived[File | None] = None


def own_task(view: View, overlap: Artifact | None) -> OwnTask:
    """Return the own task without what an ancestor was trained on (`overlap`: see `ancestor_overlap`). Raises
    UserError, before anything is computed, for a database that is not there.
    """
    rendering = view.upstream(TRAINING_MIXTURE.name).spec.get(RENDERING)
    return own_task_of(view, view.upstream(BASE_MODEL.name), rendering, overlap)


def own_task_of(view: View, base: Artifact, rendering: str | None, overlap: Artifact | None) -> OwnTask:
    """Return the own task as it is put to a base, or to a model that was trained from it on rows that were
    rendered so. `overlap`: see `own_task`.
    """
    spec, dataset = view.spec, view.upstream(TASK_DATASET.name)
    asked = spec.evaluation
    probes = bool(asked.probed_rows or asked.canaries) and not view.choosing
    splits, told = not asked.task, bool(asked.membership) and not view.choosing
    rows_asked = splits or probes or told
    task = OwnTask(
        narrowed(spec, (*QUESTIONS, *TASK)),
        view.frozen("tasks")["task"],
        _tests(view, dataset, overlap) if splits else None,
        view.file(dataset, "train.parquet") if probes else None,
        database_of(view, asked.database if splits else None),
        view.by_bytes(lambda: lead_of_answers(view, dataset, base, rendering)) if rows_asked else None,
        rendering,
        view.choosing or None,
        None,
        view.file(dataset, "train.parquet") if told else None,
        (_left(view, overlap, LEFT_TESTS) or view.file(dataset, "test.parquet")) if told else None,
        view.unlooked(lambda: _mixed(view)) if told else None,
        view.by_bytes(lambda: _mixed_rows(view)) if told else None,
        None if view.choosing else planted_file(view),
        None if splits else _left(view, overlap, LEFT_OUT),
    )
    if asked.reserve is None or view.choosing:
        return task
    others = general(view, overlap)

    def of(dealt: Dealt) -> OwnTask:
        return replace(task, part=dealt.part, joined=dealt.joined or None)

    dealt = view.by_bytes(
        lambda: view.past.part_of_reserve(asked.sets, lambda dealt: questions_digest(of(dealt), others))
    )
    return of(dealt) if isinstance(dealt, Dealt) else replace(task, part=UNKNOWN, joined=UNKNOWN)


def _tests(view: View, dataset: Artifact, overlap: Artifact | None) -> File | None:
    """Return the rows that are asked: those of the test split that no ancestor was trained on; where models
    are chosen, of the validation split.
    """
    if view.choosing:
        return view.file(dataset, CHOOSING)
    return _left(view, overlap, LEFT_TESTS) or view.file(dataset, JUDGING)


def _left(view: View, overlap: Artifact | None, name: str) -> File | None:
    """Return the file of what is asked where something is left out of it; None elsewhere."""
    return None if overlap is None else view.file(overlap, name)


def planted_file(view: View) -> File | None:
    """Return the file with the canaries of the corpus that the mixture is of; None where it has none, or the
    corpus is gone.
    """

    def found() -> File | None:
        mixture = view.upstream(TRAINING_MIXTURE.name)
        if FIGURE not in mixture.figures:
            return None
        corpus = view.corpus_of(mixture)
        return None if corpus is None else view.file(corpus, f"{mixture.figures[FIGURE]['corpus']}/{FILE}")

    return view.by_bytes(found)


def _mixed_rows(view: View) -> Digest | None:
    """Return the digest of the numbers of the rows that the mixture has: a base that was asked others is
    asked again, so that nobody chooses by an earlier mixture which rows are compared.
    """
    file = _mixed(view)
    return None if file is None else Digest(sha256_json(sorted(trained_rows_of(file.path))))


def _mixed(view: View) -> File | None:
    """Return the file that says which rows the mixture has; None where retention removed it, or of an older
    mixture.
    """
    file = view.evidence(view.upstream(TRAINING_MIXTURE.name)) / ORIGINS
    return File.of(file) if file.is_file() else None


def unprobed(task: OwnTask) -> OwnTask:
    """Return the same task without what is asked of memorization alone: probes, rows to be told apart,
    canaries.
    """
    lead = None if task.test is None else task.lead
    return replace(
        task, train=None, members=None, others=None, mixed=None, mixed_rows=None, planted=None, lead=lead
    )


def own_checks(context: BuildContext, asked: EvaluationSpec) -> dict[str, dict[str, str]]:
    """Return the shown names of the checks that are YAML files of the tenant's own, by role; see
    `own_names`.
    """
    roots, found = context.roots, {}
    for role, entries in (("task", asked.task), ("general", asked.general)):
        own = filter(is_file_entry, entries)
        tasks = resolve_tasks(own, context.project, asked_by=context.declared_in, roots=roots)
        found[role] = own_names(tasks, context.key.tenant)
    return {role: names for role, names in found.items() if names}


def refuse_no_database(workspace: Workspace) -> None:
    """Raises UserError where the answers are to be run on a database that is not there."""
    asked = workspace.spec.evaluation
    if asked.database is not None and not asked.task:
        find_database(asked.database, workspace.project, workspace.declared_in, workspace.roots)


def database_of(view: View, path: str | None) -> File | None:
    """Return the file that queries run on, where one is declared. Raises UserError where it is not there."""
    if path is None:
        return None
    return File.of(find_database(path, view.project, view.declared_in, view.roots))


def take_over(folder: Path, stored: Artifact, attempt: Attempt) -> None:
    """Copy all files of an artifact, which lies in `folder`, into an attempt."""
    for name in stored.files:
        (attempt.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, attempt.folder / name)


def general(view: View, overlap: Artifact | None) -> General:
    """Return what is general of what is asked, without what an ancestor was trained on, see `own_task`."""
    tasks, mixture = view.frozen("tasks")["general"], view.upstream(TRAINING_MIXTURE.name)
    return General(
        narrowed(view.spec, (*QUESTIONS, *GENERAL)),
        tasks,
        None
        if view.choosing
        else _left(view, overlap, LEFT_TEXTS) or view.file(mixture, "general_holdout/texts.parquet"),
        view.choosing or None,
        _left(view, overlap, LEFT_OUT) if tasks else None,
    )


def questions_digest(task: OwnTask, general: General) -> str:
    """Return the digest of what is asked, whoever is asked: other questions are another try of the same
    weights. How a base's template has them makes no other question.
    """
    task = replace(task, lead=None, rendering=None)
    return sha256_json({"task": key_parts(task)._asdict(), "general": key_parts(general)._asdict()})


@dataclass(frozen=True)
class Decides:
    """Is the stopping rule for `limit: auto`: against whose evaluation (`judges`: what it is), and by what,
    it is decided that enough was asked. It acts where `evaluation.limit` is auto.
    """

    before: Artifact
    gates: GatesSpec
    tries: int
    judges: Opponent = BASE

    def until(self, context: BuildContext) -> Until:
        file = File.of(context.payload(self.before) / SAMPLES)
        return Until(
            before=_data(file),
            gates=self.gates,
            tries=self.tries,
            against=self.judges.against,
            release=self.judges.release,
            objective=self.judges.objective,
        )


@dataclass(frozen=True)
class ModelQuestions:
    """Describes one evaluation to be run: of what, on what. `decides`: when enough was asked; None: all is
    asked. `withheld`: rows of the vocabulary that the model is not to choose among.
    """

    base: BaseFiles
    tuned: TunedWeights | None
    device: str
    dtype: Dtype
    engine: Engine
    task: OwnTask | None = None
    general: General | None = None
    decides: Decides | None = None
    withheld: tuple[int, ...] = ()

    def ask(self, context: BuildContext, attempt: Attempt, *, into: Path | None = None) -> dict[str, object]:
        """Run the evaluation program into the attempt, or into the folder `into`; returns its figures.

        Raises UserError where it says that it measured anything else than was asked.
        """
        figures = context.run("evaluation", attempt, lambda output: self.request(context, output), into=into)
        check_measured(figures, expected_of(self.request(context, attempt.folder)).to_json())
        reason = None if self.task is None else self.engine.reason  # what all share tells of no tenant
        return figures if reason is None else {**figures, "engine_reason": reason}

    def request(self, context: BuildContext, output: Path) -> EvaluationRequest:
        """Return the evaluation program's run.json."""
        part = self.task or self.general
        assert part is not None
        left_out = next((each.left_out for each in (self.task, self.general) if each and each.left_out), None)
        spec = part.spec.evaluation
        task, general = self.task, self.general
        return EvaluationRequest.model_validate(
            {
                "schema_version": 1,
                "model": JudgedModel(base=self.base, tuned=self.tuned),
                "device": self.device,
                "dtype": self.dtype,
                "vllm": self.engine.python,
                "withheld": self.withheld,
                "digests": {
                    **({} if task is None else task.tasks), **({} if general is None else general.tasks)
                },
                "left_out": None if left_out is None else _data(left_out),
                "limit": spec.limit,
                "choosing": bool(part.choosing),
                "until": self.decides.until(context) if self.decides and spec.limit == "auto" else None,
                "seed": spec.seed,
                "num_fewshot": spec.num_fewshot,
                "project": context.project,
                "roots": context.roots,
                "declared_in": context.declared_in,
                "output": output,
                **({} if task is None else _of_task(task)),
                **({} if general is None else _of_general(general)),
            }
        )  # fmt: skip


def check_measured(figures: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError unless the figures of an evaluation say that this was measured."""
    found = figures.get("measured") or {}
    for name, value in expected.items():
        if found.get(name, ...) != value:
            raise UserError(
                f"the evaluation measured another {name} than was asked: {_short(value)} is expected",
                value=_short(found.get(name)),
                fix="Materialize it again; if that does not help, look who changes files meanwhile",
            )


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _of_task(task: OwnTask) -> dict[str, Any]:
    spec = task.spec
    chats = {name: getattr(spec.data, name) for name in ("reasoning", "chat_template_kwargs")}
    asked: dict[str, Any] = {"task": spec.evaluation.task, **chats}
    if task.train is not None:
        probed, canaries = spec.evaluation.probed_rows, spec.evaluation.canaries
        asked["regurgitation"] = Regurgitation(
            train=_data(task.train), rows=probed, canaries=canaries, exchange=task.rendering is not None
        )
    if task.members is not None and task.others is not None:
        asked["membership"] = Membership(
            train=_data(task.members),
            held_out=_data(task.others),
            mixed=None if task.mixed is None else _data(task.mixed),
            rows=spec.evaluation.membership,
            reserve=_reserve_set(task),
            exchange=task.rendering is not None,
        )
    if task.planted is not None:
        asked["planted"] = _data(task.planted)
    if task.test is not None:
        asked["test_split_task"] = SplitTask(
            test=_data(task.test),
            max_new_tokens=spec.evaluation.max_new_tokens,
            kind=spec.evaluation.kind,
            call_order=spec.evaluation.call_order,
            database=None if task.database is None else _data(task.database),
            train_on=spec.data.train_on,
            exchange=task.rendering is not None,
            reserve=_reserve_set(task),
        )
    return asked


def _reserve_set(task: OwnTask) -> ReserveSet | None:
    return (
        None
        if task.part is None
        else ReserveSet(sets=task.spec.evaluation.sets, number=task.part, joined=bool(task.joined))
    )


def _of_general(general: General) -> dict[str, object]:
    holdout = general.general_holdout
    return {
        "general": general.spec.evaluation.general,
        "general_holdout": None if holdout is None else _data(holdout),
        "general_prompts": not general.choosing,
    }


def _data(file: File) -> QuestionsFile:
    return QuestionsFile(path=file.path, sha256=file.sha256)


def chat_of(evaluation: Artifact) -> dict[str, object] | None:
    """Return the rules by which a chat was rendered and an answer ended (`data.rendering.chat_rules`); None
    for those of most.
    """
    return evaluation.figures.get("chat")


def chat_of_base(context: BuildContext, base: Artifact, before: Artifact) -> dict[str, object] | None:
    """Return the rules, as `chat_of` says them, by which a base is asked that is not always today's, of which
    `before` is the evaluation: of another one its tokenizer says them. Raises UserError where that is gone.
    """
    if base.digest == before.inputs[BASE_MODEL.name]:
        return chat_of(before)
    return chat_rules(load_tokenizer(context.base_folder(base))) or None


def scores_in(payload: Path) -> list[dict[str, object]]:
    """Read scores.json of an evaluation's payload."""
    scores: list[dict[str, object]] = json.loads((payload / "scores.json").read_text("utf-8"))["scores"]
    return scores
