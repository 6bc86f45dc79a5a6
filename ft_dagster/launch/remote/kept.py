"""What of a program's output is in the store while it runs: all that another node would go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.launch.remote.order import RemoteOrder, below, output_folder, read_order, written_file
from ft_dagster.provenance.digest import files_below, sha256_file
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.transfer import Transfer, each_at_once, persist, send, send_all

EVIDENCE = "evidence"  # logs, which a program that goes on reads too


@dataclass
class Kept:
    """Of one attempt's output. `whole`: names of the folders to go on from that are in the store."""

    store: Store
    place: str
    order: RemoteOrder
    output: Path
    whole: set[str] = field(default_factory=set)

    def fetch(self) -> None:
        """Have here what an earlier attempt left. What of it is damaged, the program finds out."""
        folder = output_folder(self.place)
        there = [path.split("/") for path in self.store.files_below(folder)]
        kept = [parts for parts in there if parts[0] == self.order.kept_in and len(parts) > 2]
        self.whole = {parts[1] for parts in kept if parts[2:] == [self.order.whole_with]}
        logs = [parts for parts in there if parts[0] == EVIDENCE]
        wanted = [*logs, *(parts for parts in kept if parts[1] in self.whole)]
        each_at_once(self._fetch, ["/".join(parts) for parts in wanted])

    def keep(self) -> bool:
        """Send what became whole since, its logs before it, and drop what the program dropped. False, with
        nothing sent, where a newer attempt has taken over.
        """
        whole = self._whole_here()
        if whole == self.whole:
            return True
        if not self._is_newest():
            return False
        self._send(EVIDENCE)
        for name in sorted(whole - self.whole):
            with suppress(FileNotFoundError):  # dropped by the program meanwhile
                self._send(f"{self.order.kept_in}/{name}")
                self.whole.add(name)
        for name in sorted(self.whole - self._whole_here()):
            self._drop(f"{output_folder(self.place)}/{self.order.kept_in}/{name}")
            self.whole.discard(name)
        return True

    def finish(self, code: int) -> None:
        """Send all the rest, and the list of it, where no newer attempt has taken over."""
        if not self._is_newest():
            return
        paths = [
            path
            for path in files_below(self.output)
            if not path.startswith((f"{self.order.kept_in}/", f"{DRAFTS}/"))
        ]
        files = {path: sha256_file(self.output / path) for path in paths}
        send_all(self.store, [self._transfer(self.output, path, sha256) for path, sha256 in files.items()])
        written = {"exit_code": code, "files": files}
        persist(lambda: self.store.write_json(written_file(self.place, self.order.attempt), written))

    def _is_newest(self) -> bool:
        try:
            return persist(lambda: read_order(self.store, self.place)).attempt == self.order.attempt
        except UserError:  # there is none any more: what was ordered is done
            return False

    def _whole_here(self) -> set[str]:
        found = (self.output / self.order.kept_in).glob(f"*/{self.order.whole_with}")
        return {file.parent.name for file in found}

    def _send(self, folder: str) -> None:
        """The files below a folder of the output as they are now, what says that it is whole after all else.
        Raises FileNotFoundError where the program removes it meanwhile.
        """
        drafts = self.output / DRAFTS
        try:
            for path in self._whole_last(files_below(self.output / folder)):
                source, draft = self.output / folder / path, drafts / folder / path
                draft.parent.mkdir(parents=True, exist_ok=True)
                # A log grows while it is sent, and a checkpoint may go.
                (shutil.copyfile if folder == EVIDENCE else os.link)(source, draft)
                send(self.store, self._transfer(drafts, f"{folder}/{path}", sha256_file(draft)))
        finally:
            shutil.rmtree(drafts, ignore_errors=True)

    def _whole_last(self, paths: Iterable[str]) -> list[str]:
        return sorted(paths, key=lambda path: (path == self.order.whole_with, path))

    def _fetch(self, path: str) -> None:
        listed_in = self.store.uri(output_folder(self.place))
        draft, target = below(self.output / DRAFTS, path, listed_in), below(self.output, path, listed_in)
        draft.parent.mkdir(parents=True, exist_ok=True)
        persist(lambda: self.store.download(f"{output_folder(self.place)}/{path}", draft))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)

    def _drop(self, stored: str) -> None:
        paths = self._whole_last(self.store.files_below(stored))
        self.store.remove(f"{stored}/{path}" for path in reversed(paths))
        self.store.remove_empty(stored)

    def _transfer(self, root: Path, path: str, sha256: str) -> Transfer:
        return Transfer(root / path, f"{output_folder(self.place)}/{path}", sha256)
