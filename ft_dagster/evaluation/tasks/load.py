"""Loads lm-eval's task objects for declared tasks. Imports lm-eval: for the programs of this room alone."""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.sources.hub import pin_revision
from ft_dagster.data.sources.plain_sets import extract_nothing, foreign_files, media_columns
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.questions import questions_of
from ft_dagster.evaluation.tasks.task_files import is_of_hub, runnable_config
from ft_dagster.evaluation.tasks.tasks import TaskEntry, builtin_folder, needs_network, shots
from ft_dagster.launch.warm import forked

if TYPE_CHECKING:
    from lm_eval.api.task import Task

TABLES = "tables"  # a folder of a run: what is made of a task's files
WORDED = {
    "datasets",
    "fsspec",
    "huggingface_hub",
    "jinja2",
    "lm_eval",
    "yaml",
}  # their errors quote no document
_OF_LOADING = ("keep_in_memory", "trust_remote_code", "verification_mode")  # no settings of a builder


@dataclass(frozen=True)
class LoadedTask:
    """Holds a declared task and its lm-eval tasks by (sub)task name: one, or those of a group or tag."""

    entry: TaskEntry
    parts: dict[str, Task]

    @cached_property
    def questions(self) -> dict[str, list[str]]:
        """Return the ids of the documents that can be asked, in order, by (sub)task."""
        with self.reading():
            return {name: questions_of(part) for name, part in self.parts.items()}

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn an error of a template that cannot take a document, rendered within this context, into a
        UserError. Raises UserError for one that a template cannot take.
        """
        entry = self.entry
        try:
            with compiled_once():
                yield
        except UserError:
            raise
        except Exception as error:  # whatever a template or a function can cause
            raise UserError(
                f"a document of the task cannot be asked: {_of_documents(error)}",
                file=entry.file,
                value=entry.entry,
                fix="Mend the YAML or its data",
            ) from None


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Make lm-eval compile a template once within this context, and not for each document again."""
    from lm_eval import utils

    plain = utils.env.from_string
    setattr(utils.env, "from_string", cache(plain))  # noqa: B010
    try:
        yield
    finally:
        delattr(utils.env, "from_string")


