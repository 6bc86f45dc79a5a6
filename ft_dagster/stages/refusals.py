"""Asks a model what must be refused, and what must not: the base once for all variants, and the tuned model.

Made where `gates.refusals` is declared. Both are parts of the key of `evaluation` that only say how it is
judged, so that no other question is asked again where they are declared later.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import expected_of
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.refusal_prompts import FIELD, prompts_file
from ft_dagster.evaluation.request import (
    BaseFiles,
    EvaluationRequest,
    JudgedModel,
    QuestionsFile,
    TunedWeights,
)
from ft_dagster.model_files.weights import declared_ends
from ft_dagster.spec.variant import RefusalsSpec
from ft_dagster.stage_entries import BASE_MODEL, BASE_REFUSALS, FINE_TUNED_MODEL, REFUSALS
from ft_dagster.store import SHARED, Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, File, Host, declared_as, derived, recorded
from ft_dagster.workspace.model_files import base_of, weights_of
from ft_dagster.workspace.stage import Owner, Stage
from ft_dagster.workspace.workspace import Workspace

FIELDS = ("gates.refusals",)


@dataclass(frozen=True)
class BaseRefusalsInputs:
    """Names the inputs. `withheld`, `ends`: as of the base's general scores. `own`: whether the tenant may
    write the prompts, which then are nobody else's.
    """

    base_model: Artifact
    prompts: Annotated[File, declared_as(FIELD)]
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    withheld: Annotated[list[int] | None, derived("the base was asked with the tokens that were added to it")]
    ends: Derived[list[int] | None]
    own: bool = recorded(default=False)


@dataclass(frozen=True)
class RefusalsInputs:
    """Names the inputs."""

    base_model: Artifact
    fine_tuned_model: Artifact
    prompts: Annotated[File, declared_as(FIELD)]
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine


def declared_prompts(view: View) -> tuple[File, bool]:
    """Return the declared prompts, and whether the tenant may write them. Raises UserError where none are
    declared, or they cannot be asked.
    """
    declared = view.spec.gates.refusals
    if declared is None:
        raise UserError("no refusals are judged", field="gates.refusals", fix="Declare gates.refusals")
    file = prompts_file(declared, view.project, view.declared_in, view.roots)
    return File.of(file), declared.prompts is not None and view.roots.is_own(file)


def refuse_no_prompts(workspace: Workspace) -> None:
    """Raises UserError where prompts are declared that cannot be asked."""
    declared: RefusalsSpec | None = workspace.spec.gates.refusals
    if declared is not None:
        prompts_file(declared, workspace.project, workspace.declared_in, workspace.roots)


def base_inputs(view: View) -> BaseRefusalsInputs:
    base, (prompts, own) = view.upstream(BASE_MODEL.name), declared_prompts(view)
    added = [] if base.place.prefix == SHARED else view.added_token_ids(base)
    ends = view.by_bytes(lambda: sorted(set(declared_ends(view.base_folder(base)))) or None)
    return BaseRefusalsInputs(base, prompts, view.device, view.dtype, view.engine, added or None, ends, own)


def inputs(view: View) -> RefusalsInputs:
    base, tuned = view.upstream(BASE_MODEL.name), view.upstream(FINE_TUNED_MODEL.name)
    prompts, _ = declared_prompts(view)
    return RefusalsInputs(base, tuned, prompts, view.device, view.dtype, view.engine)


def build_base(inputs: BaseRefusalsInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    base, withheld = base_of(inputs.base_model, context), tuple(inputs.withheld or ())
    asked = PromptsToRefuse(base, None, inputs.prompts, inputs.device, inputs.dtype, inputs.engine, withheld)
    return asked.ask(context, attempt)


def build(inputs: RefusalsInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    base, weights = base_of(inputs.base_model, context), weights_of(inputs.fine_tuned_model, context)
    asked = PromptsToRefuse(base, weights, inputs.prompts, inputs.device, inputs.dtype, inputs.engine)
    return asked.ask(context, attempt)


@dataclass(frozen=True)
class PromptsToRefuse:
    """Describes one run of the evaluation program that asks these prompts alone."""

    base: BaseFiles
    tuned: TunedWeights | None
    prompts: File
    device: str
    dtype: Dtype
    engine: Engine
    withheld: tuple[int, ...] = ()

    def ask(self, context: BuildContext, attempt: Attempt, *, into: Path | None = None) -> dict[str, Any]:
        """Run the program into the attempt, or into the folder `into`; returns its figures. Raises UserError
        where it says that it measured anything else.
        """
        figures = context.run("evaluation", attempt, lambda output: self.request(context, output), into=into)
        expected = expected_of(self.request(context, attempt.folder)).to_json()
        questions.check_measured(figures, expected)
        return figures

    def request(self, context: BuildContext, output: Path) -> EvaluationRequest:
        """Return the evaluation program's run.json."""
        return EvaluationRequest(
            schema_version=1,
            model=JudgedModel(base=self.base, tuned=self.tuned),
            device="cuda" if self.device == "cuda" else "cpu",
            dtype=self.dtype,
            vllm=self.engine.python,
            withheld=self.withheld,
            refusals=QuestionsFile(path=self.prompts.path, sha256=self.prompts.sha256),
            project=context.project,
            roots=context.roots,
            declared_in=context.declared_in,
            output=output,
        )


def owner(inputs: BaseRefusalsInputs) -> Owner:
    """Return the owner: a tenant's own base, or its own prompts, are nobody else's."""
    return "shared" if inputs.base_model.place.prefix == SHARED and not inputs.own else "variant"


OF_BASE = Stage(
    BASE_REFUSALS,
    reads=questions.READS,
    fields=FIELDS,
    inputs=base_inputs,
    build=build_base,
    owner=owner,
    programs=("evaluation",),
)
STAGE = Stage(
    REFUSALS,
    reads=(*questions.READS, FINE_TUNED_MODEL),
    fields=FIELDS,
    inputs=inputs,
    build=build,
    programs=("evaluation",),
)
