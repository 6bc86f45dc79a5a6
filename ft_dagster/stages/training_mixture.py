"""Makes the training examples: renders rows with the base's template, tokenizes, masks spans, and mixes them
unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from ft_dagster.data.mixture.cuts import Cut
from ft_dagster.data.mixture.mixture_figures import GENERAL, MixtureFigures
from ft_dagster.data.mixture.mixture_io import origins_of
from ft_dagster.data.rows.dataset_io import ORIGINS, paths_of, read_paths
from ft_dagster.data.rows.planted import FIGURE, FILE, Planted, seen_of
from ft_dagster.errors import UserError
from ft_dagster.planning.longest_example import longest_by_default
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.roots import is_address
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.data import GeneralSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stage_entries import (
    BASE_MODEL,
    BASE_TEXT,
    DECLARATION,
    EVALUATION_TEXTS,
    GENERAL_CORPUS,
    TASK_DATASET,
    TRAINING_MIXTURE,
    UNSAID_TOKENS,
    version_of,
)
from ft_dagster.stages import base_text, evaluation_texts, unsaid_tokens
from ft_dagster.stages.unsaid_tokens import refuse_said_tokens
from ft_dagster.store import Artifact, Attempt
from ft_dagster.strict_json import dumps
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, derived
from ft_dagster.workspace.rendered_prompts import OTHER_ROWS, end_of_turns, rendering_of
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace

SAMPLE, SHOWN, OVERLAPS = "sample.txt", "shown_rows.json", "overlaps.json"
RENDERED = (
    "objective",
    "data.general",
    "data.train_on",
    "data.reasoning",
    "data.chat_template_kwargs",
    "data.on_too_long",
    "data.samples",
    "training.seed",
)
GUARDED = (*RENDERED, "data.decontaminate")  # where general text must not overlap the evaluation


@dataclass(frozen=True)
class MixtureInputs:
    """Names the inputs. `max_length`: of an example, in tokens, as resolved. `general_corpus`: a corpus, or
    the text that the base wrote. `evaluation_texts`: what general text must not overlap; None where there is
    no general text, nothing is asked, or it may. `unsaid_tokens`: the check that new tokens of the base stand
    in no general task; None where there are none of either. `turn_end`, `rendering`: see `rendered_prompts`.
    """

    spec: VariantSpec
    task_dataset: Artifact
    base_model: Artifact
    general_corpus: Artifact | None
    evaluation_texts: Artifact | None
    max_length: Derived[int]
    unsaid_tokens: Artifact | None
    turn_end: Annotated[str | None, derived(OTHER_ROWS)] = None
    rendering: Annotated[str | None, derived(OTHER_ROWS)] = None


def inputs(view: View) -> MixtureInputs:
    spec, base, dataset = view.spec, view.upstream(BASE_MODEL.name), view.upstream(TASK_DATASET.name)
    general = spec.data.general
    longest = spec.training.max_length or view.by_bytes(lambda: longest_by_default(view.base_folder(base)))
    tasks = view.frozen("tasks")
    guarded = general is not None and spec.data.decontaminate.enabled and (tasks["task"] or tasks["general"])
    return MixtureInputs(
        narrowed(spec, GUARDED if guarded else RENDERED),
        dataset,
        base,
        None if general is None else _general_text(view, general),
        view.made(evaluation_texts.STAGE) if guarded else None,
        longest,
        view.made(unsaid_tokens.STAGE) if tasks["general"] and view.added_tokens(base) else None,
        view.by_bytes(lambda: end_of_turns(view, spec.data.train_on, dataset, base)),
        view.by_bytes(lambda: rendering_of(view, spec.data.render, dataset, base)),
    )


def _general_text(view: View, general: GeneralSpec) -> Artifact:
    return view.made(base_text.STAGE) if general.corpus is None else view.corpus(general.corpus)


def build(inputs: MixtureInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    from ft_dagster.data.mixture.cuts import write_cuts
    from ft_dagster.data.mixture.mixture import MixtureParts, build_mixture

    corpus, texts = inputs.general_corpus, inputs.evaluation_texts
    parts = MixtureParts(
        dataset=context.payload(inputs.task_dataset),
        base=context.base_folder(inputs.base_model),
        corpus=None if corpus is None else context.payload(corpus),
        evaluation_texts=None if texts is None else context.payload(texts) / evaluation_texts.TEXTS,
        paths=read_paths(context.evidence(inputs.task_dataset)),
        exchange=inputs.rendering is not None,
    )
    built = build_mixture(
        inputs.spec, parts, inputs.max_length, attempt.payload, context.say, declared_in=context.declared_in
    )
    write_cuts(built.cuts, attempt.evidence)
    if built.overlaps:
        text = dumps({"schema_version": 1, "corpus_rows": built.overlaps}, indent=1, sort_keys=True)
        (attempt.evidence / OVERLAPS).write_text(text + "\n", "utf-8")
    if inputs.spec.data.samples != "off" and built.sample is not None:
        (attempt.evidence / SAMPLE).write_text(built.sample, "utf-8")
        shown = dumps({"schema_version": 1, "rows": [row._asdict() for row in built.shown]})
        (attempt.evidence / SHOWN).write_text(f"{shown}\n", "utf-8")
    canaries = _canaries(inputs, context, attempt, built.cuts)
    return {**built.figures.to_json(), **canaries, **_records(inputs, context, attempt)}


def _canaries(
    inputs: MixtureInputs, context: BuildContext, attempt: Attempt, cuts: Sequence[Cut]
) -> dict[str, Any]:
    """Return which of the platform's canaries the mixture has whole, and how often, by their ids; nothing
    where its corpus has none.
    """
    from ft_dagster.data.mixture.cuts import IN_PART
    from ft_dagster.records.mixture_records import examples_by_row

    corpus, general = inputs.general_corpus, inputs.spec.data.general
    if corpus is None or general is None or not corpus.figures.get(FIGURE):
        return {}
    planted = Planted.read(context.payload(corpus) / general.name / FILE)
    counts = examples_by_row(attempt.payload, "train").get(f"{GENERAL}{general.name}", ())
    parted = {cut.row for cut in cuts if cut.reason == IN_PART and cut.source.startswith(GENERAL)}
    seen = seen_of(planted, lambda row: 0 if row in parted or row >= len(counts) else int(counts[row]))
    return {FIGURE: {"corpus": general.name, "seen": seen}}


def _records(inputs: MixtureInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
    """Return the figures of the record tree. Raises UserError where the data set or the corpus has none."""
    from ft_dagster.records.mixture_records import write_mixture_records
    from ft_dagster.records.sealed_rows import bind_records

    corpus = None if inputs.general_corpus is None else context.evidence(inputs.general_corpus)
    dataset = context.evidence(inputs.task_dataset)
    if not write_mixture_records(attempt.payload, attempt.evidence, dataset, corpus):
        raise UserError(
            "the data set or the corpus is older than record trees",
            fix="Materialize task_dataset and general_corpus first",
        )
    return {FIGURES: bind_records(attempt.evidence, context.record_keys).to_json()}


def judge(workspace: Workspace, artifact: Artifact) -> list[Check]:
    figures = MixtureFigures.of(artifact)
    sources, share = figures.train.by_source, figures.general_share
    paths = paths_of(workspace.spec)
    empty = [paths.get(source, source) for source, part in sources.items() if part.trained_tokens == 0]
    said = f"no trained tokens in {', '.join(empty)}" if empty else "every source is trained on"
    counted = {
        f"trained_tokens {paths.get(source, source)}": part.trained_tokens for source, part in sources.items()
    }
    return [
        Check("trained_tokens", not empty, said, counted),
        Check(
            "general_share",
            abs(share.realized - share.asked) <= 0.01,
            f"asked {share.asked:.1%}, realized {share.realized:.2%}",
            asdict(share),
        ),
        _own_records(workspace, artifact),
    ]


def _own_records(workspace: Workspace, artifact: Artifact) -> Check:
    """Check that the platform lets the tenant read today every origin that the evidence names."""
    file = workspace.evidence(artifact) / ORIGINS
    if not file.is_file():
        older = artifact.predicate["stage_version"] < version_of(artifact.place.stage)
        said = "older than the records of a mixture" if older else "nothing says what records it has"
        return Check("own_records", older, f"{said}: not judged")
    origins = origins_of(file)
    strange = [origin for origin in origins if not _is_open(workspace, *origin)]
    named = ", ".join(sorted({path for path, _ in strange}))
    said = (
        f"records of {named}, which {workspace.key.tenant} may not read" if strange else "none is another's"
    )
    return Check("own_records", not strange, said, {"files": len(origins)})


def _is_open(workspace: Workspace, path: str, file: str) -> bool:
    """Say whether the tenant may read what a record came from: a file, an object, or a data set of the
    hub.
    """
    if is_address(file):
        return workspace.roots.may_fetch(file)
    if file.startswith(f"{path}@"):
        return workspace.roots.may_ask_hub(path)
    return workspace.roots.may_read(workspace.project / file)


STAGE = Stage(
    TRAINING_MIXTURE,
    reads=(
        *(DECLARATION, BASE_MODEL, TASK_DATASET, GENERAL_CORPUS),
        *(EVALUATION_TEXTS, UNSAID_TOKENS, BASE_TEXT),
    ),
    fields=(*GUARDED, "data.render", "training.max_length"),
    inputs=inputs,
    build=build,
    checks={
        "trained_tokens": "Every source has tokens that carry a label: the loss mask is not silently empty",
        "general_share": "The realized share of general text is the one that was asked for",
        "own_records": "No record is another tenant's, but for sources that the platform shares",
    },
    judge=judge,
    after=refuse_said_tokens,
    seed=lambda inputs: inputs.spec.training.seed,
)
