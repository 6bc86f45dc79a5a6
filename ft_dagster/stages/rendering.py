"""How a variant's rows are rendered by its base: what of it stands in keys, and only where it applies."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ft_dagster.data.chat_rules import ChatTraits, chat_traits
from ft_dagster.data.formats import CONVERSATIONS
from ft_dagster.data.parquet import rows_of
from ft_dagster.data.render import load_tokenizer
from ft_dagster.data.splits import SPLITS
from ft_dagster.extras import of_train
from ft_dagster.program import write_json
from ft_dagster.spec import VariantSpec
from ft_dagster.stages.workspace import Desk
from ft_dagster.store import Artifact
from ft_dagster.strict_json import loads

FOLDER = "chat_traits"  # in the host's cache, a file a base
LEAD, TURN_END = "task.lead", "turn_end"  # in the keys of what is asked, and of a mixture
ASKED_ROWS = ("base_evaluation", "evaluation")
_KNOWN: dict[Path, ChatTraits] = {}


def traits_of(desk: Desk, base: Artifact) -> ChatTraits:
    """What the chat template of a base makes of rows; its tokenizer is loaded for it once on a host. Raises
    UserError.
    """
    return known_traits(desk.cache, base) or _learned(desk, base)


def known_traits(cache: Path, base: Artifact) -> ChatTraits | None:
    """The same, where this host knows them already: for whoever must load no tokenizer."""
    file = _file(cache, base)
    if file not in _KNOWN:
        try:
            _KNOWN[file] = ChatTraits(**loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
    return _KNOWN[file]


def lead_of_answers(desk: Desk, dataset: Artifact, base: Artifact) -> str | None:
    """What the base's template writes before an answer of these rows; None where there is nothing, or none of
    them is a conversation.
    """
    if _formats(dataset) <= {"text"}:
        return None
    lead = traits_of(desk, base).lead
    return lead if lead and has_conversations(desk, dataset) else None


def end_of_turns(desk: Desk, train_on: str, dataset: Artifact, base: Artifact) -> str | None:
    """By what each trained answer of a conversation ends: None where the last alone is trained, or where the
    base's template marks it.
    """
    if train_on == "completions" or not has_conversations(desk, dataset):
        return None
    return None if traits_of(desk, base).ends else "eos"


def rendered_otherwise(desk: Desk, spec: VariantSpec, made: Mapping[str, Artifact]) -> list[str]:
    """Of a variant's newest artifacts by stage, the stages of those that older code made with its rows
    rendered otherwise than a run would now. Raises UserError.
    """
    base, dataset = made.get("base_model"), made.get("task_dataset")
    if base is None or dataset is None:
        return []
    mixture, lead, found = made.get("training_mixture"), lead_of_answers(desk, dataset, base), []
    if mixture and mixture.spec.get(TURN_END) != end_of_turns(desk, spec.data.train_on, dataset, base):
        found.append("training_mixture")
    for stage in ASKED_ROWS:
        asked = made.get(stage)
        if asked and "task.test" in asked.inputs and asked.spec.get(LEAD) != lead:
            found.append(stage)
    return found


def has_conversations(desk: Desk, dataset: Artifact) -> bool:
    """Whether any row of a data set is one: told by the formats of its sources, or by its rows, where these
    have prompts and completions, which may be lists of messages.
    """
    return bool(_formats(dataset) & CONVERSATIONS) or "messages" in _kinds(desk, dataset)


def _formats(dataset: Artifact) -> set[str]:
    return set(dataset.figures["formats"].values())


def _kinds(desk: Desk, dataset: Artifact) -> set[str]:
    if "prompt_completion" not in _formats(dataset):
        return set()
    files = (desk.payload(dataset) / f"{split}.parquet" for split in SPLITS)
    return {kind for file in files for batch in rows_of(file, "DISTINCT kind") for (kind,) in batch}


def _learned(desk: Desk, base: Artifact) -> ChatTraits:
    folder, file = desk.base_folder(base), _file(desk.cache, base)
    with of_train():
        _KNOWN[file] = chat_traits(load_tokenizer(folder))
    with suppress(OSError):  # then it is learned again by the next process
        write_json(file, _KNOWN[file]._asdict())
    return _KNOWN[file]


def _file(cache: Path, base: Artifact) -> Path:
    """By what a template is rendered with, too."""
    try:
        renders = version("transformers")
    except PackageNotFoundError:
        renders = "none"
    return cache / FOLDER / f"{base.digest}-{renders}.json"
