"""Attacks by whoever writes a witness, or answers in its place: none makes a host believe another history."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import Trust
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import Store, witness_http
from ft_dagster.store.numbered import numbered, numbers, to_read
from ft_dagster.store.witness import FOLDER, Witnesses
from ft_dagster.store.witness_git import BRANCH, GitPlace
from ft_dagster.store.witness_http import HttpPlace
from tests.store.signing_keys import BUILDER, SIGNS

A, FIRST, SECOND, THIRD = "tenants/acme/a", "1" * 64, "2" * 64, "3" * 64


def host(folder: Path, place: Any, **more: Any) -> Witnesses:
    """A host of the project; all have the same key."""
    trust = Trust(Path("trust.yaml"), 1, (BUILDER,), signer=SIGNS, **more)
    return Witnesses(trust, (place,), folder.parent / "keys/witness.key", folder / "waiting")


@pytest.fixture
def here(store: Store, tmp_path: Path) -> Witnesses:
    told = host(tmp_path / "here", store)
    told.tell({A: Seen(1, FIRST)})
    told.tell({A: Seen(2, SECOND)})
    return told


def test_a_number_far_away_that_nobody_signed_is_not_seen(here: Witnesses, store: Store) -> None:
    store.write(numbered(FOLDER, 999_999), b"{}")
    with pytest.raises(UserError, match="nobody whom"):
        here.newest(store)
    store.remove([numbered(FOLDER, 999_999)])
    assert here.newest(store).number == 2


@pytest.mark.parametrize("name", ["3.json", "0000003.json", "000003", "9" * 19 + ".json", "٣٣٣٣٣٣.json"])
def test_a_file_by_another_name_has_no_number(here: Witnesses, store: Store, name: str) -> None:
    store.write(f"{FOLDER}/{name}", store.read(numbered(FOLDER, 1)))
    assert here.newest(store).number == 2
    assert numbers(store, FOLDER) == [1, 2]


def test_a_file_far_away_costs_one_read_of_a_log() -> None:
    assert list(to_read([1, 2, 10**17], 2)) == [1, 2, 3, 10**17]
    assert list(to_read([1, 3], 0)) == [1, 2, 3]
    assert list(to_read([2, 3, 4], 2)) == [1, 2, 3, 4]
    assert list(to_read([], 1)) == [1]


def other_history(store: Store, folder: Path, told: dict[str, Seen]) -> None:
    """Put checkpoints in place of those that are there, each signed by a builder."""
    elsewhere = Store(str(folder / "elsewhere"))
    other = host(folder / "other", elsewhere)
    for seen in (Seen(1, THIRD), *told.values()):
        other.tell({A: seen})
    for name in elsewhere.names(FOLDER):
        store.write(f"{FOLDER}/{name}", elsewhere.read(f"{FOLDER}/{name}"))


def test_a_signed_checkpoint_of_another_history_in_its_place_is_refused(
    here: Witnesses, store: Store, tmp_path: Path
) -> None:
    other_history(store, tmp_path, {A: Seen(2, THIRD)})
    with pytest.raises(UserError, match=r"000002\.json.*not the checkpoint that this host saw"):
        here.newest(store)


def test_one_that_goes_on_from_another_history_is_refused(
    here: Witnesses, store: Store, tmp_path: Path
) -> None:
    other_history(store, tmp_path, {A: Seen(2, THIRD), "more": Seen(3, SECOND)})
    with pytest.raises(UserError, match=r"000002\.json.*not the checkpoint that this host saw"):
        here.newest(store)


def test_an_old_checkpoint_under_a_new_number_is_refused(here: Witnesses, store: Store) -> None:
    store.write(numbered(FOLDER, 3), store.read(numbered(FOLDER, 1)))
    with pytest.raises(UserError, match="nobody whom"):
        here.newest(store)


@pytest.mark.parametrize("less", [{}, {A: Seen(1, FIRST)}, {A: Seen(2, THIRD)}])
def test_a_signed_checkpoint_that_says_less_is_refused(
    here: Witnesses, store: Store, less: dict[str, Seen]
) -> None:
    """As whoever has a stolen key writes one."""
    assert here._create(store, here.newest(store), {here.name_of(each): seen for each, seen in less.items()})
    file = here._seen_file(store)
    newest = file.read_text()
    with pytest.raises(UserError, match=r"000003\.json.*less of a log than checkpoint 2 before it"):
        list(here.checkpoints(9))
    file.write_text(f"2 {newest.split()[1]}")
    with pytest.raises(UserError, match=r"less of a log|not the checkpoint that this host saw"):
        here.newest(store)


@pytest.mark.parametrize("entries", ["1e999", '"many"', "[]", "null"])
def test_a_checkpoint_that_is_none_is_one_error(here: Witnesses, store: Store, entries: str) -> None:
    said = json.loads(store.read(numbered(FOLDER, 2)))
    content = json.dumps(said | {"logs": {"x": [7, FIRST]}}).replace("[7,", f"[{entries},")
    store.write(numbered(FOLDER, 3), content.encode())
    with pytest.raises(UserError, match="nobody whom"):
        here.newest(store)


def test_what_older_versions_noted_as_seen_still_holds(here: Witnesses, store: Store) -> None:
    file = here._seen_file(store)
    file.write_text("2\n")
    assert here.newest(store).number == 2
    assert len(file.read_text().split()) == 2
    file.write_text("not a number\n")
    with pytest.raises(UserError, match=r"\.seen.*not what was seen at a witness"):
        here.newest(store)


# ---- git


def git(*words: str, given: bytes = b"") -> str:
    return (
        subprocess.run(["git", *words], check=True, capture_output=True, input=given).stdout.decode().strip()
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "witness.git"
    git("init", "--quiet", "--bare", str(folder))
    return folder


def committed(repository: Path, kind: str, mode: str, sha: str) -> None:
    """The branch's newest commit has a thing of this kind as checkpoint 1."""
    inside = ("--git-dir", str(repository))
    folder = git(*inside, "mktree", given=f"{mode} {kind} {sha}\t000001.json\n".encode())
    tree = git(*inside, "mktree", given=f"040000 tree {folder}\t{FOLDER}\n".encode())
    who = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
    commit = git(*inside, *who, "commit-tree", tree, "-m", "x")
    git(*inside, "update-ref", BRANCH, commit)


