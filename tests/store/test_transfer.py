"""Transfers to a real S3 server that is slow, refuses, cuts connections, dies and comes back."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from ft_dagster.errors import UserError
from ft_dagster.store import Attempt, Store, blobs, exclusive, transfer, unreachable, verify_artifact
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.transfer import Transfer, each_at_once, fetch, persist, send, send_all
from tests.long import mostly_long
from tests.s3_server import S3Server, free_port, serve_s3
from tests.troubled_s3 import Trouble, Troubles, trouble

pytestmark = pytest.mark.slow

PART = 5 * 2**20  # the smallest that S3 takes
SIZE = 3 * PART + 17


@pytest.fixture(scope="module")
def proxied(s3_server: S3Server) -> Iterator[tuple[S3Server, Troubles]]:
    with trouble(s3_server) as served:
        yield served


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "PART_BYTES", PART)
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def troubles(proxied: tuple[S3Server, Troubles]) -> Iterator[Troubles]:
    yield proxied[1]
    proxied[1].latency = 0.0
    proxied[1].ahead.clear()
    proxied[1].asked.clear()


@pytest.fixture
def remote(proxied: tuple[S3Server, Troubles], troubles: Troubles, tmp_path: Path) -> Store:
    server, _ = proxied
    return Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path / "locks")


@pytest.fixture
def large(tmp_path: Path) -> Transfer:
    """A file of four parts."""
    file = tmp_path / "large"
    file.write_bytes(os.urandom(SIZE))
    return Transfer(file, "large", hashlib.sha256(file.read_bytes()).hexdigest())


def whole(store: Store, file: Transfer, tmp_path: Path) -> None:
    fetch(store, file._replace(local=tmp_path / "back"), tmp_path / "drafts")
    assert (tmp_path / "back").read_bytes() == file.local.read_bytes()
    assert list((tmp_path / "drafts").iterdir()) == []


def test_a_large_file_goes_in_parts(
    remote: Store, troubles: Troubles, large: Transfer, tmp_path: Path
) -> None:
    send(remote, large)
    assert (troubles.asked["PUT"], troubles.asked["POST"]) == (4, 2)
    whole(remote, large, tmp_path)


@pytest.mark.parametrize(
    "ahead",
    mostly_long(
        [
            Trouble("PUT", "partNumber=2", "503", 2),
            Trouble("PUT", "partNumber=3", "cut", 2),
            Trouble("POST", "uploads", "503", 2),
            Trouble("POST", "uploadId", "503", 2),
            Trouble("POST", "uploadId", "cut"),
            Trouble("POST", "uploadId", "cut after"),
            Trouble("GET", "large", "503", 2),
            Trouble("GET", "large", "cut", 2),
        ],
        every=3,
    ),
    ids=lambda ahead: f"{ahead.method} {ahead.words} {ahead.kind}",
)
def test_one_that_is_refused_or_cut_goes_through(
    remote: Store, troubles: Troubles, large: Transfer, tmp_path: Path, ahead: Trouble
) -> None:
    troubles.ahead.append(ahead)
    send(remote, large)
    whole(remote, large, tmp_path)
    assert ahead.times == 0


@pytest.mark.long
def test_a_server_that_dies_within_an_upload_and_comes_back_has_it_whole(
    large: Transfer, tmp_path: Path
) -> None:
    port = free_port()
    with ExitStack() as until_the_end:
        with serve_s3(tmp_path / "s3", port) as server:
            proxied, troubles = until_the_end.enter_context(trouble(server))
            store = Store("s3://artifacts/x", proxied.options, tmp_path / "locks")
            store.write("there", b"1")
            troubles.latency, troubles.asked = 0.3, Counter()
            sending = until_the_end.enter_context(ThreadPoolExecutor(1)).submit(send, store, large)
            while troubles.asked["PUT"] < 2:
                time.sleep(0.01)
        time.sleep(1)
        assert not sending.done()
        until_the_end.enter_context(serve_s3(tmp_path / "s3", port))
        sending.result(60)
        whole(store, large, tmp_path)


def test_a_server_that_stays_away_is_said_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
    calls = 0

    def refuse() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(ConnectionRefusedError):
        persist(refuse)
    assert calls == transfer.TRIES


def test_a_file_that_went_as_one_comes_back_in_parts(remote: Store, tmp_path: Path) -> None:
    """The server says the checksum of the whole beside each part."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(PART + PART // 2))
    sent = Transfer(file, "file", hashlib.sha256(file.read_bytes()).hexdigest())
    send(remote, sent)
    whole(remote, sent, tmp_path)


def test_files_go_together_and_are_read_back(remote: Store, troubles: Troubles, tmp_path: Path) -> None:
    files = []
    for number in range(8):
        file = tmp_path / f"{number}"
        file.write_bytes(b"%d" % number)
        files.append(Transfer(file, f"many/{number}", hashlib.sha256(b"%d" % number).hexdigest()))
    send_all(remote, files)
    troubles.latency, before = 0.1, len(troubles.log)
    send_all(remote, files)
    came = sorted(request.at for request in troubles.log[before:])
    assert min(later - one for one, later in pairwise(came)) < troubles.latency  # not after its answer
    troubles.latency = 0.0
    assert remote.names("many") == [str(number) for number in range(8)]


def test_a_server_that_changes_bytes_is_found_out(
    remote: Store, large: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: Store, source: Path, relative: str) -> None:
        self.write(relative, b"other")

    monkeypatch.setattr(Store, "upload", spoil)
    with pytest.raises(UserError, match=r"/large: was not read back as it was written"):
        send(remote, large)


def test_a_file_that_changed_here_is_not_blamed_on_the_server(remote: Store, large: Transfer) -> None:
    large.local.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"{large.local}: has other bytes"):
        send(remote, large)


@pytest.mark.long
def test_an_artifact_is_made_and_read_over_a_bad_line(
    remote: Store, troubles: Troubles, tmp_path: Path
) -> None:
    def build(attempt: Attempt) -> dict[str, int]:
        for number in range(6):
            (attempt.payload / f"{number}").write_bytes(os.urandom(100))
        return {}

    troubles.ahead += [Trouble("PUT", "payload/", "503", 3), Trouble("GET", "payload/", "cut", 3)]
    made = make_artifact(remote, tmp_path, Recipe("task_dataset", "shared"), build)
    verify_artifact(remote, made, tmp_path / "cache")
    folder = made.folder(remote, tmp_path / "cache")
    assert len(list((folder / "payload").iterdir())) == 6
    assert [ahead.times for ahead in troubles.ahead] == [0, 0]


def test_what_fails_begins_nothing_more() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise PermissionError(13, "Permission denied")
        time.sleep(0.05)

    with pytest.raises(PermissionError):
        each_at_once(work, list(range(50)))
    assert len(begun) < 10


def test_a_server_that_takes_requests_and_answers_none_is_asked_as_often_as_botocore_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not 25 times as often, which made half an hour of a minute."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        taken = list[socket.socket]()

        def take() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    taken.append(silent.accept()[0])

        Thread(target=take, daemon=True).start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = {"key": "a", "secret": "b", "endpoint_url": address, "config_kwargs": {"read_timeout": 0.3}}
        with pytest.raises(Exception, match="Read timeout") as away:
            Store("s3://bucket/store", options).read("a/b")
        assert unreachable(away.value)
        assert len(taken) == 2
