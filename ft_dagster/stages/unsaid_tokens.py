"""Checks that tokens which were added to a base stand in nothing general that it is asked.

The base with its new tokens is what a model is judged against. What it reads otherwise than it learned to, it
answers worse, and what the model forgot of it would not be seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.mixture.mixture_io import HOLDOUT
from ft_dagster.data.rendering.new_tokens import refuse_said
from ft_dagster.evaluation.degeneration import PLAIN
from ft_dagster.evaluation.request import UnsaidRequest
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, UNSAID_TOKENS
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace


@dataclass(frozen=True)
class UnsaidInputs:
    """Names the inputs. `tokens`: the added ones. `general`: the digest of each general task. `num_fewshot`:
    declared.
    """

    tokens: list[str]
    general: dict[str, str]
    num_fewshot: int | None = None


def inputs(view: View) -> UnsaidInputs:
    tokens, general = view.added_tokens(view.upstream(BASE_MODEL.name)), view.frozen("tasks")["general"]
    return UnsaidInputs(tokens, general, view.spec.evaluation.num_fewshot)


def build(inputs: UnsaidInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    figures = context.run(
        "evaluation.tasks.unsaid",
        attempt,
        lambda output: UnsaidRequest(
            tokens=tuple(inputs.tokens), tasks=inputs.general, project=context.project, roots=context.roots,
            num_fewshot=inputs.num_fewshot, declared_in=context.declared_in, output=output,
        ),
        leased=False,
    )  # fmt: skip
    content = {"schema_version": 1, "tokens": inputs.tokens, "tasks": inputs.general, **figures}
    (attempt.payload / "tokens.json").write_text(json.dumps(content, indent=1, sort_keys=True), "utf-8")
    return figures


def refuse_said_tokens(workspace: Workspace, mixture: Artifact) -> None:
    """Raises UserError where a token that was added to the base stands in the held-out general text of a
    mixture, in a general prompt, or in what a general task asks.
    """
    tokens = workspace.context.added_tokens(workspace.upstream(BASE_MODEL.name))
    file = workspace.declared_in
    if not tokens:
        return
    held_out = workspace.payload(mixture) / HOLDOUT / "texts.parquet"
    if held_out.exists():
        texts = (text for batch in rows_of(held_out, "text") for (text,) in batch)
        refuse_said(tokens, texts, "held-out general texts", file)
    if workspace.spec.gates.degeneration_margin is not None:
        refuse_said(tokens, map(PLAIN.format, PROMPTS), "general prompts", file)
    if workspace.frozen["tasks"]["general"]:
        workspace.make(STAGE)


STAGE = Stage(
    UNSAID_TOKENS,
    reads=(DECLARATION, BASE_MODEL),
    fields=("evaluation.num_fewshot",),
    inputs=inputs,
    build=build,
    programs=("evaluation.tasks.unsaid",),
)
