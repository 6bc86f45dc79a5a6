"""Takes rows of Dagster assets: a snapshot of each by its content, so that stages read files, and no Dagster.

A declaration names an asset as `asset://warehouse/tickets`. Beside the snapshots (JSON lines, each named by
its sha256) head.json says which is the newest, and of which materialization it is.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from ft_dagster.errors import UserError
from ft_dagster.files import draft_in, put, write_whole
from ft_dagster.roots import UPSTREAM
from ft_dagster.spec.data import ASSET, ASSET_KEY

HEAD = "head.json"
SHA256 = re.compile(r"[0-9a-f]{64}")
MISSING = ("NaTType", "NAType")  # pandas' own words for a missing cell


@dataclass(frozen=True)
class Materialization:
    """Names a materialization of an upstream asset. `event`: the id of its event in the instance, larger for
    a newer one; `at`: ISO 8601; `data_version`: as Dagster knows it; None where it was not told.
    """

    event: int
    at: str
    run_id: str | None
    data_version: str | None


@dataclass(frozen=True)
class Snapshot:
    """Is the rows of one materialization. `asset`: its key, `warehouse/tickets`; `size` in bytes."""

    asset: str
    sha256: str
    size: int
    rows: int
    made: Materialization

    def file(self, project: Path) -> Path:
        return snapshot_file(project, self.asset, self.sha256)

    def origin(self) -> dict[str, object]:
        """Return what the provenance of a variant says of the snapshot."""
        return {"sha256": self.sha256, "rows": self.rows, **asdict(self.made)}


def is_asset(path: str) -> bool:
    return path.startswith(ASSET)


def asset_of(path: str) -> str:
    """Return `warehouse/tickets` of asset://warehouse/tickets. Raises UserError for what is no asset's
    key.
    """
    name = path.removeprefix(ASSET)
    if not ASSET_KEY.fullmatch(name):
        raise UserError("not the key of an asset", value=path, fix="Write it as asset://warehouse/tickets")
    return name


def snapshot_file(project: Path, asset: str, sha256: str) -> Path:
    return project / UPSTREAM / asset / f"{sha256}.jsonl"


def read_snapshot(project: Path, asset: str) -> Snapshot | None:
    """Return the newest snapshot of an asset; None before the first. Raises UserError for a damaged
    head.json.
    """
    file = project / UPSTREAM / asset / HEAD
    try:
        content = json.loads(file.read_bytes())
        return Snapshot(**{**content, "made": Materialization(**content["made"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        fix = "Delete it, and materialize the asset's snapshot again"
        raise UserError("not what a snapshot's head says", file=file, fix=fix) from None


def newest_snapshot(project: Path, asset: str) -> Snapshot:
    """Raises UserError where none was taken yet, or its file is gone."""
    found = read_snapshot(project, asset)
    if found is None or not found.file(project).is_file():
        raise UserError(
            "no snapshot of this asset was taken yet" if found is None else "the asset's snapshot is gone",
            value=f"{ASSET}{asset}",
            fix=f"Materialize {asset}, then upstream/{asset}; where Dagster shows no such asset, reload the "
            "code location: it has those that ft_dagster.yaml named when it was loaded",
        )
    return found


def take_snapshot(
    project: Path, asset: str, rows: Iterable[Mapping[str, Any]], made: Materialization
) -> Snapshot:
    """Write the rows of a materialization, one at a time. What was taken of a newer one stays the newest.

    Equal rows in equal order are one file, whatever their data version. Raises UserError for no rows, and for
    one that is no mapping.
    """
    with draft_in(project / UPSTREAM / asset) as draft:
        digest, size, count = hashlib.sha256(), 0, 0
        with draft.open("wb") as file:
            for count, row in enumerate(rows, 1):
                line = _line(asset, count, row)
                digest.update(line)
                size += len(line)
                file.write(line)
        if not count:
            fix = "Let it return rows: a list of mappings, a data frame or an Arrow table"
            raise UserError("the asset has no rows", value=asset, fix=fix)
        taken = Snapshot(asset, digest.hexdigest(), size, count, made)
        put(draft, taken.file(project))
    return _as_newest(project, taken)


def forget_snapshots(project: Path, asset: str, before: float) -> int:
    """Remove the snapshots written before a time (seconds since 1970), but for the newest, and what was left
    of killed tries until then; how many files.
    """
    newest, folder = read_snapshot(project, asset), project / UPSTREAM / asset
    kept = None if newest is None else newest.file(project)
    files = [*folder.glob("*.jsonl"), *folder.glob(".*")]
    old = [file for file in files if file != kept and file.is_file() and file.stat().st_mtime < before]
    for file in old:
        file.unlink(missing_ok=True)
    return len(old)


def table_rows(value: Any) -> Iterator[Any]:
    """Yield the rows of what an asset returns: a data frame of pandas or polars, an Arrow table, or any
    iterable.

    Raises UserError for a value that has no rows.
    """
    if hasattr(value, "to_batches") and callable(value.to_batches):
        for batch in value.to_batches():
            yield from batch.to_pylist()
    elif hasattr(value, "iter_rows"):
        yield from value.iter_rows(named=True)
    elif hasattr(value, "to_dict") and hasattr(value, "columns"):
        yield from value.to_dict("records")
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        yield from value
    else:
        fix = "Let it return a list of mappings, a data frame of pandas or polars, or an Arrow table"
        raise UserError(f"what the asset returns has no rows: {type(value).__name__}", fix=fix)


def _as_newest(project: Path, taken: Snapshot) -> Snapshot:
    before = read_snapshot(project, taken.asset)
    if before is not None and before.made.event > taken.made.event:
        return before
    head = json.dumps(asdict(taken), indent=1, sort_keys=True)
    write_whole(project / UPSTREAM / taken.asset / HEAD, head.encode())
    return taken


def _line(asset: str, number: int, row: Any) -> bytes:
    if not isinstance(row, Mapping):
        fix = "Each row is a mapping of columns to values"
        problem = f"row {number} of the asset is no mapping: {type(row).__name__}"
        raise UserError(problem, value=asset, fix=fix)
    plain = {str(name): _plain(value) for name, value in row.items()}
    try:
        return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:  # a surrogate alone, too
        fix = "Let its columns hold texts, numbers, lists and mappings of these"
        raise UserError(f"row {number} of the asset is not JSON: {error}", value=asset, fix=fix) from None


def _plain(value: Any) -> Any:
    """Return a cell as JSON has it: what is missing is null, a time is its ISO 8601 text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):  # of numpy: an array, or a number of its own
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if type(value).__name__ in MISSING or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | UUID) else value
