"""Reads and writes bytes by path, in a local folder or under an s3:// prefix; nothing here knows what they
mean.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import fsspec

from ft_dagster.errors import UserError
from ft_dagster.files import draft_in, put, put_new, special_kind, write_whole
from ft_dagster.provenance.digest import files_below, no_file
from ft_dagster.provenance.signing import Trust
from ft_dagster.provenance.witnessed import LogWitness
from ft_dagster.store import recall
from ft_dagster.store.exclusive import RemoteCreation
from ft_dagster.store.remote_errors import CLOSED, OPEN_IT, Silence, name_of, profiles_written
from ft_dagster.strict_json import dumps, loads

# When the profiles were written that a file system, which fsspec keeps for the whole process, has read.
_READ: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
# Who hears that the client of such a file system gets no answer.
_HEARD: WeakKeyDictionary[Any, Silence] = WeakKeyDictionary()

# Servers say the checksum of the whole file beside a part of it, to which botocore would hold that part.
# A server that takes requests and answers none is found within a minute: botocore tries five times. By itself
# s3fs would have it tried five times over, and 25 to read.
S3_CONFIG = {"response_checksum_validation": "when_required", "read_timeout": 8}
S3_TRIES = 1
SHARED = "shared"  # the part of a store that is all tenants'
PART_BYTES = 16 * 2**20  # of a file that is moved in parts; S3 takes no smaller ones than 5 MiB
PARTS_AT_ONCE = 4
MOST_PARTS = 10_000  # of one object, by S3


class StoredFile(NamedTuple):
    """Describes a file of the store. `path`: POSIX, in the store. `size`: bytes. `modified`: seconds since
    1970.
    """

    path: str
    size: int
    modified: float


class Store:
    """Is a tree of immutable blobs. Paths are POSIX, relative to the root; `..` is refused.

    `url` is a folder or `s3://bucket/prefix`; `options` go to the file system (`endpoint_url`,
    `profile`, ...). A write is whole or absent: local files are renamed into place, S3 puts are atomic.
    `locks`: a folder for the lock of writers to a server that cannot create exclusively. `cache_bytes`: what
    copies of a remote store's artifacts may take on this host, None: any amount (see `cache`). `memory`: the
    folder in which this host remembers small files of a remote store (see `recall`), None: nowhere.
    `checked`: what `artifacts.stated` made of the newest manifests, by their places and bytes, for who reads
    many and changes none of them; None: each is checked anew. `trust`: whose signatures count on what is
    stated there (see `signatures`), None: nobody's are asked for. `witnesses`: who is told of its release
    logs, None: nobody.
    """

    def __init__(
        self,
        url: str,
        options: dict[str, Any] | None = None,
        locks: Path | None = None,
        cache_bytes: float | None = None,
        memory: Path | None = None,
        *,
        trust: Trust | None = None,
    ) -> None:
        self.trust = trust
        self.witnesses: LogWitness | None = None
        self.cache_bytes = cache_bytes
        if re.fullmatch(r"\w+://+", url) and not url.startswith("file:"):
            raise ValueError("no bucket is named")
        self.url = url.rstrip("/") or "/"
        self._locks = locks
        self.remote = "://" in self.url and not self.url.startswith("file://")
        self._memory = memory if self.remote else None
        self.checked: dict[Any, Any] | None = None
        if self.remote:
            protocol = self.url.split("://")[0]
            self.fs = fsspec.filesystem(
                protocol, use_listings_cache=False, **_options(protocol, options or {})
            )
            self.fs.retries = S3_TRIES  # s3fs': other file systems do not read it
            self.root = self.url.split("://", 1)[1]
            self._renew()
        else:
            self.root = str(Path(self.url.removeprefix("file://")).expanduser().resolve())
            self.fs = fsspec.filesystem("file")

    def check_writable(self) -> None:
        """Raises UserError where a folder of this host would take no file. A remote store is not asked."""
        if self.remote:
            return
        folder = Path(self.root)
        at = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        why = _takes_no_file(at)
        if why is not None:
            problem = f"cannot be written: {why}"
            raise UserError(problem, file=at, field="store", value=self.url, fix=OPEN_IT)

    def path(self, relative: str) -> str:
        """Return the file system's own path of `relative`. Raises UserError where a link below the root is on
        it.
        """
        parts = [part for part in relative.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or relative.startswith("/"):
            raise ValueError(f"not a path inside the store: {relative!r}")
        self._renew()
        self._hear()
        if self.remote:
            return "/".join((self.root, *parts))
        path = self.root
        for part in parts:
            path = f"{path}/{part}"
            if os.path.islink(path):
                raise no_file(Path(self.root, *parts), "a link, or a path through one")
        return path

    def uri(self, relative: str) -> str:
        """Return where a person finds `relative`: the folder's path or the s3:// address."""
        return f"{self.url}/{relative}" if self.remote else self.path(relative)

    def local(self, relative: str) -> Path | None:
        """Return the path on this machine, or None where the store is remote."""
        return None if self.remote else Path(self.path(relative))

    def exists(self, relative: str) -> bool:
        return bool(self.fs.exists(self.path(relative)))

    def read(self, relative: str) -> bytes:
        """Raises FileNotFoundError, and IsADirectoryError for what is no file, be it a FIFO: reading one may
        never end.
        """
        path = self.path(relative)
        if not self.remote:
            if kind := special_kind(path):
                raise IsADirectoryError(errno.EISDIR, f"{kind}, not a regular file", path)
            return Path(path).read_bytes()
        content: bytes = self.fs.cat_file(path)
        return content

    def read_each(self, relatives: Sequence[str]) -> list[bytes | None]:
        """Read many small files, of a remote store at once; None for one that is not there."""
        if not self.remote:
            return [self._read_or_none(relative) for relative in relatives]
        paths = [self.path(relative) for relative in relatives]
        found = self.fs.cat(paths, on_error="return") if paths else {}
        return [_content(found[path]) for path in paths]

    def recall(self, relatives: Sequence[str]) -> dict[str, bytes]:
        """Return what this host remembers of these files; nothing where the store is a folder."""
        return {} if self._memory is None else recall.recall(self._memory, self.url, relatives)

    def remember(self, contents: Mapping[str, bytes]) -> None:
        """Remember content by path, of files that stay the same as long as they are there."""
        if self._memory is not None and contents:
            recall.remember(self._memory, self.url, contents)

    def read_there(self) -> None:
        """Have this store recall nothing from now on: what is read is what lies there."""
        self._memory = None

    def _read_or_none(self, relative: str) -> bytes | None:
        try:
            return self.read(relative)
        except FileNotFoundError:
            return None

    def read_json(self, relative: str) -> Any:
        return loads(self.read(relative))

    def write(self, relative: str, content: bytes) -> None:
        target = self.local(relative)
        if target is None:
            self.fs.pipe_file(self.path(relative), content)
            return
        _where_folders_go(lambda: write_whole(target, content))

    def write_json(self, relative: str, value: Any) -> None:
        self.write(relative, as_stored(value))

    def create_exclusively(self, relative: str, content: bytes) -> bool:
        """Write what is not there yet, whole; whether it was this call that wrote it.

        Of any number of writers one is told so. By a link in a folder; see `exclusive` for the rest.
        """
        target = self.local(relative)
        if target is None:
            return self._creation.create(self.path(relative), content)
        try:
            _where_folders_go(lambda: _write_new(target, content))
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            fix = "Put the store on a file system that has hard links, or name an s3:// prefix"
            raise UserError("its file system has no hard links", file=target.parent, fix=fix) from None
        return True

    @cached_property
    def _creation(self) -> RemoteCreation:
        return RemoteCreation(self.fs, self.url, self.root, self._locks)

    def remove(self, relatives: Iterable[str]) -> None:
        """Remove files; what is gone already is no error. Of a link the link goes."""
        if self.remote:
            for relative in relatives:
                with suppress(FileNotFoundError):
                    self.fs.rm_file(self.path(relative))
            return
        for relative in relatives:
            folder, _, name = relative.rpartition("/")
            with suppress(FileNotFoundError):
                Path(self.path(folder) if folder else self.root, name).unlink()

    def remove_empty(self, relative: str) -> None:
        """Remove a folder and those below it where no file is left; an object store has none."""
        folder = self.local(relative)
        if folder is not None:
            for inside, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    os.rmdir(inside)

    def names(self, relative: str) -> list[str]:
        """Return the names directly below a folder, sorted; none where it does not exist."""
        path = self.path(relative)
        try:
            found = self._listed(path) if self.remote else os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {PurePosixPath(each).name for each in found}
        return sorted(name for name in names if not name.startswith("."))

    def _listed(self, path: str) -> list[str]:
        """List what lies directly below a path of a remote file system."""
        if not self.url.startswith("s3://"):
            return list(self.fs.ls(path, detail=False))
        bucket, key, _ = self.fs.split_path(path)
        asked = {"Bucket": bucket, "Prefix": f"{key}/", "Delimiter": "/", **self.fs.req_kw}
        found = list[str]()
        while True:
            answer = self.fs.call_s3("list_objects_v2", **asked)
            found += [entry["Key"] for entry in answer.get("Contents", ()) if entry["Key"] != f"{key}/"]
            found += [folder["Prefix"] for folder in answer.get("CommonPrefixes", ())]
            if not answer.get("IsTruncated"):
                return found
            asked["ContinuationToken"] = answer["NextContinuationToken"]

    def names_written(self, relative: str, pattern: str, since: float) -> list[str]:
        """Return the folders directly below a folder in which a file of a pattern was written since then
        (seconds since 1970), by the store's clock; sorted.
        """
        folder = self.local(relative)
        if folder is not None:
            found = ((file, file.stat().st_mtime) for file in folder.glob(f"*/{pattern}"))
            return sorted({file.parent.name for file, written in found if written >= since})
        root = self.path(relative)
        below = {
            PurePosixPath(path[len(root) + 1 :]): info["LastModified"].timestamp()
            for path, info in self.fs.find(root, detail=True).items()
        }
        return sorted({
            file.parent.name
            for file, written in below.items()
            if len(file.parts) == 2 and file.match(pattern) and written >= since
        })  # fmt: skip

    def files_below(self, relative: str) -> dict[str, int]:
        """Return every file below a folder: POSIX path -> size in bytes. Raises UserError for a link."""
        folder = self.local(relative)
        if folder is not None:
            return {path: found.st_size for path, found in files_below(folder).items()}
        root = self.path(relative)
        found = self.fs.find(root, detail=True).items()
        return {
            path[len(root) + 1 :]: int(info["size"]) for path, info in found if path.startswith(f"{root}/")
        }

    def walk(self, below: str = "") -> Iterator[StoredFile]:
        """Yield every file of the store, or those below a folder. What comes or goes meanwhile may be missed;
        links are not followed.
        """
        root = self.path(below) if below else self.root
        if not self.remote:
            yield from _walk(Path(root), f"{below}/" if below else "")
            return
        for path, info in self.fs.find(root, detail=True).items():
            modified = info["LastModified"].timestamp()
            yield StoredFile(path[len(self.root) + 1 :], int(info["size"]), modified)

    def modified(self, relative: str) -> float:
        """Return when a file was written, in seconds since 1970. Raises FileNotFoundError."""
        return float(self.fs.modified(self.path(relative)).timestamp())

    def sha256(self, relative: str) -> str:
        """Return the sha256 of a file as it lies in the store, read whole."""
        with self.fs.open(self.path(relative), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def upload(self, source: Path, relative: str) -> None:
        """Copy one local file into the store; it is there whole or not at all."""
        target = self.local(relative)
        if target is None:
            parts = self._in_parts(source.stat().st_size)
            self.fs.put_file(str(source), self.path(relative), **parts)
            return
        with draft_in(target.parent) as draft:
            shutil.copyfile(source, draft)
            put(draft, target)

    def download(self, relative: str, target: Path) -> None:
        """Copy one file out of the store."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(self.path(relative), str(target), **self._in_parts(0))

    def _renew(self) -> None:
        """Read credentials anew where AWS' files of profiles were written since they were read."""
        if self.url.startswith("s3://"):
            written = profiles_written()
            if _READ.setdefault(self.fs, written) == written:
                return
            try:
                self.fs.connect(refresh=True)
            except Exception as error:
                if not name_of(error).startswith("botocore."):
                    raise
                return  # they are just being written: the next request reads them
            _READ[self.fs] = written

    def _hear(self) -> None:
        """Have it said where the client of this store gets no answer; s3fs may have made another by now."""
        if self.url.startswith("s3://"):
            heard, client = _HEARD.get(self.fs), self.fs.s3
            if heard is None or heard.client is not client:
                _HEARD[self.fs] = Silence(client, "/".join(self.url.split("/")[:3]))

    def _in_parts(self, size: int) -> dict[str, int]:
        """Choose how s3fs moves a file of this many bytes: it holds `max_concurrency` parts in memory at
        once.
        """
        if not self.url.startswith("s3://"):
            return {}
        return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS)), "max_concurrency": PARTS_AT_ONCE}


