"""Decides how a variant's rows are rendered by its base: what of it stands in keys, and only where it
applies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.rendering.chat_rules import ChatTraits, chat_traits
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.dataset_figures import formats_of
from ft_dagster.data.rows.rows import Row, said_of_seams
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.data.sources.formats import CONVERSATIONS
from ft_dagster.extras import of_train
from ft_dagster.program import write_json
from ft_dagster.provenance.findings import remembered
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import BASE_MODEL, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import Artifact
from ft_dagster.strict_json import loads
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.workspace import Workspace

FOLDER = "chat_traits"  # in the host's cache, a file a base
RENDERING, LEAD = "rendering", "task.lead"  # in the keys of a mixture, and of what is asked
OTHER_ROWS = "{stage} has its rows rendered otherwise than a run would"
EXCHANGE = "exchange"  # how prompts with completions are rendered where they are no plain text
# Of a base's name: what publishers call one that was trained to answer.
MADE_FOR_CHATS = re.compile(r"(?i)(?:^|[-_.])(?:instruct|chat|it)(?:[-_.]|$)")
REASONING = {
    "train": "data.reasoning: train, it is learned with its answer",
    "context": "data.reasoning: context, it is read and not learned",
    "drop": "data.reasoning: drop, it is left out",
}
_KNOWN: dict[Path, ChatTraits] = {}


def traits_of(context: BuildContext, base: Artifact) -> ChatTraits:
    """Return what the chat template of a base makes of rows; its tokenizer is loaded for it once on a host.
    Raises UserError.
    """
    return known_traits(context.cache, base) or _learned(context, base)


def known_traits(folder: Path, base: Artifact) -> ChatTraits | None:
    """Return the traits where this host knows them already: for whoever must load no tokenizer."""
    file = _file(folder, base)
    if file not in _KNOWN:
        try:
            _KNOWN[file] = ChatTraits(**loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
    return _KNOWN[file]


def rendering_of(context: BuildContext, render: str, dataset: Artifact, base: Artifact) -> str | None:
    """Return how prompts with completions are rendered; None where no row is one, or they are plain text.
    `render`: see `data.render`.
    """
    kinds = _kinds(context, dataset)  # also of plain ones: a look tells by it that they no longer are
    if render == "plain" or "prompt_completion" not in kinds:
        return None
    return EXCHANGE if traits_of(context, base).chats else None


def lead_of_answers(
    context: BuildContext, dataset: Artifact, base: Artifact, rendering: str | None
) -> str | None:
    """Return what the base's template writes before an answer of these rows; None where there is nothing, or
    none of them is a conversation. `rendering`: of prompts with completions.
    """
    if formats_of(dataset) <= {"text"}:
        return None
    lead = traits_of(context, base).lead
    return lead if lead and (rendering or has_conversations(context, dataset)) else None


def end_of_turns(context: BuildContext, train_on: str, dataset: Artifact, base: Artifact) -> str | None:
    """Return by what each trained answer of a conversation ends: None where the last alone is trained, or
    where the base's template marks it.
    """
    if train_on == "completions" or not has_conversations(context, dataset):
        return None
    return None if traits_of(context, base).ends else "eos"


def notes_on_prompts(
    workspace: Workspace, spec: VariantSpec, rows: Sequence[Row], tokenizer: KnownTokenizer | None
) -> list[str]:
    """Return what a person should know of how prompts with completions are rendered, by some of the rows.
    `tokenizer`: of the base; None: it is not known here.
    """
    reasoned = _of_reasoning(spec, rows)
    prompts = [row for row in rows if row.kind == "prompt_completion"]
    if not prompts:
        return reasoned
    plain = [
        *said_of_seams(sum(row.runs_together for row in prompts), len(prompts)),
        *_without_template(spec, len(prompts), len(rows), tokenizer),
    ]
    if spec.data.render == "plain":
        return [*plain, *reasoned]
    if tokenizer is None:
        return reasoned
    return [*(_of_exchanges(workspace, prompts, tokenizer) if tokenizer.chats else plain), *reasoned]


def _of_reasoning(spec: VariantSpec, rows: Sequence[Row]) -> list[str]:
    """Say what becomes of the reasoning of rows that have some."""
    having = sum(any('"reasoning_content":' in turn.more for turn in row.messages) for row in rows)
    if not having:
        return []
    done = REASONING[spec.data.reasoning or "train"]
    how = "declared" if spec.data.reasoning else "built in; a template that writes none refuses such rows"
    return [f"{having:,} of {len(rows):,} rows that were looked at have reasoning: {done} ({how})"]


def _without_template(
    spec: VariantSpec, prompts: int, rows: int, tokenizer: KnownTokenizer | None
) -> list[str]:
    """Warn that a base which was made for chats is taught without its template."""
    if tokenizer is None:
        return []
    said = f"{prompts:,} of {rows:,} rows that were looked at are prompts with completions"
    if tokenizer.chats:
        return [
            f"{said}, and plain text on a base that has a chat template: it learns them without the template "
            "that it answers chats in (data.render: plain)"
        ]
    source = (spec.base_model.source or "").rstrip("/").rpartition("/")[2]
    if not MADE_FOR_CHATS.search(source):
        return []
    return [
        f"{said}, and plain text: {source} is named as a base for chats, and no chat template is among its "
        "files. Put its chat_template.jinja there, or take the base that it was made from"
    ]


def _of_exchanges(workspace: Workspace, prompts: Sequence[Row], tokenizer: KnownTokenizer) -> list[str]:
    lines, held = list[str](), sum(tokenizer.holds_control_tokens(row) for row in prompts)
    if _were_plain(workspace):
        lines.append(
            "prompts with completions are one exchange in the base's chat template now, and were plain text "
            "in the newest mixture: a run trains again. "
            f"`ft-dagster upgrade --keep-rendering {workspace.key}` keeps them plain"
        )
    if held:
        lines.append(
            f"{held:,} of {len(prompts):,} prompts hold special tokens of the base, as what was rendered "
            "already does, and are rendered once more: data.render: plain takes them as they are"
        )
    return lines


def loses_plain_text(workspace: Workspace, render: str) -> bool:
    """Say whether prompts with completions of the newest mixture are plain text, and a run would render them
    as an exchange. `render`: see `data.render`. Raises UserError.
    """
    base, dataset = workspace.head(BASE_MODEL.name), workspace.head(TASK_DATASET.name)
    if base is None or dataset is None or not _were_plain(workspace):
        return False
    return rendering_of(workspace.context, render, dataset, base) is not None


def _were_plain(workspace: Workspace) -> bool:
    """Say whether the newest mixture has prompts with completions as plain text."""
    mixture, dataset = workspace.head(TRAINING_MIXTURE.name), workspace.head(TASK_DATASET.name)
    if mixture is None or dataset is None or mixture.spec.get(RENDERING):
        return False
    of_these = mixture.inputs[TASK_DATASET.name] == dataset.digest
    return of_these and "prompt_completion" in _kinds(workspace.context, dataset)


def has_conversations(context: BuildContext, dataset: Artifact) -> bool:
    """Say whether any row of a data set is a conversation: told by the formats of its sources, or by its
    rows, where these have prompts and completions, which may be lists of messages.
    """
    return bool(formats_of(dataset) & CONVERSATIONS) or "messages" in _kinds(context, dataset)


def _kinds(context: BuildContext, dataset: Artifact) -> set[str]:
    if "prompt_completion" not in formats_of(dataset):
        return set()

    def find() -> list[str]:
        files = (context.payload(dataset) / f"{split}.parquet" for split in SPLITS)
        batches = (batch for file in files for batch in rows_of(file, "DISTINCT kind"))
        return sorted({kind for batch in batches for (kind,) in batch})

    return set(remembered(context.cache, {"kinds": 1, "data set": dataset.digest}, find))


def _learned(context: BuildContext, base: Artifact) -> ChatTraits:
    folder, file = context.base_folder(base), _file(context.cache, base)
    with of_train():
        _KNOWN[file] = chat_traits(load_tokenizer(folder))
    with suppress(OSError):  # then it is learned again by the next process
        write_json(file, _KNOWN[file]._asdict())
    return _KNOWN[file]


def _file(folder: Path, base: Artifact) -> Path:
    """Return the file that remembers the traits, by what a template is rendered with, too."""
    return folder / FOLDER / f"{base.digest}-{_transformers()}.json"


@cache
def _transformers() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return "none"
