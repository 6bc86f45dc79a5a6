"""Limits what a tenant's declaration may reach: folders, addresses, hub repositories, Python modules.

The platform names them in its settings (`sources`, `evaluation`, `host`). A path is judged by where it really
lies, links resolved, before anything of it is looked at: a refusal says nothing of what is there.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ft_dagster.errors import UserError
from ft_dagster.files import what_is_there

UPSTREAM = Path(".ft_dagster") / "upstream"  # of a project: snapshots of upstream assets
ASSETS = "asset"  # scheme of their addresses
OUTSIDE = "outside of what the platform lets this tenant read"


class Roots(BaseModel):
    """Holds what one tenant may reach. All paths are real and absolute; `addresses` are URL
    prefixes, cut at whole parts, and upstream assets, each itself alone. `own`, `own_addresses`: those that
    no other tenant has.

    `bases`, `base_addresses`: where base models may lie besides. `hub`: patterns of repositories. `offload`:
    where optimizer states may be written. `functions`: files and modules that a task YAML may call;
    `transforms`: functions that a source may name. `never`,
    `never_addresses`: the store, this host's work folder, the platform's own files, whatever is named.

    A hidden folder, and in the project one with another tenant's name (data/globex, tenants/globex), is open
    only where a root names it or a folder below it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    project: Path
    tenant: str
    folders: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()
    own_addresses: tuple[str, ...] = ()
    bases: tuple[Path, ...] = ()
    base_addresses: tuple[str, ...] = ()
    hub: tuple[str, ...] = ("*",)
    offload: tuple[Path, ...] = ()
    functions: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    never: tuple[Path, ...] = ()
    never_addresses: tuple[str, ...] = ()

    def may_read(self, path: Path | str, *, base: bool = False) -> bool:
        """Say whether a file or folder of this host may be read; of a glob, what stands before its first
        sign.
        """
        given = str(path)
        real = os.path.realpath(given if os.path.lexists(given) else _before_magic(given))
        if any(_is_below(real, place) for place in self.never):
            return False
        roots = (*self.folders, *self.bases) if base else self.folders
        deepest = max((len(root.parts) for root in roots if _is_below(real, root)), default=0)
        return deepest >= max(1, self._closed(Path(real)))

    def may_find(self, path: Path | str) -> bool:
        """Say whether a glob may tell that this is there.

        A link in a folder that may be read is found, and then judged by where it leads.
        """
        return self.may_read(path) or (os.path.islink(path) and self.may_read(os.path.dirname(path)))

    def is_own(self, path: Path | str) -> bool:
        """Say whether what lies there is the tenant's own to write: in a folder that is its alone, or has its
        name. A link counts by where it stands, too: who may write there may have it lead elsewhere.
        """
        return any(map(self._is_own_place, (Path(os.path.realpath(path)), Path(os.path.abspath(path)))))

    def is_own_address(self, address: str) -> bool:
        """Say whether what lies behind an address is the tenant's own: in a folder or bucket with its name,
        or below an address that is its alone.
        """
        path = address.partition("://")[2]
        return self.tenant in path.split("/")[:-1] or _within(address, self.own_addresses)

    def _is_own_place(self, place: Path) -> bool:
        inside = place.is_relative_to(self.project)
        folders = (place.relative_to(self.project) if inside else place).parent.parts
        return self.tenant in folders or any(place.is_relative_to(root) for root in self.own)

    def may_fetch(self, address: str, *, base: bool = False) -> bool:
        """Say whether a URL may be read; of a glob, what stands before its first sign."""
        allowed = (*self.addresses, *self.base_addresses) if base else self.addresses
        scheme, given, path = address.partition("://")
        if not given or "::" in address or not {"", ".", ".."}.isdisjoint(path.rstrip("/").split("/")):
            return False
        if scheme == ASSETS:
            return address in allowed  # an asset is no folder: one that begins so is another
        fixed = f"{scheme}://{_before_magic(path)}"
        return _within(fixed, allowed) and not _within(fixed, self.never_addresses)

    def may_ask_hub(self, repo: str) -> bool:
        return any(fnmatchcase(repo, pattern) for pattern in self.hub)

    @property
    def lists_hub(self) -> bool:
        """Say whether the platform names repositories: then commits that others propose to them do not
        count.
        """
        return not {"*", "*/*"} & set(self.hub)

    def may_offload(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self.offload)

    def check_read(self, path: Path | str, *, file: object = None, field: str | None = None) -> None:
        """Raises UserError unless a path may be read; `file` and `field`: where it is named."""
        if not self.may_read(path):
            raise outside(str(path), file=file, field=field)

    def check_opened(self, number: int, path: str) -> None:
        """Check a file that is open as descriptor `number` in the same way: a link may be another one by
        now.
        """
        link = f"/proc/self/fd/{number}"
        if not self.may_read(link if os.path.exists(link) else path):
            raise outside(path)

    def _closed(self, real: Path) -> int:
        """Count the parts of the deepest folder above `real` that is not open by those above it being so; 0:
        none.
        """
        hidden = max((depth for depth, part in enumerate(real.parts, 1) if part.startswith(".")), default=0)
        if not real.is_relative_to(self.project):
            return hidden
        inside, above = real.relative_to(self.project).parts, len(self.project.parts)
        return max(hidden, above + 2 if len(inside) > 1 and self._is_another(inside[1]) else 0)

    def _is_another(self, name: str) -> bool:
        return name != self.tenant and os.path.isdir(self.project / "tenants" / name)


