"""Reads the texts of the declared evaluation tasks once for all variants that declare them."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.stage_entries import DECLARATION, EVALUATION_TEXTS
from ft_dagster.store import Artifact, Attempt, find_artifact
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace

TEXTS = "texts.parquet"


@dataclass(frozen=True)
class TextsInputs:
    """Names the inputs. `tasks`: the digest of each declared task."""

    tasks: dict[str, str]


def inputs(view: View) -> TextsInputs:
    tasks = view.frozen("tasks")
    return TextsInputs({**tasks["task"], **tasks["general"]})


def build(inputs: TextsInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    return context.run(
        "evaluation.tasks.texts",
        attempt,
        lambda output: TextsRequest(
            tasks=inputs.tasks, project=context.project, roots=context.roots, output=output
        ),
        leased=False,
    )


def read_for(workspace: Workspace) -> Artifact | None:
    """Return what was read of the tasks that are declared now; None where they were not read yet."""
    return find_artifact(workspace.store, workspace.recipe(STAGE)[0].place)


STAGE = Stage(
    EVALUATION_TEXTS,
    reads=(DECLARATION,),
    fields=(),
    inputs=inputs,
    build=build,
    owner=lambda inputs: "shared",
    programs=("evaluation.tasks.texts",),
)
