"""What a node that trains is told: one JSON file in the store, beside what the training leaves there.

<place>/order.json              the newest order; who works on an older one stops
<place>/output/...              complete checkpoints and logs while it runs, results once it ended
<place>/written-<attempt>.json  the files of the output with their sha256, once an attempt has ended
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer
from ft_dagster.store.blobs import Store
from ft_dagster.store.transfer import WHO_WROTE_IT, is_below

SCHEMA_VERSION = 2
ORDER_FILE = "order.json"
PROGRAMS: tuple[str, ...] = ("ft_dagster.training",)
NODE = Path("/ft_dagster.node")  # stands in an order for folders of whichever node carries it out
RUN, INPUTS, CACHE = NODE / "run", NODE / "inputs", NODE / "cache"


def _plain(path: str) -> str:
    if not is_below(path):
        raise ValueError("a path that leads out of its folder")
    return path


def _program(module: str) -> str:
    if module not in PROGRAMS:
        raise ValueError("not a program that runs on a cluster's nodes")
    return module


Below = Annotated[str, AfterValidator(_plain)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredInput(NamedTuple):
    """A file that a program reads: its path on a node, where it lies in the store, and what it hashes to."""

    path: Below
    stored: Below
    sha256: Sha256


class RemoteOrder(BaseModel):
    """Whoever may write to the store may write one: so it names no folder of a node, no variable of its
    environment, and no program but the one that trains.

    `attempt`: unique. `code`: digest of the package that wrote it. `request`: run.json, its paths below NODE.
    `reports`: what Dagster Pipes hands on to the program, None: nobody listens. `threads`: of its processes
    together. `kept_in`, `whole_with`: see `Belongings`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    module: Annotated[str, AfterValidator(_program)]
    code: Sha256
    request: dict[str, Any]
    inputs: tuple[StoredInput, ...]
    reports: dict[str, object] | None = None
    threads: int | None = Field(None, ge=1)
    nodes: int = Field(1, ge=1)
    kept_in: Below
    whole_with: Below

    def does_what(self, other: RemoteOrder) -> bool:
        """Whether it trains the same, whichever run asked for it."""
        return self._work() == other._work()

    def _work(self) -> dict[str, object]:
        work = self.model_dump(mode="json", exclude={"attempt", "reports", "threads"})
        work["request"].pop("run_id", None)
        return work


def order_file(place: str) -> str:
    return f"{place}/{ORDER_FILE}"


def output_folder(place: str) -> str:
    return f"{place}/output"


def written_file(place: str, attempt: str) -> str:
    return f"{place}/written-{attempt}.json"


def read_order(store: Store, place: str) -> RemoteOrder:
    """Raises UserError where this machine does not see the store, reads another version of orders, or does
    not do what this one asks for.
    """
    try:
        content = store.read_json(order_file(place))
    except FileNotFoundError:
        fix = "Name a store that this machine sees too: an s3:// prefix, or a folder that all machines share"
        raise UserError("no such order", file=store.uri(order_file(place)), fix=fix) from None
    where = store.uri(order_file(place))
    try:
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=where)
        order = RemoteOrder.model_validate(content)
    except (KeyError, TypeError, ValidationError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        problem = "not an order" if first is None else f"an order that no node carries out: {first['msg']}"
        field = None if first is None else ".".join(map(str, first["loc"]))
        raise UserError(problem, file=where, field=field, fix=WHO_WROTE_IT) from None
    refuse_unsafe(order.request, file=where)
    return order


def refuse_unsafe(request: Any, *, file: object = None) -> None:
    """Raises UserError for a training that would load what may run code: the shards of ZeRO's checkpoints are
    pickles, which come from the store, and benchmarks' files may name functions.
    """
    declared = [said for said in _values_of(request, "deepspeed") if isinstance(said, dict)]
    if any(said.get("stage") in (2, 3) or said.get("offload") in ("cpu", "nvme") for said in declared):
        raise UserError(
            "no training is sharded by ZeRO on a cluster: its checkpoints are pickles, and who may write to "
            "the store could have a node run them",
            file=file,
            field="training.deepspeed",
            fix="Declare `training: {deepspeed: 0}`, a copy on each process, or train with `launcher: local`",
        )
    if any(said is not None for said in _values_of(request, "benchmarks")):
        problem = "a training on a cluster asks no benchmarks: their files may name functions"
        raise UserError(problem, file=file, field="benchmarks", fix=WHO_WROTE_IT)


def _values_of(content: Any, name: str) -> Iterator[Any]:
    """All that has this name, however deep."""
    if isinstance(content, dict):
        yield from ([content[name]] if name in content else ())
    if isinstance(content, dict | list | tuple):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _values_of(each, name)


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
