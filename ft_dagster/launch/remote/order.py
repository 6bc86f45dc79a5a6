"""What a node that trains is told: one JSON file in the store, beside what the training leaves there.

<place>/order.json              the newest order; who works on an older one stops
<place>/output/...              complete checkpoints and logs while it runs, results once it ended
<place>/written-<attempt>.json  the files of the output with their sha256, once an attempt has ended
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer
from ft_dagster.store.blobs import Store

SCHEMA_VERSION = 1
ORDER_FILE = "order.json"
NODE = Path("/ft_dagster.node")  # stands in an order for folders of whichever node carries it out
RUN, INPUTS, CACHE = NODE / "run", NODE / "inputs", NODE / "cache"


class StoredInput(NamedTuple):
    """A file that a program reads: its path on a node, where it lies in the store, and what it hashes to."""

    path: str
    stored: str
    sha256: str


class RemoteOrder(BaseModel):
    """`attempt`: unique. `code`: digest of the package that wrote it. `request`: run.json, its paths below
    NODE. `kept_in`, `whole_with`: see `Belongings`. `cache_bytes`: of a node's copies, None: any amount.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    attempt: str
    module: str
    code: str
    request: dict[str, Any]
    inputs: tuple[StoredInput, ...]
    environment: dict[str, str]
    nodes: int = 1
    kept_in: str
    whole_with: str
    work_folder: Path
    shared_folder: Path | None = None
    cache_bytes: float | None = None

    def does_what(self, other: RemoteOrder) -> bool:
        """Whether it trains the same, whichever run asked for it."""
        return self._work() == other._work()

    def _work(self) -> dict[str, Any]:
        work = self.model_dump(mode="json", exclude={"attempt", "environment"})
        work["request"].pop("run_id", None)
        return work


def order_file(place: str) -> str:
    return f"{place}/{ORDER_FILE}"


def output_folder(place: str) -> str:
    return f"{place}/output"


def written_file(place: str, attempt: str) -> str:
    return f"{place}/written-{attempt}.json"


def read_order(store: Store, place: str) -> RemoteOrder:
    """Raises UserError where this machine does not see the store, or reads another version of orders."""
    try:
        content = store.read_json(order_file(place))
    except FileNotFoundError:
        fix = "Name a store that this machine sees too: an s3:// prefix, or a folder that all machines share"
        raise UserError("no such order", file=store.uri(order_file(place)), fix=fix) from None
    refuse_newer(content.get("schema_version"), SCHEMA_VERSION, file=store.uri(order_file(place)))
    return RemoteOrder.model_validate(content)


def with_paths(content: Any, change: Callable[[Path], str]) -> Any:
    """A request, or a part of it, with each path in it changed to a text."""
    if isinstance(content, dict):
        return {name: with_paths(value, change) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_paths(value, change) for value in content]
    return change(content) if isinstance(content, Path) else content


def on_this_node(content: Any, folders: dict[Path, Path]) -> Any:
    """A request as an order has it, with the folders of this node in place of RUN, INPUTS and CACHE."""
    if isinstance(content, dict):
        return {name: on_this_node(value, folders) for name, value in content.items()}
    if isinstance(content, list):
        return [on_this_node(value, folders) for value in content]
    if isinstance(content, str) and content.startswith(f"{NODE}/"):
        given = Path(content)
        for folder, here in folders.items():
            if given.is_relative_to(folder):
                return str(here / given.relative_to(folder))
    return content