def _options(protocol: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a remote file system."""
    if protocol != "s3":
        return given
    config = {**S3_CONFIG, **given.get("config_kwargs", {})}
    return {"max_concurrency": 1, **given, "config_kwargs": config}


def _write_new(target: Path, content: bytes) -> None:
    with draft_in(target.parent) as draft:
        draft.write_bytes(content)
        put_new(draft, target)


def _where_folders_go(write: Callable[[], None]) -> None:
    """Write a file into a folder that somebody may remove while it is empty."""
    for last in (False, False, True):
        try:
            write()
            return
        except FileNotFoundError:
            if last:
                raise


def _walk(folder: Path, within: str) -> Iterator[StoredFile]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            path = within + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{path}/")
                continue
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                yield StoredFile(path, found.st_size, found.st_mtime)


def _content(found: bytes | Exception) -> bytes | None:
    if isinstance(found, FileNotFoundError):
        return None
    if isinstance(found, Exception):
        raise found
    return found


def as_stored(value: Any) -> bytes:
    """Return the bytes of a JSON file of the store."""
    return (dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _takes_no_file(folder: Path) -> str | None:
    if not folder.is_dir():
        return CLOSED[errno.ENOTDIR]
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return CLOSED[errno.EROFS]
    return None if os.access(folder, os.W_OK | os.X_OK) else CLOSED[errno.EACCES]
