"""Lists what lies at a place, and says how much of it changed. If the size of a file of this host is the
same, its digest decides; it is read where it changed since.

A place is a source of rows or a base model, as it is declared; who names the same shares one listing.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from ft_dagster.data.sources.fingerprint import FUNCTION
from ft_dagster.data.sources.hub import pin_revision
from ft_dagster.data.sources.locations import (
    DeclaredAt,
    data_files,
    file_type,
    is_hub,
    is_s3,
    listing_errors,
    matched,
    s3,
    s3_errors,
)
from ft_dagster.data.sources.upstream import asset_of, is_asset, newest_snapshot
from ft_dagster.errors import UserError
from ft_dagster.files import expanded
from ft_dagster.model_files.weights import TEMPLATES
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.hash_cache import cached_digests
from ft_dagster.roots import Roots, outside
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.variant import VariantSpec

SAVED = {"state.json", "dataset_dict.json"}  # of a folder that `datasets` saved: the files are named in it


class WatchedPlace(NamedTuple):
    """Names a place to watch. `revision`: of a hub repository; `split`: of a saved data set."""

    kind: Literal["data", "base"]
    path: str
    revision: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        return json.dumps(self)

    @property
    def source(self) -> SourceSpec:
        return SourceSpec(path=self.path, revision=self.revision, split=self.split)

    @classmethod
    def parse(cls, text: str) -> WatchedPlace:
        return cls(*json.loads(text))


class ListedFile(NamedTuple):
    """Describes a listed file. `path`: as a fingerprint names it; `tag`: ETag, commit or sha256 of a
    snapshot; `changed`: when, where a listing says it; `file`: of this host.
    """

    path: str
    size: int
    tag: str | None
    changed: datetime | None
    file: Path | None = None


Digests = Callable[[Sequence[ListedFile]], Sequence[str]]  # sha256 of each file of this host


def digests_of(files: Sequence[ListedFile], cache: Path | None = None) -> list[str]:
    """Return the sha256 of each; `cache`: where they are remembered."""
    return cached_digests([file.file for file in files if file.file is not None], cache)


class Difference(NamedTuple):
    """Measures a change. `bytes`: of the files that came, changed or went, of `whole`; `first`: the first of
    them.
    """

    bytes: int
    whole: int
    first: str

    @property
    def share(self) -> float:
        return min(1.0, self.bytes / self.whole) if self.whole else 1.0


def named_places(spec: VariantSpec) -> list[WatchedPlace]:
    """Return the sources and the base of a declaration."""
    places = [WatchedPlace("data", s.path, s.revision, s.split) for s in spec.data.sources]
    if spec.base_model.source is not None:
        places.append(WatchedPlace("base", spec.base_model.source, spec.base_model.revision))
    return places


def unasked_places(spec: VariantSpec, project: Path) -> list[WatchedPlace]:
    """Return those places that lie elsewhere, and for which the declaration does not ask to be looked at."""
    asked = {"data": spec.retrain.on_new_data, "base": spec.retrain.on_new_base}
    return [place for place in named_places(spec) if not asked[place.kind] and not is_here(place, project)]


def may_list(place: WatchedPlace, project: Path, roots: Roots) -> bool:
    """Say whether a tenant may have a place looked at."""
    base = place.kind == "base"
    if is_s3(place.path) or is_asset(place.path):
        return roots.may_fetch(place.path, base=base)
    if is_here(place, project):
        return roots.may_read(str(project / expanded(place.path)), base=base)
    return roots.may_ask_hub(place.path)


def listing(place: WatchedPlace, project: Path, roots: Roots | None) -> list[ListedFile]:
    """Return what a tenant with these roots may have listed there; None: the platform asks. Raises UserError
    for a place that cannot be listed, and for one that is outside of the roots, or holds a file that is.
    """
    if roots is not None and not may_list(place, project, roots):
        raise outside(place.path)
    asked = DeclaredAt(roots=roots)
    with s3_errors(place.path, asked), listing_errors(place.path, asked):
        files = _listed(place, project, asked)
    if roots is not None and not may_see(files, place, project, roots):
        raise outside(place.path)
    return files


def may_see(files: Sequence[ListedFile], place: WatchedPlace, project: Path, roots: Roots) -> bool:
    """Say whether a tenant that may list a place may also read each file that was listed there."""
    base = place.kind == "base"
    if is_s3(place.path):
        return base or all(roots.may_fetch(file.path) for file in files)
    if is_asset(place.path) or not is_here(place, project):
        return True
    folder = project / expanded(place.path) if base else project
    return all(roots.may_read(folder / file.path, base=base) for file in files)


def _listed(place: WatchedPlace, project: Path, asked: DeclaredAt) -> list[ListedFile]:
    if is_s3(place.path):
        return _of_s3(place, project, asked)
    if is_asset(place.path):
        taken = newest_snapshot(project, asset_of(place.path))
        return [ListedFile(place.path, taken.size, taken.sha256, None)]
    if not is_here(place, project):
        kind: Literal["dataset", "model"] = "dataset" if place.kind == "data" else "model"
        return [ListedFile(place.path, 0, pin_revision(place.path, place.revision, kind), None)]
    if place.kind == "data":
        return [_local(Path(file.path), file.name) for file in data_files(place.source, project, asked)]
    folder = project / expanded(place.path)
    found = sorted((*folder.iterdir(), *(folder / TEMPLATES).glob("*")))
    return [_local(file, file.relative_to(folder).as_posix()) for file in found if file.is_file()]


def is_here(place: WatchedPlace, project: Path) -> bool:
    """Say whether a place is a file, folder or snapshot of this host: looking at it asks nobody else."""
    if is_s3(place.path):
        return False
    if is_asset(place.path):
        return True
    if place.kind == "data":
        return not is_hub(place.source, project)
    return os.path.isdir(project / expanded(place.path))


def listing_digest(files: Sequence[ListedFile]) -> str:
    """Return a digest that changes when a listing does."""
    return sha256_json([[f.path, f.size, f.tag, f.changed and f.changed.isoformat()] for f in files])


def difference(
    frozen: Sequence[Mapping[str, Any]],
    listed: Sequence[ListedFile],
    at: datetime,
    digests: Digests = digests_of,
) -> Difference | None:
    """Return how a place changed since it was `frozen` (entries of a fingerprint, or files of a base) at a
    time; None where it did not. Where a file without a tag has the same size and changed since, its sha256
    decides: one that was copied or restored is the same. A function that transforms rows is not listed, and
    not compared.
    """
    files = [entry for entry in frozen if FUNCTION not in entry]
    before = {str(entry.get("path", entry.get("repo"))): entry for entry in files}
    now = {file.path: file for file in listed}
    others = {file: _is_other(before.get(file.path), file, at) for file in listed}
    unsure = [file for file, other in others.items() if other is None]
    for file, digest in zip(unsure, digests(unsure), strict=True):
        others[file] = digest != before[file.path]["sha256"]
    changed = [file for file in listed if others[file]]
    gone = [entry for path, entry in before.items() if path not in now]
    if not changed and not gone:
        return None
    lost = sum(int(entry.get("size", 0)) for entry in gone)
    first = changed[0].path if changed else str(gone[0].get("path", gone[0].get("repo")))
    whole = sum(file.size for file in listed) + lost
    return Difference(sum(file.size for file in changed) + lost, whole, first)


def _is_other(before: Mapping[str, Any] | None, file: ListedFile, at: datetime) -> bool | None:
    """Say whether a file changed; None: its digest decides."""
    if before is None or before.get("size", file.size) != file.size:
        return True
    if is_asset(file.path):
        return bool(before.get("sha256") != file.tag)
    tag = before.get("etag") or before.get("revision")
    if tag is not None and file.tag is not None and not str(tag).startswith("sha256:"):
        return bool(tag != file.tag)
    if file.changed is None or file.changed <= at:
        return False
    return True if file.file is None or "sha256" not in before else None


def _local(file: Path, name: str) -> ListedFile:
    found = file.stat()
    newest = max(found.st_mtime, found.st_ctime)
    return ListedFile(name, found.st_size, None, datetime.fromtimestamp(newest, UTC), file)


def _of_s3(place: WatchedPlace, project: Path, asked: DeclaredAt) -> list[ListedFile]:
    """List objects by a page for each thousand, and no request for each."""
    bare, fs = place.path[5:], s3()
    found = matched(fs, bare, asked) if glob.has_magic(bare) else fs.find(bare, detail=True)
    names = {PurePosixPath(path).name for path in found}
    if place.kind == "data" and names & SAVED:
        found = {file.path: fs.info(file.path) for file in data_files(place.source, project, asked)}
    if not found:
        raise UserError("no such object or bucket", value=place.path, fix="Check the address")
    files = []
    for path, info in sorted(found.items()):
        if place.kind == "data" and not asked.may_find(path, remote=True):
            continue
        below = path.removeprefix(bare).strip("/").split("/")
        hidden = any(part.startswith(".") for part in below)
        if info.get("type") != "file" or hidden or (place.kind == "data" and not file_type(path)):
            continue
        name = f"s3://{path}" if place.kind == "data" else "/".join(below)
        tag = str(info.get("ETag") or "").strip('"') or None
        files.append(ListedFile(name, int(info["size"]), tag, info.get("LastModified")))
    return files
