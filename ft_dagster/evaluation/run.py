"""Runs one evaluation: every declared question put to one loaded model, one row for each answer's score."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ft_dagster.data.rendering.chat_form import note_chat, options_of
from ft_dagster.data.rendering.chat_rules import chat_rules
from ft_dagster.errors import UserError
from ft_dagster.evaluation.degeneration import answered, as_samples, rows_to_ask
from ft_dagster.evaluation.models.arithmetic import GENERATION_TOKENS
from ft_dagster.evaluation.planned_task import PlannedTask, answer_of, samples_of
from ft_dagster.evaluation.progress import EvaluationProgress
from ft_dagster.evaluation.refusal_prompts import FIELD, NEW_TOKENS, RefusalPrompt, read_prompts
from ft_dagster.evaluation.request import EvaluationRequest
from ft_dagster.evaluation.tasks.left_out import drawn_of, read_left_out, without
from ft_dagster.evaluation.tasks.load import TABLES, LoadedTask, load_task, shots_of
from ft_dagster.evaluation.tasks.tasks import TaskEntry
from ft_dagster.gate.answer_scores import label_scores
from ft_dagster.gate.gates import Referee
from ft_dagster.gate.judged_by import Opponent
from ft_dagster.gate.prompted import EXAMPLES, examples_task
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.gate.refusals.refusals import Answered, write_answered
from ft_dagster.gate.samples import (
    GENERAL_PROMPTS,
    GENERAL_TEXT,
    LABELS,
    REFUSALS,
    TEST_SPLIT_TASK,
    Answer,
    Role,
    Sample,
    label_aggregates,
    samples_in,
    write_answers,
    write_samples,
    write_scores,
)
from ft_dagster.gate.sampling import order_of_asking
from ft_dagster.gate.sequential_looks import IN_BATCHES, Order, batches
from ft_dagster.program import write_json
from ft_dagster.provenance.held import FOLDER
from ft_dagster.spec.data import MOST_HELD_OUT

if TYPE_CHECKING:
    pass


def evaluate(request: EvaluationRequest, entries: dict[Role, tuple[TaskEntry, ...]]) -> dict[str, Any]:
    """Answer everything that `request` asks, write payload and evidence, and return the run's figures.

    `entries`: the resolved tasks by role. Raises UserError, in any case before a long computation.
    """
    started = time.monotonic()
    declared = list(_declared(entries, request))
    if not declared and not _asks_the_model(request):
        _write(request, [], [], [])
        return {"questions": 0, "seconds": 0.0}
    from ft_dagster.evaluation.models.model import load_judged, withhold

    EvaluationProgress.loads(request.output)
    base, tuned = request.model.base.folder, request.model.tuned
    weights = None if tuned is None else tuned.folder
    model, tokenizer, difference = load_judged(base, weights, device=request.device, dtype=request.dtype)
    withhold(model, request.withheld)
    note_chat(tokenizer, options_of(request))
    rules = chat_rules(tokenizer)
    with _answering(request, model, tokenizer) as (lm, engine):
        loaded = time.monotonic()
        questions = _ask_everything(request, lm, declared)
    figures = {
        "questions": questions,
        "seconds": round(time.monotonic() - loaded, 3),
        "load_seconds": round(loaded - started, 3),
        "engine": engine,
        **({"chat": rules} if rules else {}),
    }
    return figures if difference is None else {**figures, "tuned_logit_difference": difference}


@contextmanager
def _answering(request: EvaluationRequest, model: Any, tokenizer: Any) -> Iterator[tuple[Any, str]]:
    """Yield what answers for a loaded model, and its name with its version."""
    if request.vllm is None:
        from ft_dagster.evaluation.models.model import TokenBatchedLM

        yield TokenBatchedLM(model, tokenizer), f"transformers {version('transformers')}"
        return
    from ft_dagster.evaluation.models.vllm_model import answered_by_vllm

    tuned = request.model.tuned
    by_vllm = answered_by_vllm(
        request.vllm,
        model,
        tokenizer,
        base=request.model.base.folder,
        tuned=None if tuned is None else tuned.folder,
        dtype=request.dtype,
        scratch=request.output / FOLDER / "vllm",
    )
    with by_vllm as (lm, said):
        yield lm, f"vllm {said}"


def _ask_everything(request: EvaluationRequest, lm: Any, declared: Sequence[PlannedTask]) -> int:
    """Write payload and evidence, and return how many questions were asked."""
    own = [
        *_own(request, lm),
        *_prompted(request, lm),
        *_probes(request, lm),
        *_told_apart(request, lm),
        *_planted(request, lm),
    ]
    prompts = len(PROMPTS) if request.general_prompts else 0
    refusals = () if request.refusals is None else read_prompts(request.refusals.path)
    questions = sum(each.questions for each in (*own, *declared))
    progress = EvaluationProgress(request.output, prompts + len(refusals) + questions)
    if request.general_prompts:
        lm.beside = rows_to_ask(lm.tokenizer)
    samples: list[Sample] = []
    answers: list[Answer] = []
    labels: list[tuple[str, str]] = []
    referee = referee_of(request)
    for several in _groups(own, declared, request):
        found = _ask_all(lm, several, request, referee, progress)
        samples += [sample for rows, _ in found for sample in rows]
        answers += [answer for _, answer in found]
        labels += _labels(request, found)
    if request.general_prompts:
        progress.start(GENERAL_PROMPTS, prompts)
        found = as_samples(answered(lm.tokenizer, lm.written_beside()))
        samples += [sample for rows, _ in found for sample in rows]
        answers += [answer for _, answer in found]
    if refusals:
        progress.start(REFUSALS, len(refusals))
        answers += _ask_refusals(lm, refusals, request, progress)
    progress.end()
    _write(request, samples, answers, labels)
    return progress.total


def _ask_refusals(
    lm: Any, prompts: Sequence[RefusalPrompt], request: EvaluationRequest, progress: EvaluationProgress
) -> list[Answer]:
    """Ask what must be refused and what must not be; write the answers into the payload, and return them.
    Raises UserError for a prompt that the model has no room for.
    """
    lm.on_progress = progress.advance
    asked = [prompt.prompt for prompt in prompts]
    rows = rows_to_ask(lm.tokenizer, asked, NEW_TOKENS)
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row.prompt) + NEW_TOKENS > lm.max_length:
            raise UserError(
                f"the prompt takes {len(row.prompt):,} tokens, and the model {lm.max_length:,} with its "
                "answer",
                file=request.declared_in,
                field=FIELD,
                value=prompt.id,
                fix="Shorten it, or leave it out",
            )
    written = answered(lm.tokenizer, lm.write(rows), asked)
    both = list(zip(prompts, written, strict=True))
    found = [Answered(*prompt, each.answer, each.degenerate) for prompt, each in both]
    write_answered(found, request.output / "payload")
    return [
        Answer(REFUSALS, each.kind, f"{each.kind}:{each.id}", each.prompt, "", each.answer) for each in found
    ]


def _groups(
    own: Sequence[PlannedTask], declared: Sequence[PlannedTask], request: EvaluationRequest
) -> list[list[PlannedTask]]:
    """Group what is asked in one go: all of the variant's own, whose answers are written in common
    batches.
    """
    if request.limit == "auto" or not own or _has_examples(request):
        return [[each] for each in (*own, *declared)]
    return [list(own), *([each] for each in declared)]


def _asks_the_model(request: EvaluationRequest) -> bool:
    """Say whether anything beside declared tasks is asked."""
    parts = (
        request.test_split_task,
        request.general_holdout,
        request.regurgitation,
        request.membership,
        request.planted,
        request.refusals,
    )
    return request.general_prompts or any(part is not None for part in parts)


def _write(
    request: EvaluationRequest,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    labels: Sequence[tuple[str, str]],
) -> None:
    write_samples(samples, request.output / "payload")
    write_scores(samples, request.output / "payload", label_aggregates(labels))
    write_answers(answers, request.output / "evidence")
    if labels:
        table = [score._asdict() for score in label_scores(labels)]
        write_json(request.output / "evidence" / LABELS, {"schema_version": 1, "labels": table})


def _labels(
    request: EvaluationRequest, found: Sequence[tuple[list[Sample], Answer]]
) -> list[tuple[str, str]]:
    """Return (answer, reference) of each question of the own task whose answer is a label."""
    asked = request.test_split_task
    if asked is None or asked.kind != "label" or asked.examples is not None:
        return []
    return [
        (answer.answered, answer.expected)
        for samples, answer in found
        if answer.role == "test_split_task" and samples[0].metric == "exact_match"
    ]


def _declared(
    entries: dict[Role, tuple[TaskEntry, ...]], request: EvaluationRequest
) -> Iterator[PlannedTask]:
    left_out = read_left_out(request)
    for role, tasks in entries.items():
        for entry in tasks:
            loaded = load_task(entry, request.output / FOLDER / TABLES)
            asked = without(loaded.questions, left_out.get(entry.name), entry.entry)
            chosen = drawn_of(loaded.questions, asked, request.most, request.seed, beyond=request.choosing)
            if not chosen and request.choosing and role == "general":
                continue
            if not chosen:
                raise _no_questions(request, role, entry)
            parts = {name: part for name, part in loaded.parts.items() if name in chosen}
            _configure(LoadedTask(entry, parts), request)
            grouped = entry.file is not None
            yield PlannedTask(role, entry.name, parts, chosen, loaded.questions, grouped)


def _no_questions(request: EvaluationRequest, role: Role, entry: TaskEntry) -> UserError:
    problem, fix = "the task has no questions", "Check its data and split, or declare another task"
    if request.choosing:
        problem = "the task has no questions beyond those that judge, by which an experiment could choose"
        fix = "Declare an evaluation.limit of at most half its questions, or a task with more of them"
    field = f"evaluation.{role}"
    return UserError(problem, file=request.declared_in, field=field, value=entry.entry, fix=fix)


def _configure(loaded: LoadedTask, request: EvaluationRequest) -> None:
    for part in loaded.parts.values():
        if getattr(part, "UNSAFE_CODE", False) or part.get_config("unsafe_code"):
            raise UserError(
                "the task runs code that the model wrote",
                value=loaded.entry.entry,
                fix="Declare another task",
            )
        part.set_config("num_fewshot", shots_of(part, request.num_fewshot))
        part.set_fewshot_seed(seed=request.seed)


def _own(request: EvaluationRequest, lm: Any) -> list[PlannedTask]:
    """Return the variant's own test split and the held-out general texts, where they are asked for."""
    if request.test_split_task is None and request.general_holdout is None:
        return []
    from ft_dagster.evaluation.tasks.own_split import general_text_task, test_split_tasks

    tokenizer, limit, seed = lm.tokenizer, request.most, request.seed
    asked: list[PlannedTask] = []
    if request.test_split_task is not None and not _has_examples(request):
        tasks = test_split_tasks(
            request.test_split_task, tokenizer, limit=limit, seed=seed, max_length=lm.max_length
        )
        asked.append(
            PlannedTask("test_split_task", TEST_SPLIT_TASK, {task.config.task: task for task in tasks}, None)
        )
    if request.general_holdout is not None:
        texts = None if limit is None else max(limit, MOST_HELD_OUT)
        text = general_text_task(request.general_holdout.path, tokenizer, limit=texts, seed=seed)
        asked.append(PlannedTask("general_loss", GENERAL_TEXT, {text.config.task: text}, None))
    return asked


