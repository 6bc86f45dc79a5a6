"""Mirrors the checkpoints of a training into the store while it runs, so that it goes on from them anywhere.

A folder is a checkpoint once it has a file `whole_with`. Of each the files are sent first and that file last,
the logs before it, oldest first: what is whole in the store has all beside it that the trainer had kept by
then, and a run that begins anew with an empty folder ends in the same model. Nothing here knows what a
training is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import files_below, sha256_file
from ft_dagster.provenance.signing import MIRRORED
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.signatures import require, sign
from ft_dagster.store.transfer import below, each_at_once, persist

POLL = 1.0  # seconds between two looks at what became whole
AGAIN = 10.0  # and after one at which the store could not be written
UNUSABLE = ""  # in place of a sha256: what is made again is sent again, though it has the same bytes
Say = Callable[[str], None]


class Mirrored(NamedTuple):
    """Names a training's files, by their paths below its folder here and below `place` in the store: the
    folder of its checkpoints, the file that each is whole with, and logs (files or folders) that a training
    that goes on reads too.
    """

    place: str
    checkpoints: str
    whole_with: str
    logs: tuple[str, ...]


def _no_damage(folder: Path) -> str | None:
    return None


@dataclass
class CheckpointMirror:
    """Holds one training's checkpoints in `folder` and in the store against each other.

    `holds`: whether this run may still write there, asked before each checkpoint and before what makes it
    whole. `unusable`: what keeps a checkpoint's folder from use, in words. `sent`: the sha256 of the file
    that makes each checkpoint whole in the store, by its folder's name; None before the store was looked at.
    """

    store: Store
    files: Mirrored
    folder: Path
    holds: Callable[[], bool]
    say: Say
    unusable: Callable[[Path], str | None] = _no_damage
    sent: dict[str, str] | None = None
    _logs: dict[str, str] = field(default_factory=dict)
    _over: Event = field(default_factory=Event)

    def fetch(self) -> None:
        """Have here what the store has, where that is further than what is here: then the folder holds those
        checkpoints and no others. What cannot be used is said. Raises OSError where the store is out of
        reach.
        """
        listed = persist(lambda: self.store.files_below(self.files.place))
        there, mine = self._look(listed), self._newest_here()
        if mine >= max(map(_step, there), default=-1):
            return
        shutil.rmtree(self.folder / DRAFTS, ignore_errors=True)  # of a process that was killed
        try:
            fetched = [name for name in sorted(there, key=_step) if self._fetched(name, listed)]
            if mine >= max(map(_step, fetched), default=-1):
                return  # what is further there cannot be used
            for name in self._here():
                if name not in fetched:
                    shutil.rmtree(self._checkpoint(name))
            logs = [path for path in listed if any(_is_of(path, log) for log in self.files.logs)]
            each_at_once(self._fetch_log, logs)
        finally:
            shutil.rmtree(self.folder / DRAFTS, ignore_errors=True)
        self.say(f"{fetched[-1]} is brought here from {self._uri}")

    def keep(self) -> bool:
        """Send what became whole since, and remove what the trainer removed. False, with nothing sent, where
        another run took over. Raises what the store raises; the next call goes on from there.
        """
        if self.sent is None:
            self._look(persist(lambda: self.store.files_below(self.files.place)))
        sent, here = dict(self.sent or {}), self._here()
        new = [name for name in sorted(here, key=_step) if sent.get(name) != here[name]]
        if not new:
            return True
        for name in new:
            # Beyond it lies only what a training left that went another way, or what cannot be used.
            beyond = [
                other for other in sent if _step(other) > _step(name) and sent[other] != here.get(other)
            ]
            if not self.holds():
                return False
            self._drop(beyond)
            if not self._send(name, here[name]):
                return False
        self._drop([name for name in sent if name not in here])
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep what becomes whole by a thread, until this ends; where it ends in an error, all that is whole
        then. What fails is said, and tried again.
        """
        self._over.clear()
        thread = Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._stop(thread)
            self._over.clear()
            try:
                self.keep()
            except Exception as error:  # what the caller raises is the cause
                self.say(f"what was saved last is not in {self._uri}: {type(error).__name__}: {error}")
            raise
        self._stop(thread)  # what it made is committed next

    def _stop(self, thread: Thread) -> None:
        self._over.set()
        thread.join()

    def _run(self) -> None:
        trouble = False
        while not self._over.wait(AGAIN if trouble else POLL):
            try:
                self.keep()
            except Exception as error:  # whatever it is: a training does not fail by its mirror
                if not trouble:
                    self.say(
                        f"no checkpoint is kept in {self._uri} for now, and the training goes on: "
                        f"{type(error).__name__}: {error}. It is tried again until it succeeds"
                    )
                trouble = True
            else:
                if trouble:
                    self.say(f"checkpoints are kept in {self._uri} again")
                trouble = False

    @property
    def _uri(self) -> str:
        return self.store.uri(self.files.place)

    def _look(self, listed: Iterable[str]) -> dict[str, str]:
        """Return what is whole in the store, of a list of its files; it is what was sent, from now on."""
        names = [parts[-2] for path in listed if self._is_whole(parts := path.split("/"), path)]
        contents = persist(lambda: self.store.read_each([self._whole_in_store(name) for name in names]))
        self._logs = {}
        self.sent = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in zip(names, contents, strict=True)
            if content is not None
        }
        return dict(self.sent)

    def _is_whole(self, parts: list[str], path: str) -> bool:
        return (
            len(parts) > 1
            and path == f"{self.files.checkpoints}/{parts[-2]}/{self.files.whole_with}"
            and _step(parts[-2]) >= 0
        )

    def _here(self) -> dict[str, str]:
        """Return the checkpoints that are whole here, as `sent` has those in the store."""
        found = {}
        for file in (self.folder / self.files.checkpoints).glob(f"*/{self.files.whole_with}"):
            with suppress(FileNotFoundError):  # removed just now
                found[file.parent.name] = sha256_file(file)
        return {name: sha256 for name, sha256 in found.items() if _step(name) >= 0}

    def _fetched(self, name: str, listed: Iterable[str]) -> bool:
        """Have a checkpoint of the store here, and say whether it can be used."""
        own, draft = self._checkpoint(name), self.folder / DRAFTS / name
        same = self._here().get(name) == (self.sent or {})[name]
        if same and self.unusable(own) is None:
            return True
        within = f"{self.files.checkpoints}/{name}/"
        where = self.store.uri(f"{self.files.place}/{within.rstrip('/')}")
        paths = [path.removeprefix(within) for path in listed if path.startswith(within)]
        each_at_once(lambda path: self._download(within + path, below(draft, path, where)), paths)
        problem = self.unusable(draft) or self._unsigned(draft)
        if problem is not None:
            self.say(f"{where}: {problem}; it is not used")
            self.sent = {**(self.sent or {}), name: UNUSABLE}
            return False
        shutil.rmtree(own, ignore_errors=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(own)
        return True

    def _unsigned(self, draft: Path) -> str | None:
        """Say that nobody signed the file that makes a checkpoint whole, where that is asked for."""
        content = (draft / self.files.whole_with).read_bytes()
        try:
            now, where = datetime.now(UTC), self._uri
            require(self.store, self.files.place, content, MIRRORED, now, where=where)
        except UserError as error:
            return error.problem
        return None

    def _fetch_log(self, path: str) -> None:
        target = below(self.folder, path, self._uri)
        draft = below(self.folder / DRAFTS, path, self._uri)
        self._download(path, draft)
        if draft.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(target)

    def _download(self, path: str, target: Path) -> None:
        """Fetch a file; nothing where it was removed since it was listed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            persist(lambda: self.store.download(f"{self.files.place}/{path}", target))

    def _send(self, name: str, sha256: str) -> bool:
        """Send a checkpoint. False where another run took over, or all is over; True, with nothing sent,
        where the trainer removed it.
        """
        drafts = self.folder / DRAFTS
        shutil.rmtree(drafts, ignore_errors=True)  # of a process that was killed
        try:
            if not self._linked(name, drafts / name, sha256):
                return True
            self._send_logs(drafts / "logs")
            self._drop([name])
            within, whole = f"{self.files.place}/{self.files.checkpoints}/{name}", self.files.whole_with
            sizes = {path: found.st_size for path, found in files_below(drafts / name).items()}
            del sizes[whole]
            each_at_once(lambda path: self._upload(drafts / name / path, f"{within}/{path}"), list(sizes))
            if self._over.is_set():
                return False
            _refuse_incomplete(persist(lambda: self.store.files_below(within)), sizes, self.store.uri(within))
            if self._over.is_set() or not self.holds():
                return False
            content = (drafts / name / whole).read_bytes()
            persist(lambda: sign(self.store, self.files.place, content, MIRRORED))
            persist(lambda: self.store.upload(drafts / name / whole, f"{within}/{whole}"))
            self.sent = {**(self.sent or {}), name: sha256}
            return True
        finally:
            shutil.rmtree(drafts, ignore_errors=True)

    def _linked(self, name: str, draft: Path, sha256: str) -> bool:
        """Hold the files of a checkpoint by hard links, for the trainer may remove it while it is sent; False
        where it did already.
        """
        own, whole = self._checkpoint(name), self.files.whole_with
        with suppress(FileNotFoundError):
            for path in files_below(own):
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(own / path, draft / path)
            # The trainer removes this file first: as long as it stands, all others were of this checkpoint.
            return sha256_file(own / whole) == sha256 == sha256_file(draft / whole)
        return False

    def _send_logs(self, drafts: Path) -> None:
        """Send the logs that changed since they were sent, as they are now: they grow meanwhile."""
        for log in self.files.logs:
            here = self.folder / log
            paths = [log] if here.is_file() else [f"{log}/{path}" for path in files_below(here)]
            for path in paths:
                draft = drafts / path
                draft.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / path, draft)
                sha256 = sha256_file(draft)
                if self._logs.get(path) != sha256 and self._upload(draft, f"{self.files.place}/{path}"):
                    self._logs[path] = sha256

    def _upload(self, source: Path, stored: str) -> bool:
        """Upload a file, unless all is over; say whether it was."""
        if self._over.is_set():
            return False
        with suppress(FileNotFoundError):  # a server that died forgot an upload in parts: it is missing
            persist(lambda: self.store.upload(source, stored))
        return True

    def _drop(self, names: Iterable[str]) -> None:
        """Remove checkpoints from the store, first what makes each whole."""
        for name in names:
            within, whole = f"{self.files.place}/{self.files.checkpoints}/{name}", self.files.whole_with
            paths = sorted(self.store.files_below(within), key=lambda path: (path != whole, path))
            self.store.remove(f"{within}/{path}" for path in paths)
            self.store.remove_empty(within)
            self.sent = {other: sha256 for other, sha256 in (self.sent or {}).items() if other != name}

    def _newest_here(self) -> int:
        """Return the step of the newest checkpoint here that can be used; -1 without one."""
        steps = {_step(name): name for name in self._here()}
        usable = (
            step for step in sorted(steps, reverse=True) if not self.unusable(self._checkpoint(steps[step]))
        )
        return next(usable, -1)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / self.files.checkpoints / name

    def _whole_in_store(self, name: str) -> str:
        return f"{self.files.place}/{self.files.checkpoints}/{name}/{self.files.whole_with}"


def _refuse_incomplete(there: Mapping[str, int], sizes: Mapping[str, int], where: str) -> None:
    """Raises OSError where a file did not arrive as long as it was sent; it is sent again."""
    for path, size in sizes.items():
        if there.get(path) != size:
            raise OSError(f"{where}/{path} has {there.get(path, 0)} bytes, and {size} were sent")


def _step(name: str) -> int:
    """Return the step in a checkpoint's name, `checkpoint-120`; -1 where there is none."""
    step = name.rpartition("-")[2]
    return int(step) if step.isascii() and step.isdigit() else -1


def _is_of(path: str, log: str) -> bool:
    return path == log or path.startswith(f"{log}/")


def newest_in_store(store: Store, files: Mirrored) -> str | None:
    """Return where the newest checkpoint is that is whole in the store; None without one."""
    folder = f"{files.place}/{files.checkpoints}"
    names = sorted(store.names(folder), key=_step, reverse=True)
    whole = (name for name in names if store.exists(f"{folder}/{name}/{files.whole_with}"))
    return next((f"{folder}/{name}" for name in whole), None)


def forget(store: Store, place: str) -> None:
    """Remove what a training left in the store while it ran: its artifact is committed, or it gave up."""
    store.remove(f"{place}/{path}" for path in store.files_below(place))
    store.remove_empty(place)
