"""Of any number of writers of one name one creates it: in a folder, and on S3 with and without conditions.

The S3 server of the tests, rclone, takes every condition and overwrites: the conditional way is tested
through a proxy before it that enforces the header (tests/conditional_s3.py), and not against a server that
does by itself.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.store import Store, exclusive
from tests.conditional_s3 import Proxy, honour_conditions
from tests.s3_server import S3Server

NAME = "tenants/acme/support/x.json"


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[tuple[S3Server, Proxy]]:
    with honour_conditions(s3_server) as served:
        yield served


@pytest.fixture(params=["folder", "locked", "conditional"])
def url(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server) -> tuple[str, dict[str, object]]:
    """Address and options of an empty store."""
    if request.param == "folder":
        return str(tmp_path / "store"), {}
    server = s3_server if request.param == "locked" else request.getfixturevalue("proxy")[0]
    return f"s3://{server.bucket}/{tmp_path.name}", server.options


@pytest.mark.slow
def test_one_of_many_writers_creates_a_name(url: tuple[str, dict[str, object]], tmp_path: Path) -> None:
    stores = [Store(*url, locks=tmp_path / "locks") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(store.create_exclusively, NAME, b"%d" % at) for at, store in enumerate(stores)]
    won = [at for at, one in enumerate(asked) if one.result()]
    assert len(won) == 1
    assert stores[0].read(NAME) == b"%d" % won[0]
    assert stores[0].names("tenants/acme/support") == ["x.json"]


def test_rclone_overwrites_and_is_found_out(s3_server: S3Server, tmp_path: Path) -> None:
    store = Store(f"s3://{s3_server.bucket}/{tmp_path.name}", s3_server.options, tmp_path / "locks")
    assert not store._creation.conditional
    assert store.names("probes") == []


def test_a_server_with_conditions_needs_no_lock(proxy: tuple[S3Server, Proxy], tmp_path: Path) -> None:
    server, _ = proxy
    for host in ("one", "other"):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path / host)
        assert store._creation.conditional
        store.create_exclusively(f"of/{host}.json", b"{}")
    assert not (tmp_path / "one").exists()
    assert store.names("of") == ["one.json", "other.json"]


@pytest.mark.slow
def test_a_creation_whose_answer_was_lost_is_known_as_ours(
    proxy: tuple[S3Server, Proxy], tmp_path: Path
) -> None:
    server, before = proxy
    store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path / "locks")
    assert store._creation.conditional
    before.losing = 1
    assert store.create_exclusively(NAME, b"ours")
    assert before.losing == 0


def test_a_second_host_is_refused_where_nothing_is_exclusive(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    url, options = f"s3://{s3_server.bucket}/{tmp_path.name}", s3_server.options
    assert Store(url, options, tmp_path / "one").create_exclusively("a.json", b"{}")
    with pytest.raises(UserError, match=r"writer\.json: another host writes to this store"):
        Store(url, options, tmp_path / "other").create_exclusively("b.json", b"{}")
    assert Store(url, options, tmp_path / "one").create_exclusively("b.json", b"{}")


def test_a_folder_without_hard_links_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(UserError, match="its file system has no hard links"):
        Store(str(tmp_path)).create_exclusively("x.json", b"{}")
    assert list(tmp_path.iterdir()) == []