def _has_examples(request: EvaluationRequest) -> bool:
    return request.test_split_task is not None and request.test_split_task.examples is not None


def _prompted(request: EvaluationRequest, lm: Any) -> list[PlannedTask]:
    """Return the variant's own rows with examples before each, where they are asked for: a task for each
    number of examples. How they were chosen is written beside the answers.
    """
    own = request.test_split_task
    if own is None or own.examples is None:
        return []
    from ft_dagster.evaluation.tasks.prompted import prompted_tasks

    # Before a training some 15 CPU seconds may be spent, at 135M parameters.
    batch = GENERATION_TOKENS["cpu"] // 2 if request.device == "cpu" else math.inf
    found = prompted_tasks(
        own,
        own.examples,
        lm.tokenizer,
        limit=request.most,
        seed=request.seed,
        max_length=lm.max_length,
        batch=batch,
    )
    write_json(request.output / "evidence" / EXAMPLES, found.to_json())
    return [
        PlannedTask("test_split_task", examples_task(count), {task.config.task: task}, None)
        for count, task in found.tasks.items()
    ]


def _probes(request: EvaluationRequest, lm: Any) -> list[PlannedTask]:
    """Return the training rows and planted strings that the model may repeat, where they are asked for."""
    probed = request.regurgitation
    if probed is None:
        return []
    from ft_dagster.evaluation.regurgitation import probes

    tasks = probes(
        probed.train.path,
        lm.tokenizer,
        rows=probed.rows,
        canaries=probed.canaries,
        seed=request.seed,
        max_length=lm.max_length,
        exchange=probed.exchange,
    )
    return [PlannedTask("regurgitation", name, {name: task}, None) for name, task in tasks.items()]


