"""Finds the lm-eval tasks that a declaration names, and the digest of each: light, lm-eval itself is never
imported.

An entry is the name of a task, group or tag that comes with lm-eval, or the path of a task YAML of the
project. A YAML task is known by its content and by every local file it refers to; a built-in one by its
name and version, since a library upgrade alone must not make old scores new.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.task_files import (
    check_name,
    data_files,
    is_of_hub,
    local_config,
    score_names,
    task_parts,
    task_references,
)
from ft_dagster.files import what_is_there
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.held import HeldFiles
from ft_dagster.roots import Roots, is_address, outside

_YAML = (".yaml", ".yml")
_DEFINES = re.compile(
    rb"^[\"']?(task|group|tag|include)[\"']?:[ \t]*([^\s#].*?)?[ \t]*\r?$((?:\n[ \t]*-[ \t]+.+$)*)",
    re.MULTILINE,
)

_PLAIN = re.compile(rb"[A-Za-z_][\w.-]*")


@dataclass(frozen=True)
class TaskEntry:
    """Names one declared task: `entry` as written, `name` as scores call it, `file` unless lm-eval brings it.

    `roots`: what its file may reach; None: all.
    """

    entry: str
    name: str
    file: Path | None
    roots: Roots | None = None


def is_file_entry(entry: str) -> bool:
    """Say whether a declaration's entry is the path of a task YAML, not a name of lm-eval's."""
    return entry.endswith(_YAML)


def resolve_tasks(
    entries: Iterable[str],
    project: Path,
    *,
    field: str | None = None,
    asked_by: object = None,
    roots: Roots | None = None,
) -> tuple[TaskEntry, ...]:
    """Return the tasks that `entries` name; YAML paths are relative to `project`. `roots`: what they may
    reach.

    Raises UserError on an unknown name (with the nearest), a file that is no task or not the tenant's to
    name, or a name used twice.
    """
    found = [
        _resolve_file(entry, project, field, asked_by, roots)
        if is_file_entry(entry)
        else _resolve_builtin(entry, field, asked_by)
        for entry in entries
    ]
    seen: dict[str, TaskEntry] = {}
    for task in found:
        if task.name in seen:
            raise UserError(
                f"the task {task.name} is named twice",
                file=asked_by,
                field=field,
                value=task.entry,
                fix=f"Keep one of {seen[task.name].entry} and {task.entry}, or rename the task in its YAML",
            )
        seen[task.name] = task
    return tuple(found)


def names_of(
    entries: Iterable[str],
    project: Path,
    *,
    field: str | None = None,
    asked_by: object = None,
    roots: Roots | None = None,
) -> dict[str, str]:
    """Return what scores call each entry; a task YAML is read for it. Several may have a name: a task, say,
    and a benchmark. Raises UserError as `resolve_tasks` does.
    """

    def name(entry: str) -> str:
        if not is_file_entry(entry):
            return entry
        return resolve_tasks([entry], project, field=field, asked_by=asked_by, roots=roots)[0].name

    return {entry: name(entry) for entry in entries}


def tasks_digest(
    entries: Iterable[str],
    project: Path,
    *,
    field: str | None = None,
    asked_by: object = None,
    roots: Roots | None = None,
) -> dict[str, str]:
    """Return the digest of each task by its entry, in the order given. Raises UserError as `resolve_tasks`
    does.
    """
    found = resolve_tasks(entries, project, field=field, asked_by=asked_by, roots=roots)
    return {task.entry: _digest(task) for task in found}


@contextmanager
def frozen_tasks(tasks: Collection[TaskEntry], digests: Mapping[str, str], held: HeldFiles) -> Iterator[None]:
    """Use tasks within. Raises UserError for one that is not, by its content, what `digests` (by entry) says,
    before and after; `held` watches the files between.
    """
    for task in tasks:
        for reference in () if task.file is None else task_references(task.file, task.roots):
            held.watch(reference.file)
    _check_frozen(tasks, digests)
    yield
    _check_frozen(tasks, digests)


def _check_frozen(tasks: Iterable[TaskEntry], digests: Mapping[str, str]) -> None:
    for task in tasks:
        if _digest(task) != digests.get(task.entry):
            raise UserError(
                "the task is not what it was when the declaration was frozen",
                file=task.file,
                value=task.entry,
                fix="Restore it, or run the variant again, from its declaration on",
            )


def needs_network(task: TaskEntry) -> bool:
    """Say whether the task's questions may have to be fetched: false if they are local files."""
    if task.file is None:
        return True
    config = local_config(task.file, task.roots)
    if Path(str(config.get("dataset_path") or "")).is_absolute():
        return False
    return is_of_hub(config) or any(is_address(path) for _, path in data_files(config))


def listed_metrics(task: TaskEntry) -> list[str]:
    """Return the metrics that a task's YAML lists, as its scores are called; none where it leaves them open,
    and of a group or a tag.
    """
    kind, file = ("task", task.file) if task.file is not None else _builtin()[task.name][0]
    if kind != "task":
        return []
    config = local_config(file, task.roots)
    try:
        listed = [each["metric"] for each in config.get("metric_list") or ()]  # type: ignore[attr-defined]
        return score_names(listed, config) or []
    except (KeyError, TypeError):  # lm-eval says what is wrong with it
        return []


