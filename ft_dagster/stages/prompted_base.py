"""Asks the base with 0, 4 and 8 examples of the training split in its prompt: how far it comes without a
training.

Asked on at most 100 rows of the validation split, or of the test split beside base and tuned model. It knows
of no plan, so that all plans of a data set share it, and so do a tenant's variants of equal data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from ft_dagster.data.rows.dataset_figures import DatasetFigures, formats_of
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.request import (
    EvaluationRequest,
    Examples,
    JudgedModel,
    QuestionsFile,
    SplitTask,
)
from ft_dagster.gate.prompted import COUNTS, EXAMPLES, MOST_ROWS, prompted_of
from ft_dagster.gate.samples import read_samples
from ft_dagster.model_files.weights import declared_ends
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stage_entries import ANSWERS_OF, BASE_MODEL, DECLARATION, PROMPTED_BASE, TASK_DATASET
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, File, Host, declared_as, derived
from ft_dagster.workspace.model_files import base_of
from ft_dagster.workspace.rendered_prompts import OTHER_ROWS, lead_of_answers, rendering_of
from ft_dagster.workspace.stage import Stage

Split = Literal["validation", "test"]
ASKED = (
    *("evaluation.max_new_tokens", "evaluation.kind", "evaluation.call_order", "evaluation.seed"),
    *("data.reasoning", "data.chat_template_kwargs"),
)


@dataclass(frozen=True)
class PromptedInputs:
    """Names the inputs. `rows`: asked at most. `counts`: numbers of examples. `rendering`, `lead`: as of
    `questions.OwnTask`, `ends`: as of the base's general scores. transformers answer, whatever engine a plan
    chooses.
    """

    base_model: Artifact
    task_dataset: Artifact
    spec: VariantSpec
    split: Split
    counts: tuple[int, ...]
    rows: Annotated[int, declared_as("evaluation.limit")]
    database: Annotated[File | None, declared_as("evaluation.database")]
    rendering: Derived[str | None]
    lead: Annotated[str | None, derived(OTHER_ROWS)]
    ends: Derived[list[int] | None]
    device: Host[str]
    dtype: Host[Dtype]


def inputs(view: View, split: Split = "validation") -> PromptedInputs:
    base, dataset, spec = view.upstream(BASE_MODEL.name), view.upstream(TASK_DATASET.name), view.spec
    rendering = view.by_bytes(lambda: rendering_of(view, spec.data.render, dataset, base))
    limit = None if split == "validation" else spec.evaluation.most
    return PromptedInputs(
        base,
        dataset,
        narrowed(spec, ASKED),
        split,
        COUNTS,
        MOST_ROWS if limit is None else min(MOST_ROWS, limit),
        questions.database_of(view, spec.evaluation.database),
        rendering,
        view.by_bytes(lambda: lead_of_answers(view, dataset, base, rendering)),
        view.by_bytes(lambda: sorted(set(declared_ends(view.base_folder(base)))) or None),
        view.device,
        view.dtype,
    )


def build(inputs: PromptedInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    """Take over the answers that another variant of the tenant has under this key; else ask."""
    known = context.past.made_beside(PROMPTED_BASE.name, attempt.place.key)
    if known is not None:
        context.say(f"{known.predicate['variant']} asked the same of this base: its answers are taken over")
        questions.take_over(context.payload(known).parent, known, attempt)
        return {ANSWERS_OF: known.place.key, **known.figures}
    figures = context.run("evaluation", attempt, lambda output: request(inputs, context, output))
    about = json.loads((attempt.evidence / EXAMPLES).read_text("utf-8"))
    kind = inputs.spec.evaluation.kind
    found = prompted_of(read_samples(attempt.payload), about, inputs.split, kind)
    return {**figures, **found.to_json()}


def request(inputs: PromptedInputs, context: BuildContext, output: Path) -> EvaluationRequest:
    """Return the evaluation program's run.json."""
    asked, data = inputs.spec.evaluation, context.payload(inputs.task_dataset)

    def file(path: Path) -> QuestionsFile:
        found = File.of(path)
        return QuestionsFile(path=found.path, sha256=found.sha256)

    return EvaluationRequest(
        schema_version=1,
        model=JudgedModel(base=base_of(inputs.base_model, context)),
        device="cuda" if inputs.device == "cuda" else "cpu",
        dtype=inputs.dtype,
        test_split_task=SplitTask(
            test=file(data / f"{inputs.split}.parquet"),
            max_new_tokens=asked.max_new_tokens,
            kind=asked.kind,
            call_order=asked.call_order,
            database=None if inputs.database is None else file(inputs.database.path),
            exchange=inputs.rendering is not None,
            examples=Examples(train=file(data / "train.parquet"), counts=inputs.counts),
        ),
        reasoning=inputs.spec.data.reasoning,
        chat_template_kwargs=inputs.spec.data.chat_template_kwargs,
        limit=inputs.rows,
        seed=asked.seed,
        project=context.project,
        roots=context.roots,
        declared_in=context.declared_in,
        output=output,
    )


def why_not(spec: VariantSpec, dataset: Artifact, split: Split = "validation") -> str | None:
    """Say why the base is not asked with examples; None where it is."""
    if spec.evaluation.task:
        return "evaluation.task asks questions of its own, before which num_fewshot puts examples"
    if formats_of(dataset) <= {"text"}:
        return "the rows are raw text, without questions"
    rows = DatasetFigures.of(dataset).rows
    return None if rows.get(split) else f"the {split} split has no rows"


STAGE = Stage(
    PROMPTED_BASE,
    reads=(DECLARATION, BASE_MODEL, TASK_DATASET),
    fields=(*ASKED, "evaluation.limit", "evaluation.database", "data.render"),
    inputs=inputs,
    build=build,
    asks=("made_beside",),
    seed=lambda inputs: inputs.spec.evaluation.seed,
    programs=("evaluation",),
)
ON_TEST = replace(STAGE, inputs=partial(inputs, split="test"))