def prepare_environment(entries: Iterable[TaskEntry]) -> None:
    """Prepare the process before lm-eval is imported: no bars, no chatter, and no network where none is
    needed.

    Where some is, a program that was forked with its libraries imported offline begins again without them.
    """
    for library in ("lm_eval", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ.setdefault("DATASETS_VERBOSITY", "error")  # where it is not imported yet
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not any(needs_network(entry) for entry in entries):
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"
    elif "HF_HUB_OFFLINE" not in os.environ:
        forked.start_over()


def load_task(entry: TaskEntry, cache: Path) -> LoadedTask:
    """Read the task's documents. Raises UserError where lm-eval cannot, or may not.

    Of a YAML of the project lm-eval gets what we read: it imports nothing by itself, its data set is read by
    `_documents`, and templates run in a sandbox. Nothing is unpacked. `cache`: a folder of this run for what
    is fetched and made of files, to stand as long as the documents are used. The library's own cache knows a
    file by name and time: it would answer with what another had there.
    """
    from lm_eval.tasks import TaskManager

    _sandbox_templates()
    extract_nothing()
    if entry.file is None:
        return LoadedTask(entry, _load_builtin(entry))
    manager = TaskManager(include_defaults=False)
    try:
        # what its functions open counts from the task's folder
        with contextlib.chdir(entry.file.parent):
            config = runnable_config(entry.file, entry.roots)
            _check_metrics(config, entry.file)
            _refuse_proposed(config, entry)
            with _tables_in(None if is_of_hub(config) else cache):
                parts = manager.load([_with_documents(config, entry.file)])["tasks"]
    except UserError:
        raise
    except IndexError:
        raise UserError(
            "the task has no questions", file=entry.file, fix="Check its data and split"
        ) from None
    except Exception as error:  # whatever a YAML, its functions or its data can cause
        problem = f"lm-eval cannot load the task: {_of_documents(error)}"
        raise UserError(problem, file=entry.file, fix="Mend the YAML or its data") from None
    return LoadedTask(entry, parts)


def _refuse_proposed(config: dict[str, Any], entry: TaskEntry) -> None:
    """Raises UserError for questions of the hub that somebody proposed to a repository of the platform's."""
    path, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if entry.roots is not None and entry.roots.lists_hub and is_of_hub(config) and isinstance(path, str):
        commit = kwargs.get("revision")
        pin_revision(path, commit, "dataset", file=entry.file, field="dataset_kwargs.path", bound=True)


@contextlib.contextmanager
def _tables_in(cache: Path | None) -> Iterator[None]:
    """Let the datasets library keep what it fetches and makes in `cache`; None: where it always does."""
    from datasets import config

    places = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH")
    before = {name: getattr(config, name) for name in places}
    for name in places if cache is not None else ():
        setattr(config, name, cache)
    try:
        yield
    finally:
        for name, place in before.items():
            setattr(config, name, place)


def _with_documents(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the config for lm-eval, which then asks us for the data set; one that a function makes stays
    with it.
    """
    if not config.get("dataset_path") or callable(config.get("custom_dataset")):
        return config
    return {**config, "custom_dataset": _documents(config, file), "dataset_kwargs": None}


def _documents(config: dict[str, Any], file: Path) -> Callable[..., Any]:
    """Reads the data set as lm-eval would. Raises UserError for other than plain rows of its own files."""

    def read(**metadata: Any) -> Any:
        from datasets import load_dataset_builder

        given = dict(config.get("dataset_kwargs") or {})
        reading = {name: given.pop(name, None) for name in _OF_LOADING}
        path, named = config["dataset_path"], "data_files" in given
        builder = load_dataset_builder(path, config.get("dataset_name"), **given)
        commit = given.get("revision") if is_of_hub(config) else None
        wrong = foreign_files(builder, named=named, commit=commit)
        if wrong is not None:
            raise _not_plain(wrong, path, file, "Name plain files of rows")
        mode = given.get("download_mode")
        builder.download_and_prepare(download_mode=mode, verification_mode=reading["verification_mode"])
        splits = builder.as_dataset(in_memory=bool(reading["keep_in_memory"]))
        media = sorted({name for split in splits.values() for name in media_columns(split.features)})
        if media:
            fix = f"Leave out {', '.join(media)}, or write it as text"
            raise _not_plain("columns that are no plain values", path, file, fix)
        return splits

    return read


def _not_plain(problem: str, path: object, file: Path, fix: str) -> UserError:
    return UserError(problem, file=file, field="dataset_path", value=path, fix=fix)


def _sandbox_templates() -> None:
    """Put a task's templates into a sandbox: they could reach all of Python through their objects'
    attributes.
    """
    from lm_eval import utils

    from ft_dagster.evaluation.tasks.row_sandbox import RowSandbox

    if not isinstance(utils.env, RowSandbox):
        plain = utils.env
        utils.env = RowSandbox(undefined=plain.undefined, keep_trailing_newline=True)
        utils.env.filters.update(plain.filters)


def _check_metrics(config: dict[str, Any], file: Path) -> None:
    """Raises UserError for a metric that lm-eval does not have: it would run a program of that name. And for
    one of which the task says that less of it is better where more is: what lost all would have won. A
    function has metrics of its own; lm-eval heeds no other `process_results`.
    """
    import lm_eval.api.metrics  # noqa: F401  # fills the registries
    from lm_eval.api.registry import higher_is_better_registry, metric_registry

    listed = [] if callable(config.get("process_results")) else config.get("metric_list") or []
    for metric in listed:
        name = metric.get("metric") if isinstance(metric, dict) else metric
        if not callable(name) and name not in metric_registry:
            fix = "Name one of lm-eval's own: `metric: acc`"
            raise UserError("no such metric", file=file, field="metric_list", value=name, fix=fix)
        known = higher_is_better_registry.get(name, None) if isinstance(name, str) else None
        said = metric.get("higher_is_better", known) if isinstance(metric, dict) else known
        if known is not None and bool(said) is not known:  # nothing counts as false
            fix = f"Declare `higher_is_better: {str(known).lower()}`, or leave it out"
            raise UserError(
                f"the wrong way round for {name}",
                file=file,
                field="metric_list.higher_is_better",
                value=said,
                fix=fix,
            )


def _load_builtin(entry: TaskEntry) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    try:
        try:  # lm-eval's whole index takes ten seconds, a family's far less than one
            family = TaskManager(include_defaults=False, include_path=str(builtin_folder(entry.name)))
            return family.load([entry.name])["tasks"]
        except (KeyError, TypeError, AttributeError):  # a group with members in another family
            return TaskManager().load([entry.name])["tasks"]
    except ImportError as error:
        raise UserError(
            f"the task needs a package that is not installed: {_said(error)}",
            value=entry.name,
            fix="Install lm-eval with the extra that the task names",
        ) from error
    except Exception as error:  # datasets and the hub raise a dozen kinds
        raise UserError(
            f"the questions of the task cannot be had: {_said(error)}",
            value=entry.name,
            fix="Let this host reach the hub once (it caches them), or declare a YAML with local data_files",
        ) from error


def _of_documents(error: Exception) -> str:
    """Describe an error that documents led to: in its words where a library of WORDED chose them; of what a
    function of the task or a reader of tables raised, which may quote a document, kind and place.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    library = frame.filename.rpartition("site-packages/")[2].partition("/")[0]
    if isinstance(error, OSError | ImportError) or {library, type(error).__module__.split(".")[0]} & WORDED:
        return _said(error)
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"


def _said(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return first if len(first) <= 200 else first[:197] + "..."


def shots_of(task: Any, asked: int | None) -> int:
    """Return the number of few-shot examples of a task, as lm-eval's own command sets them: one that says 0
    keeps it.
    """
    return shots(task.get_config("num_fewshot"), asked)


def sampler_of(task: Any) -> str:
    """Return the name by which lm-eval's registry has the sampler of a task's few-shot examples; of another
    sampler that of its class.
    """
    from lm_eval.api.samplers import SAMPLER_REGISTRY

    kind = type(task.sampler)
    return next((name for name, known in SAMPLER_REGISTRY.items() if known is kind), kind.__name__)