def _is_below(real: str, place: Path) -> bool:
    return real == str(place) or real.startswith(f"{str(place).rstrip(os.sep)}{os.sep}")


def jsonl_file(
    path: str,
    project: Path,
    fields: Iterable[str],
    *,
    declared_in: object = None,
    field: str | None = None,
    roots: Roots | None = None,
) -> Path:
    """Return a JSONL file that a declaration names, with lines of these fields. Raises UserError: absent, or
    outside of `roots`.
    """
    file = project / path
    if roots is not None:
        roots.check_read(file, file=declared_in, field=field)
    if not file.is_file():
        raise UserError(
            what_is_there(file, "file"),
            file=declared_in,
            field=field,
            value=path,
            fix=f"Put a JSONL file with {', '.join(fields)} there, or leave the field out",
        )
    return file


def outside(value: str, *, file: object = None, field: str | None = None, base: bool = False) -> UserError:
    """Return the error for a path or an address that a tenant may not name; it quotes nothing of what is
    there.
    """
    where = "sources.allow or sources.bases" if base else "sources.allow"
    fix = f"Name one below its roots, or let the platform add the folder to {where} in ft_dagster.yaml"
    return UserError(OUTSIDE, file=file, field=field, value=value, fix=of_elsewhere(value) or fix)


def of_elsewhere(place: str) -> str | None:
    """Return how a place is written here that a shell, a browser or Windows would understand; else None."""
    if place.startswith("~"):
        return "Write the whole path: ~ is not replaced by a home folder here"
    if re.search(r"\$\{?\w", place):
        return "Write the value itself: variables of the environment are not filled in here"
    if found := re.match(r"https?://(?:www\.)?huggingface\.co/(?:datasets/)?([\w.-]+/[\w.-]+)", place):
        return f"Write the repository alone: {found[1]}"
    if re.match(r"[A-Za-z]:[\\/](?!/)", place):
        return "That is a path of Windows: write where it lies on this machine"
    if is_address(place) and not place.startswith(("s3://", f"{ASSETS}://")):
        return "Of addresses only s3:// is read: download it, and name the file or folder"
    return None


def is_address(place: str) -> bool:
    return "://" in place


def _before_magic(path: str) -> str:
    """Return the folder above the first part with a sign of a glob; the path itself where there is none."""
    if not glob.has_magic(path):
        return path
    parts = path.split("/")
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or "/"


def _within(address: str, prefixes: Iterable[str]) -> bool:
    return any(f"{address.rstrip('/')}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes)
