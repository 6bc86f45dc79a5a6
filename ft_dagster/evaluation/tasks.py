"""Which lm-eval tasks a declaration names, and the digest of each: light, lm-eval itself is never imported.

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
from typing import Any

import yaml

from ft_dagster.errors import UserError
from ft_dagster.files import expanded, what_is_there
from ft_dagster.provenance.digest import sha256_file, sha256_json
from ft_dagster.provenance.held import HeldFiles
from ft_dagster.spec.yaml_files import SafeLoader, load_yaml

# Builders of the datasets library that read plain files: such a task needs no network.
FILE_BUILDERS = {"arrow", "csv", "json", "parquet", "text", "xml"}
_YAML = (".yaml", ".yml")
_DEFINES = re.compile(
    rb"^[\"']?(task|group|tag|include)[\"']?:[ \t]*([^\s#].*?)?[ \t]*\r?$((?:\n[ \t]*-[ \t]+.+$)*)",
    re.MULTILINE,
)

_KINDS = (
    ("dataset_path", str, "a name or a path"),
    ("dataset_kwargs", dict, "a mapping of arguments"),
    ("metadata", dict, "a mapping"),
)
_PLAIN = re.compile(rb"[A-Za-z_][\w.-]*")


@dataclass(frozen=True)
class TaskEntry:
    """One declared task: `entry` as written, `name` as scores call it, `file` unless lm-eval brings it."""

    entry: str
    name: str
    file: Path | None


@dataclass(frozen=True)
class Reference:
    """A local file that a task is made of; `name` is its part in it, the same on every machine."""

    name: str
    file: Path


class _Loader(SafeLoader):
    """Safe loader that reads lm-eval's `!function module.name` as a string."""


class Function(str):
    """The value of a `!function` tag."""


_Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))


def resolve_tasks(
    entries: Iterable[str], project: Path, *, field: str | None = None, asked_by: object = None
) -> tuple[TaskEntry, ...]:
    """The tasks that `entries` name; YAML paths are relative to `project`.

    Raises UserError on an unknown name (with the nearest), a file that is no task, or a name used twice.
    """
    found = [_resolve(entry, project, field, asked_by) for entry in entries]
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


def tasks_digest(
    entries: Iterable[str], project: Path, *, field: str | None = None, asked_by: object = None
) -> dict[str, str]:
    """Digest of each task by its entry, in the order given. Raises UserError as `resolve` does."""
    found = resolve_tasks(entries, project, field=field, asked_by=asked_by)
    return {task.entry: _digest(task) for task in found}


@contextmanager
def frozen_tasks(tasks: Collection[TaskEntry], digests: Mapping[str, str], held: HeldFiles) -> Iterator[None]:
    """Use tasks within. Raises UserError for one that is not, by its content, what `digests` (by entry) says,
    before and after; `held` watches the files between.
    """
    for task in tasks:
        for reference in () if task.file is None else task_references(task.file):
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
    """Whether the task's questions may have to be fetched: false if they are local files."""
    if task.file is None:
        return True
    config = local_config(task.file)
    if Path(str(config.get("dataset_path") or "")).is_absolute():
        return False
    given = _data_files(config)
    return config.get("dataset_path") not in FILE_BUILDERS or any("://" in path for _, path in given)


def local_config(file: Path) -> dict[str, Any]:
    """The YAML with its includes merged, data files and data folders made absolute.

    A relative path counts from the folder of `file`. `!function` values stay strings.
    """
    merged: dict[str, Any] = {}
    for part in _with_includes(file):
        merged.update(_read(part))
    merged.pop("include", None)
    return _absolute(merged, file.parent)


def task_references(file: Path) -> tuple[Reference, ...]:
    """Every local file the task is made of: the YAML, what it includes, its data files, its functions."""
    found: list[Reference] = []
    for part in _with_includes(file):
        found.append(Reference(os.path.relpath(part, file.parent), part))
        found += _function_references(_read(part), part.parent)
    return (*found, *_data_references(local_config(file), file))


def builtin_names() -> list[str]:
    """Every task, group and tag that comes with the installed lm-eval."""
    return sorted(_builtin())


def builtin_folder(name: str) -> Path:
    """The family folder below lm_eval/tasks that defines `name`, for example lm_eval/tasks/mmlu."""
    root = _builtin_root()
    return root / _builtin()[name][0][1].relative_to(root).parts[0]


def _resolve(entry: str, project: Path, field: str | None, asked_by: object) -> TaskEntry:
    if not entry.endswith(_YAML):
        if entry not in _builtin():
            raise UserError(
                "unknown task", file=asked_by, field=field, value=entry, fix=_nearest(entry, builtin_names())
            )
        return TaskEntry(entry, entry, None)
    file = Path(os.path.realpath(project / entry))
    if not file.is_file():
        beside = [path.name for path in file.parent.glob("*.y*ml") if path != file]
        raise UserError(
            what_is_there(file, "task file"),
            file=asked_by,
            field=field,
            value=entry,
            fix=_nearest(file.name, beside, f"It was looked for at {file}"),
        )
    return TaskEntry(entry, _task_name(file), file)


