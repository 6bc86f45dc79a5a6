"""Reads a task YAML of the project: its content, every file that it is made of, and what a tenant may write
there.

lm-eval is given what is read here, and reads no YAML of the project by itself.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from ft_dagster.data.sources.locations import COMMIT, HUB_ID, HUB_LIST
from ft_dagster.data.sources.plain_sets import FILE_BUILDERS
from ft_dagster.data.sources.python_files import sources_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.packed_files import refuse_packed
from ft_dagster.evaluation.tasks.task_functions import Function, functions_in, imported, source_of
from ft_dagster.files import expanded, what_is_there
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.roots import Roots, is_address, outside
from ft_dagster.spec.yaml_files import SafeLoader, load_yaml

_KINDS = (
    ("dataset_path", str, "a name or a path"),
    ("dataset_kwargs", dict, "a mapping of arguments"),
    ("metadata", dict, "a mapping"),
)
# They read a prompt's file, fetch code, write outside the work folder, or carry credentials.
_REFUSED = ("use_prompt",)
_REFUSED_KWARGS = (
    *("base_path", "cache_dir", "config_id", "download_config", "num_proc"),
    *("repo_id", "storage_options", "token"),
)
MOST_INCLUDES = 64  # files that a task may include, and these in turn
SEE_GUIDE = "See lm-eval's task guide for its fields"
EXACT = "exact_match"  # which of an answer gives one score, of its own name
# Metrics that lm-eval gives as (log-likelihood, count) per document: stored as nats per counted unit.
PER_UNIT = {"word_perplexity": "word_loss", "byte_perplexity": "byte_loss"}
# Of tasks and filters: they stand in the sentences of a verdict, and in the ids of questions.
NAME = re.compile(r"[\w.+-]{1,100}")


@dataclass(frozen=True)
class Reference:
    """Names a local file that a task is made of; `name` is its part in it, the same on every machine."""

    name: str
    file: Path


class _Loader(SafeLoader):
    """Loads YAML safely and reads lm-eval's `!function module.name` as a string."""


_Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))


def local_config(file: Path, roots: Roots | None = None) -> dict[str, object]:
    """Read the YAML with its includes merged, data files and data folders made absolute.

    A relative path counts from the folder of `file`. `!function` values stay strings. Raises UserError for
    what `roots` do not allow; without roots all is.
    """
    merged: dict[str, object] = {}
    for part in _with_includes(file, roots):
        merged.update(_read(part, roots))
    merged.pop("include", None)
    config = _absolute(merged, file.parent)
    if roots is not None:
        _check(config, file, roots)
    return config


def runnable_config(file: Path, roots: Roots | None) -> dict[str, object]:
    """Read the YAML for lm-eval: its functions imported, each data file named, so that `q[1].jsonl`, which
    the datasets library would take for a pattern, is that file. Raises UserError.
    """
    config = local_config(file, roots)
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict) and "data_files" in kwargs:
        files: dict[str, list[str]] = {}
        for split, path in data_files(config):
            found = (
                [path] if is_address(path) else [glob.escape(str(each)) for each in _files(path, file, roots)]
            )
            files.setdefault(split, []).extend(found)
        named: Any = files if isinstance(kwargs["data_files"], dict) else files[""]
        config = {**config, "dataset_kwargs": {**kwargs, "data_files": named}}
    ready: dict[str, object] = imported(config, roots)
    return ready


def score_names(metrics: list[str], config: Mapping[str, Any]) -> list[str] | None:
    """Return `metrics` of a task as its scores are called; None where a function says what they are, or they
    are not listed.
    """
    functions = [config.get("process_results"), *(each["metric"] for each in config.get("metric_list") or ())]
    by_function = any(callable(each) or isinstance(each, Function) for each in functions)
    if by_function or not metrics or (config.get("output_type") == "generate_until" and metrics != [EXACT]):
        return None
    filters = [each["name"] for each in config.get("filter_list") or [{"name": "none"}]]
    names = [PER_UNIT.get(metric, metric) for metric in metrics]
    return [name if by == "none" else f"{name},{by}" for by in filters for name in names]


def task_references(file: Path, roots: Roots | None = None) -> tuple[Reference, ...]:
    """Return every local file the task is made of: the YAML, what it includes, its data files, its
    functions.
    """
    found: list[Reference] = []
    for part in _with_includes(file, roots):
        found.append(Reference(os.path.relpath(part, file.parent), part))
        for function in functions_in(_read(part, roots)):
            sources = sources_of(source_of(function, roots))
            found += [Reference(name, source) for name, source in sources.items()]
    return (*dict.fromkeys(found), *_data_references(local_config(file, roots), file, roots))


def task_parts(file: Path, roots: Roots | None = None) -> list[list[str]]:
    """Return (name, sha256) of all that a task is made of, data files behind an address too, which are
    fetched.
    """
    local = [[ref.name, sha256_file(ref.file)] for ref in task_references(file, roots)]
    remote = [path for _, path in data_files(local_config(file, roots)) if is_address(path)]
    return sorted([*local, *([path, _fetched(path, file)] for path in remote)])


