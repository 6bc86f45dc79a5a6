"""Opens the witnesses of a trust root by their addresses."""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import Trust
from ft_dagster.store.blobs import Store
from ft_dagster.store.witness import KEY_FILE, Place, Witnesses
from ft_dagster.store.witness_git import SCHEME, GitPlace
from ft_dagster.store.witness_http import SCHEMES, HttpPlace

STORES = ("s3://", "file://")
ADDRESS = "Name a folder, s3://bucket/prefix, git+REPOSITORY or https://host/path"


def open_witnesses(
    trust: Trust, store: Store, place_of: Callable[[str], str], keys: Path, host: Path
) -> None:
    """Have a store tell the witnesses of its trust root. `place_of`: of a path in it; `keys`: the folder of
    keys; `host`: a folder of this host alone. Raises UserError for one that cannot be opened or lies in the
    store, and for an address that holds more than one.
    """
    try:
        for said in trust.witnesses:
            _check(said)
        opened = tuple(_opened(each, place_of, keys, host) for each in trust.witnesses)
    except (ValueError, TypeError, ImportError) as error:
        problem = f"cannot be opened: {error}"
        raise UserError(problem, file=trust.file, field="witnesses", fix=ADDRESS) from None
    except UserError as error:
        raise UserError(
            error.problem, file=trust.file, field=error.field, value=error.value, fix=error.fix
        ) from None
    urls = [each.url for each in opened]
    for said, each in zip(trust.witnesses, opened, strict=True):
        if urls.count(each.url) > 1:
            problem, fix = "two witnesses are one place", "Name each once"
            raise UserError(problem, file=trust.file, field="witnesses", value=said, fix=fix)
        if _lies_in(each, store):
            fix = "Name a place that whoever writes the store may not write"
            problem = "a witness in the store itself shows nothing"
            raise UserError(problem, file=trust.file, field="witnesses", value=said, fix=fix)
    store.witnesses = Witnesses(trust, opened, keys / KEY_FILE, host / "witness")


def _check(said: str) -> None:
    """Raises UserError, which does not say it, for an address with a password, a token or a query in it."""
    if said.removeprefix(SCHEME).removeprefix("ssh://").strip() in ("", "file://"):
        raise UserError("the address of a witness is none", field="witnesses", value=said, fix=ADDRESS)
    if "://" not in said:
        return
    try:
        parts = urlsplit(said.removeprefix(SCHEME))
        more = parts.password is not None or bool(parts.query or parts.fragment)
        named = parts.username is not None and parts.scheme != "ssh"  # by https that is a token
        parts.port  # noqa: B018 (a number, or ValueError)
    except ValueError:
        raise UserError("the address of a witness is none", field="witnesses", fix=ADDRESS) from None
    if more or named:
        fix = (
            "Leave it out: git takes a password from its credential helper, an endpoint its token from "
            "`witness.<host>.token` in the keys folder, S3 its keys from the environment or a profile"
        )
        raise UserError("a password, or more than the address of a witness", field="witnesses", fix=fix)
    if not said.startswith((SCHEME, *SCHEMES, *STORES)):
        raise UserError("no kind of witness", field="witnesses", value=f"{parts.scheme}://", fix=ADDRESS)


def _opened(said: str, place_of: Callable[[str], str], keys: Path, host: Path) -> Place:
    """Open a witness by its address. Raises UserError and ValueError for what is none."""
    if said.startswith(SCHEME):
        address = said.removeprefix(SCHEME)
        whole = address if ":" in address else place_of(address)  # ssh's host:path is one, too
        copy = hashlib.sha256(whole.encode()).hexdigest()[:16]
        return GitPlace(SCHEME + whole, host / "witness" / f"{copy}.git")
    if said.startswith(SCHEMES):
        return HttpPlace(said, keys)
    return Store(said if "://" in said else place_of(said), None, host)


def _lies_in(place: Place, store: Store) -> bool:
    if isinstance(place, Store) and (place.remote or store.remote):
        return place.remote == store.remote and f"{place.root}/".startswith(f"{store.root}/")
    if store.remote or isinstance(place, HttpPlace):
        return False
    address = place.root if isinstance(place, Store) else place.url.removeprefix(SCHEME)
    folder = os.path.realpath(address.removeprefix("file://"))
    return f"{folder}/".startswith(f"{os.path.realpath(store.root)}/")