def _task_name(file: Path) -> str:
    config = local_config(file)
    if "group" in config or isinstance(config.get("task"), list):
        raise UserError("a group of tasks", file=file, fix="Declare the YAML files of its tasks instead")
    name = config.get("task")
    if not isinstance(name, str) or not name:
        raise UserError(
            "not an lm-eval task: it has no name", file=file, field="task", fix="Give it one, `task: my_task`"
        )
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
    files = sorted([ref.name, sha256_file(ref.file)] for ref in task_references(task.file))
    return sha256_json({"task": task.name, "files": files})


def _with_includes(file: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """`file` after everything it includes, so that a later one's fields win. Raises UserError on a cycle."""
    file = Path(os.path.realpath(file))
    if file in seen:
        raise UserError("the file includes itself", file=file, field="include", fix="Remove the cycle")
    said = _read(file).get("include") or []
    parts: list[Path] = []
    for name in said if isinstance(said, list) else [said]:
        included = file.parent / str(name)
        if not included.is_file():
            problem = what_is_there(included, "file")
            raise UserError(problem, file=file, field="include", value=str(name), fix="Mend the path")
        parts += _with_includes(included, (*seen, file))
    return [*parts, file]


def _read(file: Path) -> dict[str, Any]:
    content = load_yaml(file, _Loader)
    if not isinstance(content, dict):
        raise UserError("not an lm-eval task", file=file, fix="See lm-eval's task guide for its fields")
    for field, kind, words in _KINDS:
        if not isinstance(content.get(field), kind | None):
            fix = "See lm-eval's task guide for its fields"
            raise UserError(f"not {words}", file=file, field=field, value=content[field], fix=fix)
    return content


def _absolute(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = dict(config)
    path = config.get("dataset_path")
    if isinstance(path, str) and path and not isinstance(path, Function) and (folder / path).is_dir():
        config["dataset_path"] = str((folder / path).resolve())
    given = config.get("dataset_kwargs")
    if not isinstance(given, dict):
        return config
    kwargs = dict(given)
    if "data_files" in kwargs:
        kwargs["data_files"] = _map_paths(kwargs["data_files"], folder)
    if isinstance(kwargs.get("data_dir"), str):
        kwargs["data_dir"] = _join(folder, kwargs["data_dir"])
    return {**config, "dataset_kwargs": kwargs}


def _map_paths(given: Any, folder: Path) -> Any:
    if isinstance(given, dict):
        return {split: _map_paths(value, folder) for split, value in given.items()}
    if isinstance(given, list):
        return [_map_paths(value, folder) for value in given]
    return _join(folder, str(given))


def _join(folder: Path, path: str) -> str:
    return path if "://" in path else str((folder / expanded(path)).absolute())


def _data_files(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(split, path) of every declared data file."""
    given = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    by_split = given if isinstance(given, dict) else {"": given}
    return [
        (str(split), str(path))
        for split, value in by_split.items()
        for path in (value if isinstance(value, list) else [value])
    ]


def _data_references(config: dict[str, Any], task: Path) -> Iterator[Reference]:
    for split, path in _data_files(config):
        if "://" in path:
            continue
        files = _matching(path)
        if not files:
            raise UserError(
                "no such data file",
                file=task,
                field="dataset_kwargs.data_files",
                value=path,
                fix="Mend the path; it counts from the folder of the YAML that is declared",
            )
        yield from (Reference(f"{split}#{number}", file) for number, file in enumerate(files))
    for folder in (config.get("dataset_path"), (config.get("dataset_kwargs") or {}).get("data_dir")):
        root = Path(str(folder or ""))
        if root.is_absolute() and root.is_dir():
            files = sorted(file for file in root.rglob("*") if file.is_file())
            yield from (Reference(file.relative_to(root).as_posix(), file) for file in files)


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file() or not pattern.lstrip("/"):
        return [path] if path.is_file() else []
    return sorted(file for file in Path("/").glob(pattern.lstrip("/")) if file.is_file())


def _function_references(tree: Any, folder: Path) -> Iterator[Reference]:
    if isinstance(tree, Function):
        module = tree.rpartition(".")[0].replace(".", "/") + ".py"
        if (folder / module).is_file():
            yield Reference(module, folder / module)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _function_references(value, folder)
    elif isinstance(tree, list):
        for value in tree:
            yield from _function_references(value, folder)


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
    """Name -> (task | group | tag, file) of each file that defines it.

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
    """The names that a YAML of lm-eval gives at its top level; the members of a group are left out."""
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
    """`metadata.version` of the task or group, or of every task with the tag."""
    places = _builtin()[name]
    kind = places[0][0]
    files = [file for other, file in places if other == kind]
    configs = [local_config(file) for file in (files if kind == "tag" else files[:1])]
    return {
        str(config.get("group") or config.get("task")): str((config.get("metadata") or {}).get("version", ""))
        for config in configs
    }
