"""What of a program's output is in the store while it runs: all that another node would go on from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.launch.remote.order import RemoteOrder, output_folder, read_order, written_file
from ft_dagster.provenance.digest import files_below, sha256_file
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.checkpoint_mirror import CheckpointMirror, Mirrored
from ft_dagster.store.transfer import Transfer, persist, send_all

EVIDENCE = "evidence"  # logs, which a program that goes on reads too


@dataclass
class Kept:
    """Of one attempt's output."""

    store: Store
    place: str
    order: RemoteOrder
    output: Path

    @cached_property
    def mirror(self) -> CheckpointMirror:
        """Its checkpoints; what of them is damaged, the program finds out."""
        folders = self.order.kept_in, self.order.whole_with
        files = Mirrored(output_folder(self.place), *folders, (EVIDENCE,))
        return CheckpointMirror(self.store, files, self.output, self._is_newest, lambda line: None)

    def fetch(self) -> None:
        """Have here what an earlier attempt left."""
        self.mirror.fetch()

    def keep(self) -> bool:
        """Send what became whole since. False, with nothing sent, where a newer attempt has taken over."""
        return self.mirror.keep()

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
        stored = output_folder(self.place)
        send_all(
            self.store,
            [Transfer(self.output / path, f"{stored}/{path}", sha256) for path, sha256 in files.items()],
        )
        written = {"exit_code": code, "files": files}
        persist(lambda: self.store.write_json(written_file(self.place, self.order.attempt), written))

    def _is_newest(self) -> bool:
        try:
            return persist(lambda: read_order(self.store, self.place)).attempt == self.order.attempt
        except UserError:  # there is none any more: what was ordered is done
            return False