def data_files(config: dict[str, object]) -> list[tuple[str, str]]:
    """Return (split, path or address) of every declared data file; no name of a split: ""."""
    given = _kwargs(config).get("data_files") or {}
    by_split = given if isinstance(given, dict) else {"": given}
    return [
        (str(split), str(path))
        for split, value in by_split.items()
        for path in (value if isinstance(value, list) else [value])
    ]


def _kwargs(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return what a task tells the datasets library; `_read` took care that it is a mapping."""
    given = config.get("dataset_kwargs")
    return given if isinstance(given, dict) else {}


def is_of_hub(config: dict[str, object]) -> bool:
    """Say whether a task's data set is one of the hub, or whatever a function of the task makes."""
    path = config.get("dataset_path")
    return not Path(str(path or "")).is_absolute() and path not in FILE_BUILDERS


def _fetched(address: str, task: Path) -> str:
    """Return the sha256 of what lies behind an address now."""
    try:
        with fsspec.open(address, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except Exception as error:  # each file system has errors of its own
        fix = "Check the address and the network, or declare a local file"
        raise UserError(
            f"cannot be fetched ({type(error).__name__})",
            file=task,
            field="dataset_kwargs.data_files",
            value=address,
            fix=fix,
        ) from None


def _with_includes(file: Path, roots: Roots | None) -> list[Path]:
    """Return `file` after everything it includes, each file once, so that a later one's fields win.

    Raises UserError on a cycle, and for more than MOST_INCLUDES files.
    """
    parts: dict[Path, None] = {}  # the last first: of a file that is included twice the later place counts
    _include(Path(os.path.realpath(file)), roots, parts, ())
    return list(reversed(parts))


def _include(file: Path, roots: Roots | None, parts: dict[Path, None], above: tuple[Path, ...]) -> None:
    if file in above:
        raise UserError("the file includes itself", file=file, field="include", fix="Remove the cycle")
    if file in parts:
        return
    if len(parts) > MOST_INCLUDES:
        problem = f"the task is made of more than {MOST_INCLUDES} included files"
        raise UserError(problem, file=above[-1], field="include", fix="Write some of them into one file")
    parts[file] = None
    for included in reversed(_included(file, roots)):
        _include(Path(os.path.realpath(included)), roots, parts, (*above, file))


def _included(file: Path, roots: Roots | None) -> list[Path]:
    """Return the files that `file` names. Raises UserError for one that is not there, or not to be read."""
    said = _read(file, roots).get("include") or []
    names = [str(name) for name in (said if isinstance(said, list) else [said])]
    for name in names:
        included = file.parent / name
        if roots is not None:
            roots.check_read(included, file=file, field="include")
        if not included.is_file():
            problem = what_is_there(included, "file")
            raise UserError(problem, file=file, field="include", value=name, fix="Mend the path")
    return [file.parent / name for name in names]


def _read(file: Path, roots: Roots | None) -> dict[str, object]:
    if roots is not None:
        roots.check_read(file)
    content = load_yaml(file, _Loader)
    if not isinstance(content, dict):
        raise UserError("not an lm-eval task", file=file, fix=SEE_GUIDE)
    for function in functions_in(content):
        function.folder, function.file = file.parent, file
    for field, kind, words in _KINDS:
        if not isinstance(content.get(field), kind | None):
            raise UserError(f"not {words}", file=file, field=field, value=content[field], fix=SEE_GUIDE)
    return content


def _absolute(config: dict[str, object], folder: Path) -> dict[str, object]:
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
    return path if is_address(path) else os.path.normpath(folder.absolute() / expanded(path))


def _check(config: dict[str, object], file: Path, roots: Roots) -> None:
    """Raises UserError for what a tenant's task may not name: see `local_config`."""
    kwargs = _kwargs(config)
    for field in (*_REFUSED, *(f"dataset_kwargs.{name}" for name in _REFUSED_KWARGS)):
        above, _, name = field.rpartition(".")
        if name in (kwargs if above else config):
            raise UserError("not for a task of the project", file=file, field=field, fix="Leave it out")
    for function in functions_in(config):
        source_of(function, roots)
    for _, path in data_files(config):
        remote = is_address(path)
        allowed = roots.may_fetch(path) if remote else "::" not in path and roots.may_read(path)
        matched = [] if remote else _matching(path, roots)
        if not allowed or not all(roots.may_read(each) and "::" not in str(each) for each in matched):
            raise outside(path, file=file, field="dataset_kwargs.data_files")
    for field, folder in (
        ("dataset_path", config.get("dataset_path")),
        ("dataset_kwargs.data_dir", kwargs.get("data_dir")),
    ):
        if isinstance(folder, str) and (os.path.isabs(folder) or is_address(folder)):
            _check_folder(Path(folder), file, field, roots)
        elif field == "dataset_path" and folder is not None and folder not in FILE_BUILDERS:
            _check_hub(str(folder), kwargs.get("revision"), file, roots)
    _check_metrics(config, file)
    filters = config.get("filter_list")
    for each in filters if isinstance(filters, list) else ():
        check_name(each.get("name") if isinstance(each, dict) else each, file, "filter_list.name")


def check_name(name: object, file: Path, field: str) -> None:
    """Raises UserError for a name with spaces or signs, which could say anything in a verdict."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        fix = "Use letters, digits, `_`, `.`, `+` and `-`, 100 of them at most"
        raise UserError("not a plain name", file=file, field=field, value=name, fix=fix)


def _check_folder(folder: Path, file: Path, field: str, roots: Roots) -> None:
    """Refuse a folder of data unless all of it lies below the roots, and has no settings of its own, which
    may name other files.
    """
    roots.check_read(folder, file=file, field=field)
    if "::" in str(folder):  # the datasets library would take it for a chain of file systems
        raise outside(str(folder), file=file, field=field)
    for each in _below(folder, file, field):
        if (each.is_dir() and each.is_symlink()) or not roots.may_read(each):
            raise outside(str(each), file=file, field=field)
        if each.is_file():
            refuse_packed(each, task=file, field=field)
    if (folder / ".huggingface.yaml").exists() or _has_settings(folder / "README.md"):
        fix = "Remove the settings, or name the files with dataset_kwargs.data_files"
        raise UserError("a data set with settings of its own", file=folder, fix=fix)


def _below(folder: Path, file: Path, field: str) -> list[Path]:
    try:
        return list(folder.rglob("*"))
    except RecursionError:
        problem, fix = "folders nested too deep to be gone through", "Lay its files less deep"
        raise UserError(problem, file=file, field=field, value=str(folder), fix=fix) from None


def _has_settings(card: Path) -> bool:
    """Say whether a card begins with YAML, as the hub's library reads it: blank lines may stand before it."""
    return card.is_file() and card.read_text("utf-8", errors="replace").lstrip().startswith("---")


def _check_hub(repo: str, revision: object, file: Path, roots: Roots) -> None:
    field = "dataset_path"
    if not HUB_ID.fullmatch(repo) or not roots.may_ask_hub(repo):
        plain = ", ".join(sorted(FILE_BUILDERS))
        fix = f"Name one of {plain} with dataset_kwargs.data_files, a folder, or org/name. {HUB_LIST}"
        raise UserError("no data set that a task may name", file=file, field=field, value=repo, fix=fix)
    if not isinstance(revision, str) or not COMMIT.fullmatch(revision):
        fix = "Add dataset_kwargs: {revision: <40 hex digits>}, so that its questions stay the same"
        raise UserError("a hub data set without its commit", file=file, field=field, value=repo, fix=fix)


def _check_metrics(config: dict[str, object], file: Path) -> None:
    """Refuse metrics of the hub: they are programs that are fetched and run."""
    listed = config.get("metric_list")
    for metric in listed if isinstance(listed, list) else ():
        if not isinstance(metric, dict) or "hf_evaluate" in metric:
            fix = "Name one of lm-eval's own: `metric: acc`"
            raise UserError("not a metric that a task may name", file=file, field="metric_list", fix=fix)


def _data_references(config: dict[str, object], task: Path, roots: Roots | None) -> Iterator[Reference]:
    for split, path in data_files(config):
        if not is_address(path):
            numbered = enumerate(_files(path, task, roots))
            yield from (Reference(f"{split}#{number}", file) for number, file in numbered)
    for folder in (config.get("dataset_path"), _kwargs(config).get("data_dir")):
        root = Path(str(folder or ""))
        if root.is_absolute() and root.is_dir():
            files = sorted(file for file in root.rglob("*") if file.is_file())
            yield from (Reference(file.relative_to(root).as_posix(), file) for file in files)


def _files(path: str, task: Path, roots: Roots | None) -> list[Path]:
    """Return the files that a path of `data_files` stands for. Raises UserError where that is nothing, or an
    archive.
    """
    files = _matching(path, roots)
    if not files:
        raise UserError(
            "no such data file",
            file=task,
            field="dataset_kwargs.data_files",
            value=path,
            fix="Mend the path; it counts from the folder of the YAML that is declared",
        )
    for file in files:
        refuse_packed(file, task=task, field="dataset_kwargs.data_files")
    return files


def _matching(pattern: str, roots: Roots | None) -> list[Path]:
    """Return the file that a path names, or those that a glob matches, as far as `roots` let it find them."""
    path = Path(pattern)
    if path.is_file() or not pattern.lstrip("/"):
        return [path] if path.is_file() else []
    found = (file for file in Path("/").glob(pattern.lstrip("/")) if roots is None or roots.may_find(file))
    return sorted(file for file in found if file.is_file())