def _told_apart(request: EvaluationRequest, lm: Any) -> list[PlannedTask]:
    """Return rows trained on and rows held out, for their losses, where they are asked for."""
    if request.membership is None:
        return []
    from ft_dagster.evaluation.membership import membership_tasks

    found = membership_tasks(request.membership, lm.tokenizer, max_length=lm.max_length)
    return [
        PlannedTask("membership", name, {task.config.task: task for task in tasks}, None)
        for name, tasks in found.items()
    ]


def _planted(request: EvaluationRequest, lm: Any) -> list[PlannedTask]:
    """Return the platform's canaries, where they are asked for."""
    if request.planted is None:
        return []
    from ft_dagster.evaluation.canaries import canary_tasks

    found = canary_tasks(request.planted.path, lm.tokenizer, max_length=lm.max_length)
    return [
        PlannedTask("platform_canaries", name, {task.config.task: task for task in tasks}, None)
        for name, tasks in found.items()
    ]


def referee_of(request: EvaluationRequest) -> Referee | None:
    """Return the referee that ends the asking of a task; None: all is asked. Raises UserError where the
    samples are gone.
    """
    until = request.until
    if until is None:
        return None
    before = samples_in(until.before.path)
    order = Order.of(before, request.seed)
    judges = Opponent(until.objective, until.against, until.release)
    return Referee(before, until.gates, order, until.tries, judges)


