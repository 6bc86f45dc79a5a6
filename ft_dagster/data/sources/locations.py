"""Finds where a source's rows lie: the data files behind a path, folder, glob, s3:// or asset:// address, or
a hub data set.

A local path wins if it exists; `org/name` without such a path is a hub id. S3 takes its credentials
and endpoint from the standard AWS_* variables.
"""

from __future__ import annotations

import difflib
import glob
import heapq
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ft_dagster.data.sources.globs import NoGlob, globbed
from ft_dagster.data.sources.upstream import SHA256, asset_of, is_asset, newest_snapshot, snapshot_file
from ft_dagster.errors import UserError, in_one_line
from ft_dagster.files import expanded, special_kind
from ft_dagster.roots import Roots, of_elsewhere, outside
from ft_dagster.spec.data import SourceSpec
from ft_dagster.store.blobs import S3_CONFIG

S3_TRIES = 2  # of s3fs, which alone asks again for an answer that is cut off; a store's transfers do so too
TYPES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
OTHER_FILES = {  # that hold rows for a person -> how they are read here
    (".xlsx", ".xls", ".ods"): "Save the sheet as CSV UTF-8, with commas",
    (".docx", ".doc", ".odt", ".pdf"): "Save its rows as CSV or JSON lines",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "Unpack it, and name the file in it",
}
GZIPPED = ("jsonl", "json", "csv", "tsv")
SUPPORTED = ".jsonl, .json, .csv, .tsv (each also .gz), .parquet or .arrow"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MOST_COMPARED = 200  # names of a folder with one that is missing: to compare two long ones takes 5 ms
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_LIST = "Name one that sources.hub in ft_dagster.yaml allows, or let the platform add it"


class DeclaredAt(NamedTuple):
    """Says who asked for a source: the declaration's file, the field in it ("data.sources[0]"), and what its
    tenant may read. No `roots`: the platform asks, and may read all.
    """

    file: object = None
    field: str = "data.sources"
    roots: Roots | None = None

    def check_place(self, source: str, path: str) -> None:
        """Raises UserError for a path of this host or an address (of `source`) outside of the roots."""
        roots, address = self.roots, is_s3(path) or is_asset(path)
        if roots is None or (roots.may_fetch(path) if address else roots.may_read(path)):
            return
        raise outside(source, file=self.file, field=f"{self.field}.path")

    def may_find(self, path: str, *, remote: bool) -> bool:
        """Say whether a glob or a folder may tell that a path is there, of this host or `remote`, of a
        bucket.
        """
        roots = self.roots
        return roots is None or (roots.may_fetch(f"s3://{path}") if remote else roots.may_find(path))

    def check_hub(self, repo: str) -> None:
        """Raises UserError for a hub repository that the platform does not allow."""
        if self.roots is not None and not self.roots.may_ask_hub(repo):
            raise self.error("not a repository of the platform's list", repo, HUB_LIST)

    @property
    def lists_hub(self) -> bool:
        """Return `Roots.lists_hub` of the tenant."""
        return self.roots is not None and self.roots.lists_hub

    def error(self, problem: str, value: object, fix: str, under: str = "path") -> UserError:
        return UserError(problem, file=self.file, field=f"{self.field}.{under}", value=value, fix=fix)


NOWHERE = DeclaredAt()


@dataclass(frozen=True)
class DataFile:
    """Is one file of rows. `path` is the file system's own (absolute, or bucket/key); `name` is for people.

    `roots`: where it must still lie when it is opened; None: anywhere.
    """

    fs: Any
    path: str
    name: str
    type: str
    roots: Roots | None = None

    @property
    def gzipped(self) -> bool:
        return self.path.endswith(".gz")


def file_type(path: str) -> str | None:
    """Return the format that a file's name says, or None where it is not one of TYPES."""
    bare = path.removesuffix(".gz")
    found = TYPES.get(PurePosixPath(bare).suffix.lower())
    return found if bare == path or found in GZIPPED else None


def is_s3(path: str) -> bool:
    return path.startswith("s3://")


def is_hub(source: SourceSpec, project: Path) -> bool:
    """Say whether the path can only mean a hub data set.

    `faq/part` is a missing path, not a hub id, where the project has a folder `faq` and no revision
    is declared; so is a name that ends like a data file.
    """
    path = source.path
    if is_s3(path) or not HUB_ID.fullmatch(path) or file_type(path) or os.path.exists(project / path):
        return False
    return source.revision is not None or not (project / path.split("/")[0]).is_dir()


def rows_from(place: str, here: Path, field: str) -> str:
    """Return a place of rows, named from the folder `here`, as it is named from anywhere: a path is made
    absolute.

    An address and a data set of the hub stay as they are, unasked. Raises UserError (of `field`) for a path
    where there is no data file.
    """
    if is_s3(place) or is_asset(place):
        return place
    if not place:
        raise UserError("an empty name", field=field, fix="Name the rows")
    source = SourceSpec(path=place)
    if not is_hub(source, here):
        try:
            data_files(source, here, NOWHERE)
        except UserError as error:
            raise UserError(error.problem, field=field, value=_absolute(place, here), fix=error.fix) from None
        return _absolute(place, here)
    return place