def test_a_folder_in_a_repository_in_place_of_a_checkpoint_is_one_error(
    repository: Path, tmp_path: Path
) -> None:
    empty = git("--git-dir", str(repository), "mktree")
    committed(repository, "tree", "040000", empty)
    place = GitPlace(f"git+{repository}", tmp_path / "copy")
    with pytest.raises(IsADirectoryError):
        place.read(numbered(FOLDER, 1))
    told = host(tmp_path / "here", place)
    told._make_key()
    with pytest.raises(UserError, match="nobody whom"):
        told.newest(place)


def test_a_checkpoint_too_large_is_not_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.store.witness_git.MOST_BYTES", 1000)
    sha = git("--git-dir", str(repository), "hash-object", "-w", "--stdin", given=b"x" * 2000)
    committed(repository, "blob", "100644", sha)
    with pytest.raises(UserError, match="a checkpoint of more than 1000 bytes"):
        GitPlace(f"git+{repository}", tmp_path / "copy").read(numbered(FOLDER, 1))


def test_a_branch_whose_name_ends_alike_is_not_the_witness(repository: Path, tmp_path: Path) -> None:
    place = GitPlace(f"git+{repository}", tmp_path / "copy")
    assert place.create_exclusively(numbered(FOLDER, 1), b"{}")
    git("--git-dir", str(repository), "update-ref", f"refs/a/{BRANCH}", BRANCH)
    git("--git-dir", str(repository), "update-ref", "-d", BRANCH)
    assert GitPlace(f"git+{repository}", tmp_path / "other").names(FOLDER) == []


# ---- HTTP


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An endpoint that answers all as it likes."""

    class Any(BaseHTTPRequestHandler):
        do_GET = do_PUT = answer

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Any) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def saying(status: int, content: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers["Content-Length"] or 0))
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.mark.parametrize("said", [b"-1", b"9" * 19, b"1_0", b"", b"1 2", "٣".encode()])
def test_what_is_no_number_is_one_error(said: bytes, tmp_path: Path) -> None:
    with (
        answering(saying(200, said)) as url,
        pytest.raises(UserError, match="no number of at most 18 digits"),
    ):
        HttpPlace(url, tmp_path).names(FOLDER)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_one_that_takes_a_checkpoint_and_keeps_none_is_not_believed(status: int, tmp_path: Path) -> None:
    def forget(request: BaseHTTPRequestHandler) -> None:
        saying(status if request.command == "PUT" else 404)(request)

    with answering(forget) as url, pytest.raises(UserError, match="another checkpoint than it took"):
        HttpPlace(url, tmp_path).create_exclusively(numbered(FOLDER, 1), b"{}")


def test_an_answer_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_http, "TOTAL_SECONDS", 1)
    done = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not done.wait(0.1):
            request.wfile.write(b"1")

    try:
        with answering(drip) as url, pytest.raises(ConnectionError):
            HttpPlace(url, tmp_path).names(FOLDER)
    finally:
        done.set()


@pytest.mark.parametrize("token", [b"two words", b"one\nHost: other", "tokén".encode(), b""])
def test_a_token_that_is_none_is_refused_without_saying_it(token: bytes, tmp_path: Path) -> None:
    file = tmp_path / "witness.127.0.0.1.token"
    file.write_bytes(token)
    file.chmod(0o600)
    with answering(saying(200, b"0")) as url, pytest.raises(UserError, match="not a token") as refused:
        HttpPlace(url, tmp_path).names(FOLDER)
    assert not token or token.decode() not in str(refused.value)


def test_a_token_for_this_host_goes_through_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        with answering(saying(200, b"0")) as url:
            assert HttpPlace(url, tmp_path).names(FOLDER) == []
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_revoked_key_makes_nothing_anew(here: Witnesses, store: Store, tmp_path: Path) -> None:
    """Its checkpoints still hold, and another history that it signed later is still another."""
    other_history(store, tmp_path, {A: Seen(2, THIRD)})
    revoked = replace(here.trust, keys=(replace(BUILDER, revoked=True),))
    with pytest.raises(UserError, match="not the checkpoint that this host saw"):
        replace(here, trust=revoked).newest(store)