def _ask_all(
    lm: Any,
    several: Sequence[PlannedTask],
    request: EvaluationRequest,
    referee: Referee | None,
    progress: EvaluationProgress,
) -> list[tuple[list[Sample], Answer]]:
    """Return the scores and answers of tasks; batch after batch where that is asked for, until `referee` ends
    it.

    The batches are the same whoever is asked, so that examples before a question are drawn alike.
    """
    asked = several[0]
    if request.limit != "auto" or asked.role not in IN_BATCHES:
        progress.start(", ".join(each.task for each in several), sum(each.questions for each in several))
        chosen = {name: which for each in several for name, which in (each.chosen or {}).items()}
        return list(_ask(lm, several, chosen, progress))
    order = order_of_asking(list(asked.places), request.seed)
    found: list[tuple[list[Sample], Answer]] = []
    done = 0
    for count in batches(len(order)):
        progress.start(asked.task, count - done)
        found += _ask(lm, several, asked.batch(order[done:count]), progress)
        done = count
        so_far = [sample for samples, _ in found for sample in samples]
        if referee is not None and referee.decided((asked.role, asked.task), so_far):
            break
    progress.leave_out(len(order) - done)
    return found


def _ask(
    lm: Any,
    several: Sequence[PlannedTask],
    documents: Mapping[str, Sequence[int]],
    progress: EvaluationProgress,
) -> Iterator[tuple[list[Sample], Answer]]:
    """Yield each question's scores, and its answer in words. `documents`: which of which parts; none: all."""
    from lm_eval.evaluator import evaluate as lm_evaluate

    parts = {
        name: part
        for asked in several
        for name, part in asked.parts.items()
        if not documents or name in documents
    }
    kinds = len({part.OUTPUT_TYPE for part in parts.values()})  # each is handed to the model at once
    finished = 0.0

    def advance(share: float) -> None:
        nonlocal finished
        progress.advance((finished + share) / kinds)
        finished += share >= 1.0

    lm.on_progress = advance
    # lm-eval looks each index up in a list: over all of a large task, asking for none is far quicker.
    drawn = {
        name: indices for name, indices in documents.items() if len(indices) < len(parts[name].eval_docs)
    }
    logged = lm_evaluate(
        lm=lm, task_dict={"tasks": parts}, samples=drawn, bootstrap_iters=0, log_samples=True
    )["samples"]
    for asked in several:
        for name in filter(parts.__contains__, asked.parts):
            part = parts[name]
            for row in logged[name]:
                samples = samples_of(asked, name, part, row)
                yield samples, answer_of(asked, name, part, row, [s.metric for s in samples])