def data_files(source: SourceSpec, project: Path, asked: DeclaredAt) -> list[DataFile]:
    """Return the files of a local, s3:// or asset:// source, sorted. Raises UserError where there are none,
    or where one lies outside of what the tenant may read.
    """
    if is_asset(source.path):
        return [_snapshot(source, project, asked)]
    remote = is_s3(source.path)
    path = source.path[5:] if remote else _absolute(source.path, project)
    asked.check_place(source.path, source.path if remote else path)
    fs = s3() if remote else fsspec.filesystem("file")
    with s3_errors(source.path, asked), listing_errors(source.path, asked):
        matches = [path.rstrip("/")] if fs.exists(path) else sorted(matched(fs, path, asked))
        if not matches:
            raise _missing(fs, source, path, asked)
        found = [file for match in matches for file in _expand(fs, match, source, asked)]
    files = [path for path in dict.fromkeys(found) if file_type(path)]
    if not files:
        ends = {os.path.splitext(path.lower())[1] for path in found}
        fixes = [fix for suffixes, fix in OTHER_FILES.items() if ends & set(suffixes)]
        raise asked.error("no data file there", source.path, *fixes[:1] or [f"Supported are {SUPPORTED}"])
    for file in files:
        asked.check_place(source.path, f"s3://{file}" if remote else file)
    _refuse_unspeakable(files, source, asked)
    if not remote:
        _refuse_special(files, source, asked)
    opened_in = None if remote else asked.roots
    return [
        DataFile(fs, path, _name(path, project, remote), str(file_type(path)), opened_in) for path in files
    ]


def _snapshot(source: SourceSpec, project: Path, asked: DeclaredAt) -> DataFile:
    """Return the file of an upstream asset's snapshot: the one that `revision` names by its sha256, else the
    newest.
    """
    asked.check_place(source.path, source.path)
    try:
        asset = asset_of(source.path)
        taken = newest_snapshot(project, asset).file(project) if source.revision is None else None
    except UserError as error:
        raise asked.error(error.problem, source.path, error.fix) from None
    if taken is None:
        digest = str(source.revision)
        taken = snapshot_file(project, asset, digest)
        if not SHA256.fullmatch(digest) or not taken.is_file():
            fix = "Run the variant again from its declaration"
            raise asked.error("that snapshot is gone", source.path, fix)
    return DataFile(fsspec.filesystem("file"), str(taken), source.path, "jsonl")


def _refuse_unspeakable(files: list[str], source: SourceSpec, asked: DeclaredAt) -> None:
    """Refuse a name that is not text, since a file is recorded by its name."""
    for path in files:
        if not path.isascii() and any("\ud800" <= letter <= "\udfff" for letter in path):
            problem = f"the name {in_one_line(path)} is not UTF-8 text"
            raise asked.error(problem, source.path, "Rename the file, or its folder")


def _refuse_special(files: list[str], source: SourceSpec, asked: DeclaredAt) -> None:
    """Refuse a FIFO, a socket or a device: reading it may never end."""
    for path in files:
        kind = special_kind(path)
        if kind:
            raise asked.error(f"{path} is {kind}, not a regular file", source.path, "Name a file of rows")


def s3() -> Any:
    """Open a fresh S3 file system: s3fs caches instances without looking at the environment."""
    fresh = {"skip_instance_cache": True, "use_listings_cache": False}
    opened = fsspec.filesystem("s3", config_kwargs=S3_CONFIG, **fresh)
    opened.retries = S3_TRIES
    return opened


@contextmanager
def s3_errors(path: str, asked: DeclaredAt) -> Iterator[None]:
    """Turn what goes wrong with an s3:// address outside this program into UserErrors."""
    if not is_s3(path):
        yield
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except FileNotFoundError:
        raise asked.error("no such object or bucket", path, "Check the address") from None
    except PermissionError as error:
        fix = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the bucket's policy"
        raise asked.error(f"access denied: {error}", path, fix) from None
    except (BotoCoreError, ClientError, ConnectionError, TimeoutError) as error:
        fix = "Check the AWS_* variables, AWS_ENDPOINT_URL among them, and that the server answers"
        raise asked.error(f"cannot read from S3: {error}", path, fix) from None


@contextmanager
def listing_errors(path: str, asked: DeclaredAt) -> Iterator[None]:
    """Turn a glob that says nothing, and folders too deep to be gone through, into UserErrors."""
    try:
        yield
    except NoGlob as error:
        raise asked.error(str(error), path, "Write another glob, or name a folder") from None
    except RecursionError:
        fix = "Name the files themselves, or lay them less deep"
        raise asked.error("folders nested too deep to be listed", path, fix) from None