def builtin_names() -> list[str]:
    """List every task, group and tag that comes with the installed lm-eval."""
    return sorted(_builtin())


def builtin_folder(name: str) -> Path:
    """Return the family folder below lm_eval/tasks that defines `name`, for example lm_eval/tasks/mmlu."""
    root = _builtin_root()
    return root / _builtin()[name][0][1].relative_to(root).parts[0]


def _resolve_builtin(entry: str, field: str | None, asked_by: object) -> TaskEntry:
    if entry not in _builtin():
        raise UserError(
            "unknown task", file=asked_by, field=field, value=entry, fix=_nearest(entry, builtin_names())
        )
    return TaskEntry(entry, entry, None)


def _resolve_file(
    entry: str, project: Path, field: str | None, asked_by: object, roots: Roots | None
) -> TaskEntry:
    if roots is not None and not roots.may_read(project / entry):
        raise outside(entry, file=asked_by, field=field)
    file = Path(os.path.realpath(project / entry))
    if not file.is_file():
        beside = [path for path in file.parent.glob("*.y*ml") if path != file]
        names = [path.name for path in beside if roots is None or roots.may_read(path)]
        raise UserError(
            what_is_there(file, "task file"),
            file=asked_by,
            field=field,
            value=entry,
            fix=_nearest(file.name, names, f"It was looked for at {file}"),
        )
    return TaskEntry(entry, _task_name(file, roots), file, roots)


def _task_name(file: Path, roots: Roots | None) -> str:
    config = local_config(file, roots)
    if "group" in config or isinstance(config.get("task"), list):
        raise UserError("a group of tasks", file=file, fix="Declare the YAML files of its tasks instead")
    name = config.get("task")
    if not isinstance(name, str) or not name:
        raise UserError(
            "not an lm-eval task: it has no name", file=file, field="task", fix="Give it one, `task: my_task`"
        )
    check_name(name, file, "task")
    if not any(config.get(key) for key in ("dataset_path", "custom_dataset", "class")):
        raise UserError(
            "the task says no data",
            file=file,
            field="dataset_path",
            fix="For a file: `dataset_path: json` and `dataset_kwargs: {data_files: {test: x.jsonl}}`",
        )
    return name


def _digest(task: TaskEntry) -> str:
    if task.file is None:
        return sha256_json({"builtin": task.name, "versions": _builtin_versions(task.name)})
    return sha256_json({"task": task.name, "files": task_parts(task.file, task.roots)})


def _nearest(name: str, known: list[str], otherwise: str = "`lm-eval ls tasks` lists the names") -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {', '.join(close)}?" if close else otherwise


def _builtin_root() -> Path:
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError("lm-eval is not installed", fix="Install ft-dagster with its dependencies")
    return Path(found.submodule_search_locations[0]) / "tasks"


@cache
def _builtin() -> dict[str, list[tuple[str, Path]]]:
    """Return for each name the (task | group | tag, file) of each file that defines it.

    Read off the text, in about a second: lm-eval's own index takes ten and imports torch.
    """
    names: dict[str, list[tuple[str, Path]]] = {}
    for file in sorted(_builtin_root().rglob("*.yaml")):
        said = _defined_in(file)
        included = [] if "tag" in said else [file.parent / name for name in said.get("include", [])]
        tags = said.get("tag", []) + [tag for part in included for tag in _defined_in(part).get("tag", [])]
        for kind, found in (("group", said.get("group", [])), ("task", said.get("task", [])), ("tag", tags)):
            for name in found:
                names.setdefault(name, []).append((kind, file))
    rank = {"group": 0, "task": 1, "tag": 2}
    return {name: sorted(places, key=lambda place: rank[place[0]]) for name, places in names.items()}


@cache
def _defined_in(file: Path) -> dict[str, list[str]]:
    """Return the names that a YAML of lm-eval gives at its top level; the members of a group are left out."""
    said: dict[str, list[str]] = {}
    for kind, value, items in _DEFINES.findall(file.read_bytes()) if file.is_file() else ():
        if kind == b"task" and items:
            continue
        plain = _PLAIN.fullmatch(value)  # nearly all are, and YAML is slow
        name = value.decode() if plain else yaml.safe_load(value or items)
        names = name if isinstance(name, list) else [name]
        said[kind.decode()] = [name for name in names if isinstance(name, str)]
    return said


def _builtin_versions(name: str) -> dict[str, str]:
    """Return `metadata.version` of the task or group, or of every task with the tag."""
    places = _builtin()[name]
    kind = places[0][0]
    files = [file for other, file in places if other == kind]
    configs = [local_config(file) for file in (files if kind == "tag" else files[:1])]
    said = ((config.get("group") or config.get("task"), config.get("metadata")) for config in configs)
    return {
        str(name): str(metadata.get("version", "") if isinstance(metadata, dict) else "")
        for name, metadata in said
    }


def shots(said: int | None, asked: int | None) -> int:
    """Return the number of few-shot examples of a task that says `said` itself, where `asked` is declared."""
    return said or 0 if asked is None or said == 0 else asked
