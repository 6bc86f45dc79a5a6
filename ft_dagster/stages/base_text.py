"""Has a base write general text by itself, for variants without a corpus; one for all who start from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.request import SampledRequest
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.spec.data import GeneralSpec
from ft_dagster.stage_entries import BASE_MODEL, BASE_TEXT
from ft_dagster.store import SHARED, Artifact, Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Host, declared_as
from ft_dagster.workspace.model_files import base_of
from ft_dagster.workspace.stage import Owner, Stage

TOKENS, SEED = 128, 0  # tokens of each text at most


@dataclass(frozen=True)
class BaseTextInputs:
    """Holds all that decides a text sampled from a base."""

    base_model: Artifact
    documents: Annotated[int, declared_as("data.general.texts")]
    tokens: int
    seed: int
    device: Host[str]
    dtype: Host[Dtype]


def inputs(view: View) -> BaseTextInputs:
    texts = (view.spec.data.general or GeneralSpec(sampled_from="base")).texts
    return BaseTextInputs(view.upstream(BASE_MODEL.name), texts, TOKENS, SEED, view.device, view.dtype)


def build(inputs: BaseTextInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    from ft_dagster.data.rows.corpus import write_written_origins
    from ft_dagster.records.sealed_rows import bind_records

    base = base_of(inputs.base_model, context)
    figures = context.run(
        "evaluation.sampled",
        attempt,
        lambda output: SampledRequest(
            base=base,
            documents=inputs.documents,
            tokens=inputs.tokens,
            seed=inputs.seed,
            device="cuda" if inputs.device == "cuda" else "cpu",
            dtype=inputs.dtype,
            output=output,
        ),
    )
    write_written_origins(attempt.payload, attempt.evidence)
    keys = context.shared_keys if attempt.place.prefix == SHARED else context.record_keys
    return {**figures, FIGURES: bind_records(attempt.evidence, keys).to_json()}


def owner(inputs: BaseTextInputs) -> Owner:
    """Return the owner: a tenant's own base is nobody else's."""
    return "shared" if inputs.base_model.place.prefix == SHARED else "variant"


STAGE = Stage(
    BASE_TEXT,
    reads=(BASE_MODEL,),
    fields=("data.general.texts",),
    inputs=inputs,
    build=build,
    owner=owner,
    programs=("evaluation.sampled",),
)