def _absolute(path: str, project: Path) -> str:
    return os.path.normpath(project.absolute() / expanded(path))


def matched(fs: Any, path: str, asked: DeclaredAt) -> dict[str, Any]:
    """Return what a path matches as a glob, with what the listing says of each. What the tenant may not read
    is as if it were not there.
    """
    remote = not isinstance(fs, LocalFileSystem)
    found = globbed(fs, path) if glob.has_magic(path) else {}
    return {path: info for path, info in found.items() if asked.may_find(path, remote=remote)}


def _expand(
    fs: Any, path: str, source: SourceSpec, asked: DeclaredAt, above: frozenset[str] = frozenset()
) -> list[str]:
    """Return the files below `path` in order of name. A folder of `datasets` stands for its Arrow files. What
    lies below and may not be read by the tenant is as if it were not there.

    `above`: the folders that lead here, by their real paths; a link back to one of them would never end.
    """
    remote = is_s3(source.path)
    asked.check_place(source.path, f"s3://{path}" if remote else path)
    if not fs.isdir(path):
        return [path]
    real = path if remote else os.path.realpath(path)
    if real in above:
        raise asked.error(f"the folder {path} links to one that holds it", source.path, "Remove the link")
    above |= {real}
    names = {PurePosixPath(entry).name for entry in fs.ls(path, detail=False)}
    if "dataset_dict.json" in names:
        splits = _saved(fs, f"{path}/dataset_dict.json", "splits", source, asked)
        if source.split not in splits:
            fix = f"It has: {', '.join(splits)}"
            raise asked.error("the saved data set has no such split", source.split, fix, "split")
        return _expand(fs, f"{path}/{source.split}", source, asked, above)
    if "state.json" in names:
        return [f"{path}/{name}" for name in _saved(fs, f"{path}/state.json", "_data_files", source, asked)]
    visible = sorted(f"{path}/{name}" for name in names if name and not name.startswith("."))
    found = [each for each in visible if asked.may_find(each, remote=remote)]
    return [file for each in found for file in _expand(fs, each, source, asked, above)]


def _saved(fs: Any, path: str, field: str, source: SourceSpec, asked: DeclaredAt) -> list[str]:
    """Return the names that `datasets` keeps in a JSON file beside its Arrow files."""
    asked.check_place(source.path, f"s3://{path}" if is_s3(source.path) else path)
    try:
        if special_kind(path) and not is_s3(source.path):
            raise ValueError
        listed = json.loads(fs.cat_file(path))[field]
        names = [one["filename"] if isinstance(one, dict) else one for one in listed]
        if all(isinstance(name, str) for name in names):
            return names
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise asked.error(f"{path} is not what `datasets` saves", source.path, "Save the data set again")


def _missing(fs: Any, source: SourceSpec, path: str, asked: DeclaredAt) -> UserError:
    what = "the glob matches nothing" if glob.has_magic(path) else "no such file or folder"
    parent = PurePosixPath(path).parent
    while len(parent.parts) > 1 and (glob.has_magic(str(parent)) or not fs.isdir(str(parent))):
        parent = parent.parent
    names = _names_in(fs, str(parent), asked) if fs.isdir(parent) else []
    wanted = PurePosixPath(path).relative_to(parent).parts[0]
    if wanted in names and os.path.islink(path):
        return asked.error("a link to nothing", source.path, "Restore what it names")
    alike = heapq.nsmallest(MOST_COMPARED, names, key=lambda name: abs(len(name) - len(wanted)))
    close = difflib.get_close_matches(wanted, alike, n=1, cutoff=0.5)
    if close:
        fix = f"Did you mean {close[0]} (in {parent})?"
    else:
        fix = f"Name what is there: {parent} holds {', '.join(names[:8])}"
        if not names:
            fix = f"Put it there: {parent} is empty"
    if source.revision is None and HUB_ID.fullmatch(source.path) and not file_type(source.path):
        fix += f"{'' if close else '.'} For a data set of the hub, give its revision"
    return asked.error(what, source.path, of_elsewhere(source.path) or fix)


def _names_in(fs: Any, folder: str, asked: DeclaredAt) -> list[str]:
    """Return what a folder holds, as far as the tenant may read it."""
    found, roots = sorted(fs.ls(folder, detail=False)), asked.roots
    if roots is not None:
        remote = not isinstance(fs, LocalFileSystem)
        found = [p for p in found if (roots.may_fetch(f"s3://{p}") if remote else roots.may_read(p))]
    return [PurePosixPath(path).name for path in found]


def _name(path: str, project: Path, remote: bool) -> str:
    """Return how a person names the file: relative to the project where it is inside."""
    if remote:
        return f"s3://{path}"
    inside = Path(path)
    return inside.relative_to(project.absolute()).as_posix() if _is_inside(inside, project) else path


def _is_inside(path: Path, project: Path) -> bool:
    return path.is_relative_to(project.absolute())
