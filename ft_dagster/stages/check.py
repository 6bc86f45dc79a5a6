"""Look at everything a declaration names before any work is done."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.data.base import resolve_base
from ft_dagster.data.chat_rules import chats
from ft_dagster.data.derived import check_adapter, parent_prefix, released_parent
from ft_dagster.data.load_report import unused_words
from ft_dagster.data.locations import DeclaredAt
from ft_dagster.data.new_tokens import check_tokens, pieces_of
from ft_dagster.data.render import load_tokenizer
from ft_dagster.data.rows import Row
from ft_dagster.data.sources import read_raw, read_rows
from ft_dagster.errors import UserError, UserErrors, all_of
from ft_dagster.evaluation.answer_scores import find_database
from ft_dagster.evaluation.power import texts_of_losses
from ft_dagster.evaluation.tasks import tasks_digest
from ft_dagster.lineage.release import production
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.spec.named import named_by
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.stages.policy import problems, unknown_targets
from ft_dagster.stages.rendering import notes_on_prompts
from ft_dagster.stages.workspace import Workspace

ROWS = 100
PARENT = "base_model.variant"


class CheckedBase(NamedTuple):
    """A base in words, and where it lies; None where it is a release that is not there yet."""

    said: str
    folder: Path | None = None


class Mistakes:
    """Errors gathered one after the other, so that one does not hide the next."""

    def __init__(self, file: Path, errors: Iterable[UserError] = ()) -> None:
        self.file = file
        self.errors = list(errors)

    @contextmanager
    def gathered(self, field: str) -> Iterator[None]:
        """Keep a UserError from inside; what the file system refuses is one of `field`."""
        try:
            yield
        except UserError as error:
            self.errors += [one for one in all_of(error) if str(one) not in map(str, self.errors)]
        except OSError as error:
            where = self.file if error.errno == errno.ENAMETOOLONG else error.filename or self.file
            fix = f"Check its permissions, or what {field} names"
            problem = f"cannot be read: {error.strerror or error}"
            self.errors.append(UserError(problem, file=where, field=field, fix=fix))

    def end(self) -> None:
        """Raises UserError where there was any mistake."""
        if self.errors:
            raise UserErrors.of(self.errors)


def check_variant(
    settings: Settings, key: VariantKey, declarations: Declarations | None = None
) -> dict[str, Any]:
    """Read a declaration, its base, corpus, tasks, database and the first rows of each source.

    Raises UserError for all mistakes at once: of a declaration that is invalid, those of what it names too.
    What the platform does not allow, and a gate that cannot hold, are mistakes as well. `warnings`: what is
    none, and is to be known before a run.
    """
    declarations = declarations or Declarations(settings.project)
    file, roots = declarations.file(key), settings.roots(key.tenant)
    found = Mistakes(file, declarations.errors(key))
    if not found.errors:
        declared = declarations.declared(key)
        found.errors += [*problems(settings, declared), *unknown_targets(settings, declared)]
    named = named_by(declarations.content(key))
    base, rows, tasks = CheckedBase(""), list[list[Row]](), set[str]()
    if named.base_model is not None and not any(one.field == PARENT for one in found.errors):
        with found.gathered("base_model"):
            base = _check_base(settings, key, file, named.base_model)
    if named.corpus is not None:
        _check_corpus(declarations, named.corpus, file, found)
    for role, entries in named.tasks.items():
        tasks |= _check_tasks(settings, key, role, entries, found)
    if named.database is not None:
        with found.gathered("evaluation.database"):
            find_database(named.database, settings.project, file, roots)
    for i, source in named.sources.items():
        field = f"data.sources[{i}]"
        with found.gathered(f"{field}.path"):
            asked = DeclaredAt(file, field, roots)
            rows.append(list(islice(read_rows(source, settings.project, asked), ROWS)))
    tokenizer, few, read = None, tuple[str, ...](), [row for part in rows for row in part]
    workspace = Workspace(settings, key, looking=True)
    if not found.errors:
        with found.gathered("base_model"):
            tokenizer = _tokenizer_of(read, base)
        with found.gathered("data.sources"):
            few = _few(workspace, base)
    found.end()
    longest = max(map(len, rows))
    seen = f"{len(read)} rows read" if longest < ROWS else f"the first {ROWS} rows of each source read"
    spec = declarations.declared(key).spec
    exchange = spec.data.render == "auto" and tokenizer is not None and chats(tokenizer)
    how = "; prompts with completions as one exchange in the base's chat template" if exchange else ""
    losses = _losses(spec)
    return {
        "base_model": base.said,
        "sources": len(rows),
        "tasks": sorted(tasks),
        "losses": losses,
        "summary": "; ".join([f"{base.said}, {len(rows)} sources, {len(tasks)} tasks", seen + how, *losses]),
        "warnings": [*notes_on_prompts(workspace, spec, read, tokenizer), *few],
    }


def _tokenizer_of(rows: list[Row], base: CheckedBase) -> Any | None:
    """Of the base, where rows may be rendered by its chat template; None without such rows, where it is not
    there yet, or where what renders them is not installed here.
    """
    if all(row.kind != "prompt_completion" for row in rows):
        return None
    if base.folder is None or find_spec("transformers") is None:
        return None
    return load_tokenizer(base.folder)


def _few(workspace: Workspace, base: CheckedBase) -> tuple[str, ...]:
    """See `foreseen`; nothing where the base is a release, or what renders rows is not installed here."""
    if base.folder is None or workspace.declared().spec.base_model.variant or not find_spec("transformers"):
        return ()
    from ft_dagster.stages.foreseen import foreseen

    return foreseen(workspace, base.folder)


def _losses(spec: VariantSpec) -> list[str]:
    """How many texts each loss that judges takes."""
    found = texts_of_losses(spec.gates, spec.evaluation, general=spec.data.general is not None)
    return [f"{loss.what} is judged by its loss, of {loss.least:,} texts or more" for loss in found]


def _check_corpus(declarations: Declarations, name: str, file: Path, found: Mistakes) -> None:
    corpus = None
    with found.gathered("data.general.corpus"):
        corpus = declarations.corpus(name, asked_by=file)
    for i, source in enumerate(corpus.sources if corpus else ()):
        asked = DeclaredAt(declarations.corpus_files()[name], f"sources[{i}]")
        with found.gathered(f"sources[{i}].path"):
            list(islice(read_raw(source, declarations.project, asked), ROWS))


def _check_tasks(
    settings: Settings, key: VariantKey, role: str, entries: tuple[str, ...], found: Mistakes
) -> set[str]:
    """The entries that are tasks; each is looked at, whatever is wrong with the others."""
    field, known, roots = f"evaluation.{role}", [], settings.roots(key.tenant)
    for entry in entries:
        with found.gathered(field):
            tasks_digest([entry], settings.project, field=field, asked_by=found.file, roots=roots)
            known.append(entry)
    with found.gathered(field):  # a name that stands twice
        tasks_digest(known, settings.project, field=field, asked_by=found.file, roots=roots)
    return set(known)


def _check_base(settings: Settings, key: VariantKey, file: Path, spec: BaseModelSpec) -> CheckedBase:
    """What training would start from; its new tokens are tried on its tokenizer."""
    store, cache = settings.open_store(), settings.cache_folder
    check_tokens(spec.new_tokens, file=file)
    if spec.variant is None:
        roots, listed = settings.roots(key.tenant), bool(settings.policies().of(key.tenant).bases)
        base = resolve_base(spec, settings.project, cache, declared_in=file, roots=roots, bound=listed)
        folder, said = base.folder, str(base.content["architecture"])
        said += f" ({unused_words(base.unused)})" if base.unused else ""
    elif production(store, parent_prefix(key, VariantKey.parse(spec.variant))) is None:
        return CheckedBase(f"starts from {spec.variant}, which is not released yet: run that first")
    else:
        parent = released_parent(store, key, spec, file=file)
        folder = parent.export.folder(store, cache) / "payload"
        if parent.mode != "whole":
            check_adapter(parent, folder, file=file)
        said = f"{parent.key} v{parent.version} ({parent.mode})"
    if spec.new_tokens:
        pieces_of(spec.new_tokens, load_tokenizer(folder), file=file)
        said += f" with {len(spec.new_tokens)} new tokens"
    return CheckedBase(said, folder)
