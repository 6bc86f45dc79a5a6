"""A witness in a git repository, and one behind HTTP, keep what a folder keeps, each number once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store.numbered import numbered
from ft_dagster.store.witness import FOLDER, Place
from ft_dagster.store.witness_git import GitPlace
from ft_dagster.store.witness_http import HttpPlace
from tests.store.witness_host import FIRST, A, opened

pytestmark = pytest.mark.slow
SECOND = "2" * 64
SERVER = Path(__file__).parent / "programs/witness_server.py"


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "witness.git"
    git("init", "--quiet", "--bare", str(folder))
    git("--git-dir", str(folder), "config", "receive.denyNonFastForwards", "true")
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    yield from serving(tmp_path / "served")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """One that asks for a token."""
    yield from serving(tmp_path / "guarded", "s3cr3t-token")


def serving(folder: Path, *token: str) -> Iterator[str]:
    folder.mkdir()
    command = [sys.executable, str(SERVER), str(folder), *token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


@pytest.fixture(params=["git", "http"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "http":
        return str(request.getfixturevalue("served"))
    return f"git+{request.getfixturevalue('repository')}"


def test_two_hosts_tell_it_and_a_log_that_was_cut_is_named(address: str, tmp_path: Path) -> None:
    here, there = opened(address, tmp_path / "here"), opened(address, tmp_path / "there")
    assert here.tell({A: Seen(1, FIRST)}) == {address: True}
    assert there.tell({A: Seen(2, SECOND)}) == {address: True}
    assert here.newest(here.places[0]).logs == {here.name_of(A): Seen(2, SECOND)}
    with pytest.raises(UserError, match=r"1 entry, and the witness .* saw 2: it was cut"):
        here.refuse_behind({A: ([FIRST], "the log")})
    assert here.faults({A: ([FIRST, SECOND], "the log")}) == []
    listed = list(there.checkpoints(9))
    assert [(one.position.number, one.by) for one in listed] == [(2, "builder"), (1, "builder")]
    assert here.seen_at(listed[1].position) == {here.name_of(A): Seen(1, FIRST)}


def test_a_number_is_taken_once(address: str, tmp_path: Path) -> None:
    hosts = [opened(address, tmp_path / name).places[0] for name in ("one", "two", "three")]
    path = numbered(FOLDER, 1)
    with ThreadPoolExecutor(3) as pool:
        told = [pool.submit(host.create_exclusively, path, b"%d" % at) for at, host in enumerate(hosts)]
        wrote = [one.result() for one in told]
    assert sum(wrote) == 1
    assert {host.read(path) for host in hosts} == {b"%d" % wrote.index(True)}
    assert not hosts[0].create_exclusively(path, b"again")
    assert hosts[1].names(FOLDER) == ["000001.json"]
    with pytest.raises(FileNotFoundError):
        hosts[0].read(numbered(FOLDER, 2))


def test_one_that_is_down_is_told_the_next_time_and_strict_refuses(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "ft_dagster.store.witness")
    address, away = f"git+{repository}", repository.with_name("away")
    repository.rename(away)
    here = opened(address, tmp_path / "here")
    assert here.tell({A: Seen(1, FIRST)}) == {address: False}
    assert f"the witness {address} could not be reached" in caplog.text
    with pytest.raises(UserError, match="could not be reached"):
        opened(address, tmp_path / "here", strict=True).refuse_behind({A: ([FIRST], "the log")})
    away.rename(repository)
    assert here.tell({}) == {address: True}
    assert here.newest(here.places[0]).logs == {here.name_of(A): Seen(1, FIRST)}


def test_an_endpoint_that_is_down_is_told_the_next_time(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9"  # nobody listens there
    assert opened(address, tmp_path / "here").tell({A: Seen(1, FIRST)}) == {address: False}
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 could not be reached: .*refused"):
        opened(address, tmp_path / "here", strict=True).refuse_behind({A: ([FIRST], "the log")})


def test_a_token_opens_an_endpoint_and_is_said_nowhere(
    guarded: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"it answers 401.*witness\.127\.0\.0\.1\.token"):
        opened(guarded, tmp_path / "here").tell({A: Seen(1, FIRST)})
    token = tmp_path / "keys/witness.127.0.0.1.token"
    token.parent.mkdir(exist_ok=True)
    token.write_text("wrong-t0ken\n")
    token.chmod(0o644)
    with pytest.raises(UserError, match="others may read this token"):
        opened(guarded, tmp_path / "here").tell({A: Seen(1, FIRST)})
    token.chmod(0o600)
    with pytest.raises(UserError, match="lets nobody in") as refused:
        opened(guarded, tmp_path / "here").tell({A: Seen(1, FIRST)})
    token.write_text("s3cr3t-token\n")
    assert opened(guarded, tmp_path / "here").tell({A: Seen(1, FIRST)}) == {guarded: True}
    assert "t0ken" not in str(refused.value) + caplog.text + "".join(os.environ.values())


SECRET = "pa55word"
MORE = "a password, or more than the address"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"git+https://ann:{SECRET}@example.invalid/w.git", MORE),
        (f"git+https://{SECRET}@example.invalid/w.git", MORE),
        (f"git+https://example.invalid/w.git?private_token={SECRET}", MORE),
        (f"git+ssh://git:{SECRET}@example.invalid/w.git", MORE),
        (f"https://ann:{SECRET}@example.invalid/w", MORE),
        (f"https://example.invalid/w?key={SECRET}", MORE),
        (f"https://example.invalid/w#{SECRET}", MORE),
        (f"s3://{SECRET}:{SECRET}@bucket/w", MORE),
        (f"ftp://ann:{SECRET}@example.invalid/w", MORE),
        (f"https://[{SECRET}/w", "the address of a witness is none"),
        (f"https://example.invalid:{SECRET}/w", "the address of a witness is none"),
        ("http://", "no host is named"),
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_without_saying_it(
    address: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        opened(address, tmp_path / "here")
    assert SECRET not in str(refused.value)


def test_a_token_goes_to_no_other_host_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "witness.example.invalid.token").write_text("x")
    with pytest.raises(UserError, match="sent in the clear"):
        HttpPlace("http://example.invalid/w", tmp_path)
    HttpPlace("https://example.invalid/w", tmp_path)


def test_git_gets_no_secret_of_this_process(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook of the repository, which git runs here as a child of its own, writes down what it was given."""
    monkeypatch.setenv("FT_DAGSTER_SIGNING_KEY", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    hook = repository / "hooks/update"
    hook.write_text(f"#!/bin/sh\nenv > {tmp_path}/given\n")
    hook.chmod(0o755)
    assert GitPlace(f"git+{repository}", tmp_path / "copy").create_exclusively(numbered(FOLDER, 1), b"{}")
    assert SECRET not in (tmp_path / "given").read_text()


def test_a_repository_that_takes_no_push_is_one_error(repository: Path, tmp_path: Path) -> None:
    hook = repository / "hooks/update"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    place: Place = GitPlace(f"git+{repository}", tmp_path / "copy")
    with pytest.raises(UserError, match=r"takes no checkpoint: .*hook declined"):
        place.create_exclusively(numbered(FOLDER, 1), b"{}")


@pytest.mark.parametrize(
    "address", ["git+{}/store/w.git", "{}/store/w", "{}/link/w", "git+file://{}/link/w.git"]
)
def test_a_place_in_the_store_is_no_witness(address: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with pytest.raises(UserError, match="a witness in the store itself shows nothing"):
        opened(address.format(tmp_path), tmp_path / "here")
