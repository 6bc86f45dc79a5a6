"""Look at everything a declaration names before any work is done."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rendering.learn_calls import why_no_calls
from ft_dagster.data.rendering.new_tokens import check_tokens, pieces_of
from ft_dagster.data.rows.faults import fault_of, malformed
from ft_dagster.data.rows.infer import calls_of
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.rows_read import KEPT, READ, FileRead, RowsLook, SourceLook, rows_sentence
from ft_dagster.data.rows.split_look import SplitLook
from ft_dagster.data.rows.splits import refuse_few
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError, UserErrors, all_of
from ft_dagster.evaluation.tasks.calls import no_calls
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.gate.answer_scores import find_database
from ft_dagster.gate.power import hopeless_gates, texts_of_losses
from ft_dagster.lineage.release import production
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.models.base import resolve_base
from ft_dagster.models.derived import check_adapter, parent_prefix, released_parent
from ft_dagster.models.load_report import unused_words
from ft_dagster.models.stored import stored_words
from ft_dagster.planning.looks_left import look_lines, short_lines
from ft_dagster.records.lost_keys import lost_keys
from ft_dagster.report.figures import counted
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, Declared, VariantKey, VariantSpec
from ft_dagster.spec.load import corpus_files
from ft_dagster.spec.named import named_by
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.stage_entries import TASK_DATASET, TRAINING_MIXTURE, TRAINING_PLAN
from ft_dagster.stages.judging.declared_metrics import refuse_metrics
from ft_dagster.store import read_head
from ft_dagster.workspace.next_look import look_ahead, newest_test_rows
from ft_dagster.workspace.policy import problems, unknown_targets
from ft_dagster.workspace.rendered_prompts import notes_on_prompts
from ft_dagster.workspace.workspace import Workspace

PARENT = "base_model.variant"
WITH_TREES = (TASK_DATASET.name, TRAINING_MIXTURE.name)  # of a variant, of which the newest are looked at
LEFT_TO_PLANS = {  # by the former word `auto`: field -> stage, and the figure that has what came of it
    "method.rank": (TRAINING_PLAN.name, "method", "rank"),
    "data.general.share": (TRAINING_MIXTURE.name, "general_share", "asked"),
}


class CheckedBase(NamedTuple):
    """Describes a base in words, and where it lies; None where it is a release that is not there yet."""

    said: str
    folder: Path | None = None


class Mistakes:
    """Gathers errors one after the other, so that one does not hide the next."""

    def __init__(self, file: Path, errors: Iterable[UserError] = ()) -> None:
        self.file = file
        self.errors = list(errors)

    @contextmanager
    def gathered(self, field: str) -> Iterator[None]:
        """Keep a UserError from inside, which names this file where it names none; what the file system
        refuses is one of `field`.
        """
        try:
            yield
        except UserError as error:
            for one in all_of(error):
                one.file = one.file or str(self.file)
            self.add(all_of(error))
        except OSError as error:
            where = self.file if error.errno == errno.ENAMETOOLONG else error.filename or self.file
            fix = f"Check its permissions, or what {field} names"
            problem = f"cannot be read: {error.strerror or error}"
            self.errors.append(UserError(problem, file=where, field=field, fix=fix))

    def add(self, errors: Iterable[UserError]) -> None:
        """Add the messages that were not gathered yet."""
        self.errors += [one for one in errors if str(one) not in map(str, self.errors)]

    def end(self) -> None:
        """Raises UserError where there was any mistake."""
        if self.errors:
            raise UserErrors.of(self.errors)


@dataclass
class Looks:
    """Limits what is read. `most`: rows of each source that are read, None: all. `corpora`: what was found in
    the rows of general corpora, each of which is read once for all variants.
    """

    most: int | None = READ
    corpora: dict[str, tuple[list[FileRead], list[UserError]]] = field(default_factory=dict)


def check_variant(
    settings: Settings, key: VariantKey, declarations: Declarations | None = None, looks: Looks | None = None
) -> dict[str, Any]:
    """Read a declaration, its base, corpus, tasks, database and rows of each source: the first, or all.

    Raises UserError for all mistakes at once: of a declaration that is invalid, those of what it names too.
    What the platform does not allow, and a gate that cannot hold, are mistakes as well. `warnings`: what is
    none, and is to be known before a run.
    """
    declarations, looks = declarations or Declarations(settings.project), looks or Looks()
    file, roots = declarations.file(key), settings.roots(key.tenant)
    found = Mistakes(file, (_with_number(settings, key, one) for one in declarations.errors(key)))
    if not found.errors:
        declared = declarations.declared(key)
        found.errors += [*problems(settings, declared), *unknown_targets(settings, declared)]
    named = named_by(declarations.content(key))
    base, read_of, tasks = CheckedBase(""), list[SourceLook](), set[str]()
    if named.base_model is not None and not any(one.field == PARENT for one in found.errors):
        with found.gathered("base_model"):
            base = _check_base(settings, key, file, named.base_model)
    for role, entries in named.tasks.items():
        tasks |= _check_tasks(settings, key, role, entries, found)
    if named.database is not None:
        with found.gathered("evaluation.database"):
            find_database(named.database, settings.project, file, roots)
    look, wrong = RowsLook(settings.project, looks.most), len(found.errors)
    for i, source in named.sources.items():
        with found.gathered(f"data.sources[{i}].path"):
            read_of.append(look.rows(source, DeclaredAt(file, f"data.sources[{i}]", roots)))
    rows = [row for source in read_of for row in source.rows[:KEPT]]
    faults = list[str]()
    in_all = sum(each.rows for each in look.files) if all(each.whole for each in look.files) else None
    if len(found.errors) == wrong and not declarations.errors(key):
        faults = _check_rows(declarations.declared(key), rows, read_of, in_all, found)
    if named.corpus is not None:
        look.files += _check_corpus(declarations, named.corpus, looks, found)
    tokenizer, few, calls = None, tuple[str, ...](), list[str]()
    workspace = Workspace(settings, key, looking=True)
    if not found.errors:
        with found.gathered("gates.metrics"):
            refuse_metrics(workspace, tasks)
        with found.gathered("base_model"):
            tokenizer = _tokenizer_of(rows, base, settings.cache_folder)
        with found.gathered("evaluation.kind"):
            calls = _check_calls(workspace.declared(), rows, base, settings.cache_folder)
        with found.gathered("data.sources"):
            few = _few(workspace, base, read_of)
    found.end()
    spec, sources = declarations.declared(key).spec, len(named.sources)
    test_rows = None if in_all is None else _test_rows(spec, read_of)
    losses, seen = _losses(spec), rows_sentence(look.files) + _rendered(spec, tokenizer)
    return {
        "base_model": base.said,
        "sources": sources,
        "tasks": sorted(tasks),
        "files": [each.to_json() for each in look.files],
        "losses": losses,
        **_looks_said(workspace, spec, test_rows),
        "summary": "; ".join([_named(base.said, sources, len(tasks)), seen, *losses]),
        "warnings": [
            *faults,
            *notes_on_prompts(workspace, spec, rows, tokenizer),
            *calls,
            *few,
            *_lost_keys(workspace),
        ],
    }


def _lost_keys(workspace: Workspace) -> list[str]:
    """Return which keys of its newest record trees are not here; none where the store is out of reach."""
    with suppress(OSError):
        heads = (read_head(workspace.store, workspace.prefix, stage) for stage in WITH_TREES)
        return list(map(str, lost_keys(workspace.settings.keys_folder, filter(None, heads))))
    return []


def _named(base: str, sources: int, tasks: int) -> str:
    return f"{base}, {counted(sources, 'source')}, {counted(tasks, 'task')}"


def _rendered(spec: VariantSpec, tokenizer: KnownTokenizer | None) -> str:
    exchange = spec.data.render == "auto" and tokenizer is not None and tokenizer.chats
    return "; prompts with completions as one exchange in the base's chat template" if exchange else ""


def _looks_said(workspace: Workspace, spec: VariantSpec, test_rows: int | None) -> dict[str, Any]:
    """Return the next evaluation, and what is said of it; nothing where the store is out of reach, which is
    said once for all. `test_rows`: see `look_ahead`.
    """
    ahead = None
    with suppress(OSError):
        newest = newest_test_rows(workspace)
        ahead = look_ahead(workspace, spec, test_rows if newest is None else newest)
    return {
        "look": None if ahead is None else ahead.to_json(),
        "looks": [] if ahead is None else list(look_lines(ahead, spec)),
        "next_look": [] if ahead is None else list(short_lines(ahead, spec)),
    }


def _test_rows(spec: VariantSpec, looks: Sequence[SourceLook]) -> int | None:
    """Return how many rows of sources, counted to their end, will fall into the test split."""
    if not looks:
        return None
    placed = SplitLook()
    for look in looks:
        placed.add(*look.rows)
    unplaced = sum(look.counted - len(look.rows) for look in looks)
    return round(placed.rows_by_split(spec.data.splits, unplaced)["test"])


def _check_rows(
    declared: Declared, rows: list[Row], looks: Sequence[SourceLook], in_all: int | None, found: Mistakes
) -> list[str]:
    """Find out whether few enough rows are malformed, and where all were counted whether there are enough.
    Return what is to be known of malformed ones that are no mistake yet. `in_all`: None where not all were
    counted.
    """
    faults = list[str]()
    with found.gathered("data.max_malformed"):
        faults = _check_malformed(declared, rows, in_all)
    if in_all is None:
        return faults
    different = _different(declared.spec, looks, in_all)
    with found.gathered("data.sources"):
        refuse_few(different, declared.spec.data.splits, file=declared.file, repeated=different < in_all)
    with found.gathered("evaluation.reserve"):
        _refuse_small_sets(declared, in_all)
    return faults


def _different(spec: VariantSpec, looks: Sequence[SourceLook], in_all: int) -> int:
    """Return how many different rows there are, where each was placed; else how many rows."""
    if spec.data.deduplicate.method == "off" or sum(len(look.rows) for look in looks) < in_all:
        return in_all
    placed = SplitLook()
    for look in looks:
        placed.add(*look.rows)
    return len(placed.positions())


def _refuse_small_sets(declared: Declared, in_all: int) -> None:
    """Raise UserError where the sets that the test split is dealt into decide nothing, of so many rows."""
    gates, asked, share = declared.spec.gates, declared.spec.evaluation, declared.spec.data.splits.test
    if asked.reserve is None:
        return
    each = int(in_all * share) // asked.sets
    hopeless = [one for one in hopeless_gates(gates, asked, {"task": each}) if one.asked == each]
    for rule in hopeless[:1]:
        rows = ceil(asked.sets * (rule.least - each) / share) if share else 0
        raise UserError(
            f"each of {asked.sets} sets gets about {each:,} test rows: {rule.sentence}",
            file=declared.file,
            field="evaluation.reserve",
            value=asked.reserve,
            fix=f"Declare fewer sets, add some {rows:,} rows, or allow more ({rule.field})",
        )


def _check_malformed(declared: Declared, rows: list[Row], in_all: int | None) -> list[str]:
    """Raise UserError where a run is refused for the faults of these rows, however sound all others are;
    return a line of them where the number of all is not known.
    """
    allowed, firsts, counts = declared.spec.data.max_malformed, dict[str, Row](), Counter[str]()
    for row in rows:
        if (fault := fault_of(row)) is not None:
            counts[fault] += 1
            firsts.setdefault(fault, row)
    looked_at = f"the {counted(len(rows), 'row')} that were looked at"
    error = malformed(firsts, counts, looked_at, allowed, declared.file)
    if counts.total() > (allowed * in_all if in_all is not None else 0 if not allowed else inf):
        raise error
    more = f"a run is refused where more than {allowed:.1%} of all rows are"
    return [f"{error.problem}; {more}"] if counts and in_all is None else []


def _with_number(settings: Settings, key: VariantKey, error: UserError) -> UserError:
    """Return the refusal of the former word `auto` with the number that came of it, where the store has
    one.
    """
    if error.value != "auto" or error.field not in LEFT_TO_PLANS:
        return error
    stage, part, name = LEFT_TO_PLANS[error.field]
    newest = read_head(settings.open_store(key.tenant), key.prefix, stage)
    number = None if newest is None else newest.figures[part].get(name)
    if number is None:
        return error
    fix = f"Name {number:g}, which its newest {stage} has, or leave it out for the usual value"
    return UserError(error.problem, fix=fix, file=error.file, field=error.field, value=error.value)


def _tokenizer_of(rows: list[Row], base: CheckedBase, cache: Path) -> KnownTokenizer | None:
    """Return the base's tokenizer where rows may be rendered by its chat template; None without such rows,
    where the base is not there yet, or where what renders them is not installed here.
    """
    if all(row.kind != "prompt_completion" for row in rows):
        return None
    if base.folder is None or find_spec("transformers") is None:
        return None
    tokenizer = KnownTokenizer(base.folder, cache)
    tokenizer.learn()
    return tokenizer


def _check_calls(declared: Declared, rows: list[Row], base: CheckedBase, cache: Path) -> list[str]:
    """Return what is to be known before answers are scored by their calls. Raises UserError for a base whose
    template writes none.
    """
    asked = declared.spec.evaluation
    if asked.kind != "tool_calls" or asked.task:
        return []
    if base.folder is not None and find_spec("transformers"):
        why = KnownTokenizer(base.folder, cache).answer({"calls": 1}, why_no_calls)
        if why:
            raise no_calls(why, declared.file)
    due = sum(bool(calls_of(row)) for row in rows)
    if not due:
        return [f"evaluation.kind is tool_calls, and none of {counted(len(rows), 'row')} ends with a call"]
    if due == len(rows):
        return [
            f"each of {counted(due, 'row')} that were looked at ends with a call: whether the model calls "
            "where no call is due is not measured. Add rows that are answered without one"
        ]
    return []


def _few(workspace: Workspace, base: CheckedBase, looks: list[SourceLook]) -> tuple[str, ...]:
    """See `foreseen`; nothing where the base is a release, or what renders rows is not installed here."""
    if base.folder is None or workspace.declared().spec.base_model.variant or not find_spec("transformers"):
        return ()
    from ft_dagster.versions.few_rows import foreseen

    return foreseen(workspace, base.folder, looks)


def _losses(spec: VariantSpec) -> list[str]:
    """Return how many texts each loss that judges takes."""
    found = texts_of_losses(spec.gates, spec.evaluation, general=spec.data.general is not None)
    return [f"{loss.what} is judged by its loss, of {loss.least:,} texts or more" for loss in found]


def _check_corpus(declarations: Declarations, name: str, looks: Looks, found: Mistakes) -> list[FileRead]:
    """Check a general corpus, and return its files that were read."""
    corpus = None
    with found.gathered("data.general.corpus"):
        corpus = declarations.corpus(name, asked_by=found.file)
    if corpus is None:
        return []
    if name not in looks.corpora:
        file, look = corpus_files(declarations.project)[name], RowsLook(declarations.project, looks.most)
        wrong = Mistakes(file)
        for i, source in enumerate(corpus.sources):
            with wrong.gathered(f"sources[{i}].path"):
                look.raw_rows(source, DeclaredAt(file, f"sources[{i}]"))
        looks.corpora[name] = look.files, wrong.errors
    files, errors = looks.corpora[name]
    found.add(errors)
    return files


def _check_tasks(
    settings: Settings, key: VariantKey, role: str, entries: tuple[str, ...], found: Mistakes
) -> set[str]:
    """Check all entries, and where one is wrong each by itself; return those that are tasks."""
    field, known, roots = f"evaluation.{role}", set[str](), settings.roots(key.tenant)

    def look(*entries: str) -> None:
        tasks_digest(entries, settings.project, field=field, asked_by=found.file, roots=roots)

    with suppress(UserError, OSError):
        look(*entries)
        return set(entries)
    for entry in entries:
        with found.gathered(field):
            look(entry)
            known.add(entry)
    with found.gathered(field):  # a name that stands twice
        look(*(entry for entry in entries if entry in known))
    return known


def _check_base(settings: Settings, key: VariantKey, file: Path, spec: BaseModelSpec) -> CheckedBase:
    """Check the base that training would start from; its new tokens are tried on its tokenizer."""
    store, cache = settings.open_store(), settings.cache_folder
    check_tokens(spec.new_tokens, file=file)
    if spec.variant is None:
        roots, listed = settings.roots(key.tenant), bool(settings.policies().of(key.tenant).bases)
        base = resolve_base(spec, settings.project, cache, declared_in=file, roots=roots, bound=listed)
        folder, said = base.folder, str(base.content["architecture"])
        notes = (stored_words(folder / CONFIG), unused_words(base.unused) if base.unused else None)
        said += "".join(f" ({note})" for note in notes if note)
    elif production(store, parent_prefix(key, VariantKey.parse(spec.variant))) is None:
        return CheckedBase(f"starts from {spec.variant}, which is not released yet: run that first")
    else:
        parent = released_parent(store, key, spec, file=file)
        folder = parent.export.folder(store, cache) / "payload"
        if parent.mode != "whole":
            check_adapter(parent, folder, file=file)
        said = f"{parent.key} v{parent.version} ({parent.mode})"
    if spec.new_tokens:
        tokens, tokenizer = spec.new_tokens, KnownTokenizer(folder, cache)
        tokenizer.answer({"pieces": list(tokens)}, lambda loaded: pieces_of(tokens, loaded, file=file))
        said += f" with {len(spec.new_tokens)} new tokens"
    return CheckedBase(said, folder)
