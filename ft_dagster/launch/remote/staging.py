"""The side of this host: inputs into the store by their hashes, an order beside them, the output back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic_core import to_jsonable_python

from ft_dagster.cluster import Cluster
from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import OUTPUT, RESULT_FILE, RUN_FILE, Belongings, Job
from ft_dagster.launch.remote.order import (
    CACHE,
    INPUTS,
    RUN,
    RemoteOrder,
    StoredInput,
    order_file,
    output_folder,
    read_order,
    refuse_unsafe,
    with_paths,
    written_file,
)
from ft_dagster.launch.remote.passed import refuse_secret_variables
from ft_dagster.launch.remote.relay import relay_of
from ft_dagster.program import LentFolder, write_json
from ft_dagster.provenance.code import source_digest
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.checkpoint_mirror import Mirrored, newest_in_store
from ft_dagster.store.transfer import Transfer, below, fetch_all, persist, send_all

USED = "used.json"  # beside copies of inputs: `store gc` counts their age from their last use


@dataclass(frozen=True)
class Staging:
    """Between this host and the nodes of a cluster, by way of the store."""

    store: Store
    cluster: Cluster

    @property
    def environment(self) -> dict[str, str]:
        """Of the nodes' programs: it goes by way of the cluster, never of the store. Raises UserError."""
        refuse_secret_variables(self.cluster.environment, "cluster.environment")
        return self.cluster.environment

    def prepare(self, job: Job, nodes: int = 1, threads: int | None = None) -> RemoteOrder:
        """Have in the store what the program reads; the order to run it. Raises UserError."""
        things = belongings_of(job)
        refuse_unsafe(job.request.model_dump())
        job.write_request()  # by which the next try knows whether this one's micro-batches were halved
        sources: dict[StoredInput, Path] = {}
        request = with_paths(job.request.model_dump(), lambda path: self._placed(path, job, things, sources))
        self._send_missing(things, sources)
        content = {
            "attempt": uuid.uuid4().hex,
            "module": job.module,
            "code": source_digest(),
            "request": to_jsonable_python(request),
            "inputs": tuple(sources),
            "reports": relay_of(job.environment).reports,
            "threads": threads,
            "nodes": nodes,
            "kept_in": things.kept_in,
            "whole_with": things.whole_with,
        }
        return RemoteOrder.model_validate(content)

    def send(self, job: Job, order: RemoteOrder) -> None:
        """Make it the newest order: who works on an older one stops."""
        file = order_file(belongings_of(job).place)
        persist(lambda: self.store.write_json(file, order.model_dump(mode="json")))

    def order_before(self, job: Job) -> RemoteOrder | None:
        """The newest order so far; None where there is none that this version reads."""
        return _newest_order(self.store, belongings_of(job).place)

    def collect(self, job: Job, attempt: str) -> None:
        """Bring what an attempt wrote, but for its checkpoints, to RUN_DIR/output; nothing where it was
        killed. Raises UserError for a path that leads out of it: the list is of who may write to the store.
        """
        place = belongings_of(job).place
        try:
            written = persist(lambda: self.store.read_json(written_file(place, attempt)))
        except FileNotFoundError:
            return
        output, listed_in = job.run_dir / OUTPUT, self.store.uri(written_file(place, attempt))
        files = [
            Transfer(below(output, path, listed_in), f"{output_folder(place)}/{path}", sha256)
            for path, sha256 in written["files"].items()
        ]
        fetch_all(self.store, files, output / DRAFTS)

    def _placed(self, path: Path, job: Job, things: Belongings, sources: dict[StoredInput, Path]) -> str:
        """Where a path of the request will be on a node; files that it stands for are added to `sources`."""
        if path.is_relative_to(job.run_dir):
            return str(RUN / path.relative_to(job.run_dir))
        for number, (folder, lent) in enumerate(things.lent.items()):
            if path.is_relative_to(folder):
                below = path.relative_to(folder)
                sources.update(_inputs(str(number), below, folder, lent))
                return str(INPUTS / str(number) / below)
        if path.is_relative_to(things.cache):
            return str(CACHE / path.relative_to(things.cache))
        raise UserError(
            "is on this host, and no part of what a training brings with it to another",
            file=path,
            fix="Train it with `launcher: local`",
        )

    def _send_missing(self, things: Belongings, sources: Mapping[StoredInput, Path]) -> None:
        folders = {lent.stored for lent in things.lent.values() if lent.by_hash}
        used = {"schema_version": 1, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        for folder in folders:
            persist(partial(self.store.write_json, f"{folder}/{USED}", used))
        there = {f"{folder}/{name}" for folder in folders for name in self.store.names(folder)}
        send_all(
            self.store,
            {
                each.stored: Transfer(local, each.stored, each.sha256)
                for each, local in sources.items()
                if each.stored.rpartition("/")[0] in folders and each.stored not in there
            }.values(),
        )


def _inputs(within: str, below: Path, folder: Path, lent: LentFolder) -> dict[StoredInput, Path]:
    """The files of a lent folder at or below a path in it, each with where it lies on this host."""
    return {
        StoredInput(f"{within}/{path}", f"{lent.stored}/{sha256 if lent.by_hash else path}", sha256): folder
        / path
        for path, sha256 in lent.files.items()
        if Path(path).is_relative_to(below)
    }


UNSAID = (FileNotFoundError, LookupError, TypeError, UserError, ValueError)  # not ended yet, or nothing whole


def recall(store: Store, place: str, run_dir: Path) -> None:
    """Have in RUN_DIR what the newest attempt was asked and how it ended, for the next try to go by, where
    that was not collected here: the step that ordered it ended before it could, or was on another disk.
    """
    result = run_dir / OUTPUT / RESULT_FILE
    order = None if result.exists() else _newest_order(store, place)
    if order is None:
        return
    write_json(run_dir / RUN_FILE, order.request)
    with suppress(*UNSAID):
        files = persist(lambda: store.read_json(written_file(place, order.attempt)))["files"]
        stored = f"{output_folder(place)}/{RESULT_FILE}"
        fetch_all(store, [Transfer(result, stored, files[RESULT_FILE])], run_dir / OUTPUT / DRAFTS)


def _newest_order(store: Store, place: str) -> RemoteOrder | None:
    if not persist(lambda: store.exists(order_file(place))):
        return None
    try:
        return read_order(store, place)
    except (UserError, ValueError):
        return None


def belongings_of(job: Job) -> Belongings:
    """Raises ValueError for a job that was made for this host alone."""
    if job.belongings is None:
        raise ValueError(f"{job.module} was given nothing to run on another machine with")
    return job.belongings


def kept_by_nodes(store: Store, things: Belongings) -> str:
    """What of a program that ended early the next attempt goes on from."""
    files = Mirrored(output_folder(things.place), things.kept_in, things.whole_with, ())
    newest = newest_in_store(store, files)
    if newest is None:
        return f"nothing, for no checkpoint is whole in {store.uri(files.place)}/{files.checkpoints}"
    return f"the checkpoint of step {newest.rpartition('-')[2]}, in {store.uri(newest)}"
