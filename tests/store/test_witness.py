"""What a witness knows of release logs, and what it refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import leaf_hash, root_of
from ft_dagster.provenance.signing import Signer, Trust, envelope_content
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import Store
from ft_dagster.store.numbered import numbered
from ft_dagster.store.witness import FOLDER, Witnesses
from tests.store.signing_keys import AUDITOR, BUILDER, SIGNS, STRANGER, VOUCHES

A, B = "tenants/acme/a", "tenants/acme/b"
FIRST, SECOND, OTHER = ("1" * 64, "2" * 64, "3" * 64)
"""Stands for the sha256 of an entry."""


def trust(signer: Signer | None = SIGNS, **more: Any) -> Trust:
    return Trust(Path("trust.yaml"), 1, (BUILDER,), signer=signer, **more)


def witnesses(place: Store, host: Path, **more: Any) -> Witnesses:
    return Witnesses(trust(**more), (place,), host.parent / "keys/witness.key", host / "waiting")


def test_it_knows_each_log_that_it_was_told_of_under_a_name_that_says_nothing(
    any_store: Store, tmp_path: Path
) -> None:
    here = witnesses(any_store, tmp_path / "here")
    here.tell({A: Seen(1, FIRST)})
    witnesses(any_store, tmp_path / "there").tell({B: Seen(1, OTHER)})  # another host
    here.tell({A: Seen(2, SECOND)})
    known = here.newest(any_store)
    assert known.number == 3
    assert known.logs == {here.name_of(A): Seen(2, SECOND), here.name_of(B): Seen(1, OTHER)}
    files = [any_store.read(f"{FOLDER}/{name}") for name in any_store.files_below(FOLDER)]
    assert len(files) == 3
    assert not any(b"acme" in content for content in files)
    here.tell({A: Seen(2, SECOND)})
    assert here.newest(any_store).number == 3, "nothing new is no checkpoint"


def test_a_log_that_was_cut_or_changed_is_refused(store: Store, tmp_path: Path) -> None:
    told = witnesses(store, tmp_path / "here")
    told.tell({A: Seen(2, SECOND)})
    told.refuse_behind({A: ([FIRST, SECOND], "the log")})
    told.refuse_behind({A: ([FIRST, SECOND, OTHER], "the log")})
    told.refuse_behind({B: ([], "the log")})
    for hashes, said in (([FIRST], "1 entry, and the witness"), ([FIRST, OTHER], "a fork")):
        with pytest.raises(UserError, match=said):
            told.refuse_behind({A: (hashes, "the log")})
        assert [said in line for line in told.faults({A: (hashes, "the log")})] == [True]
    assert told.faults({A: ([FIRST, SECOND], "the log")}) == []
    [gone] = told.faults({B: ([], "the log")})
    assert "1 release log that it saw is not in the store" in gone


def test_a_store_without_a_release_begins_its_witness_and_then_releases(store: Store, tmp_path: Path) -> None:
    told = witnesses(store, tmp_path / "here")
    with pytest.raises(UserError, match="this witness was told nothing yet"):
        told.refuse_behind({A: ([], "the log")})
    assert told.tell({}) == {store.url: True}
    assert told.newest(store).number == 1
    told.refuse_behind({A: ([], "the log")})
    assert told.faults({}) == []
    told.tell({A: Seen(1, FIRST)})
    assert told.tell({}) == {store.url: True}
    assert told.newest(store).number == 2


def rewritten(place: Store, told: Witnesses) -> None:
    """The newest checkpoint's logs are others."""
    path = numbered(FOLDER, 1)
    said = json.loads(place.read(path))
    said["logs"][told.name_of(A)] = [1, FIRST]
    place.write(path, json.dumps(said).encode())


def by_a_stranger(place: Store, told: Witnesses) -> None:
    strange = replace(told, trust=replace(told.trust, signer=STRANGER, keys=(BUILDER, STRANGER.key)))
    strange.tell({A: Seen(9, OTHER)})


def no_checkpoint(place: Store, told: Witnesses) -> None:
    place.write(numbered(FOLDER, 2), b"[]")


def a_folder(place: Store, told: Witnesses) -> None:
    (Path(place.root) / numbered(FOLDER, 2)).mkdir()


@pytest.mark.parametrize("forge", [rewritten, by_a_stranger, no_checkpoint, a_folder])
def test_a_checkpoint_that_nobody_signed_is_refused(store: Store, tmp_path: Path, forge: Any) -> None:
    told = witnesses(store, tmp_path / "here")
    told.tell({A: Seen(2, SECOND)})
    forge(store, told)
    with pytest.raises(UserError, match=r"nobody whom trust\.yaml lists signed this checkpoint"):
        told.newest(store)
    [line] = told.faults({A: ([FIRST, SECOND], "the log")})
    assert "signed this checkpoint" in line


class Away(Store):
    """A witness whose network is down."""

    def names(self, relative: str) -> list[str]:
        raise ConnectionRefusedError("nobody listens there")


def test_what_could_not_be_told_is_told_the_next_time(store: Store, tmp_path: Path) -> None:
    away = witnesses(Away(store.url), tmp_path / "here")
    assert away.tell({A: Seen(1, FIRST)}) == {store.url: False}
    away.refuse_behind({A: ([], "the log")})  # nobody can say
    assert "could not be reached" in away.faults({})[0]
    back = witnesses(store, tmp_path / "here")
    assert back.tell({B: Seen(1, OTHER)}) == {store.url: True}
    assert set(back.newest(store).logs) == {back.name_of(A), back.name_of(B)}
    assert list((tmp_path / "here/waiting").glob("*.json")) == []


def test_strict_releases_nothing_while_a_witness_is_away(store: Store, tmp_path: Path) -> None:
    strict = witnesses(Away(store.url), tmp_path / "here", strict=True)
    with pytest.raises(UserError, match="could not be reached"):
        strict.refuse_behind({A: ([], "the log")})


def test_without_a_key_nothing_is_appended(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this process has no key"):
        witnesses(store, tmp_path / "here", signer=None).refuse_behind({A: ([], "the log")})


def test_hosts_with_other_keys_are_told_so(store: Store, tmp_path: Path) -> None:
    witnesses(store, tmp_path / "one/host").tell({A: Seen(1, FIRST)})
    other = witnesses(store, tmp_path / "two/host")
    for ask in (partial(other.tell, {A: Seen(2, SECOND)}), partial(other.newest, store)):
        with pytest.raises(UserError, match=r"cannot be read: No such file .* Copy witness\.key"):
            ask()
    assert not other.key_file.exists(), "a question makes no key, nor does who comes later"
    witnesses(Store(str(tmp_path / "elsewhere")), tmp_path / "two/host").tell({A: Seen(1, FIRST)})
    with pytest.raises(UserError, match="the witness knows logs by another key"):
        other.newest(store)


def test_who_is_told_of_later_is_told_though_another_process_cleared_what_waited(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = witnesses(store, tmp_path / "here")
    monkeypatch.setattr(Witnesses, "_kept", lambda self: {})
    here.tell({A: Seen(1, FIRST)})
    assert here.newest(store).logs == {here.name_of(A): Seen(1, FIRST)}


def test_a_log_is_proven_without_the_others(store: Store, tmp_path: Path) -> None:
    told = witnesses(store, tmp_path / "here")
    told.tell({f"tenants/acme/{n}": Seen(n, FIRST) for n in range(1, 8)})
    [proof] = told.proofs("tenants/acme/3").values()
    root = json.loads(envelope_content(proof["envelope"]))["root"]
    path = [bytes.fromhex(each) for each in proof["path"]]
    found = root_of(leaf_hash(proof["leaf"].encode()), proof["index"], proof["size"], path)
    assert found is not None
    assert found.hex() == root
    assert proof["leaf"].endswith(f":3:{FIRST}")
    assert told.proofs("tenants/acme/nobody") == {}


def test_a_witness_that_is_not_there_any_more_is_not_taken_for_a_new_one(
    store: Store, tmp_path: Path
) -> None:
    told = witnesses(store, tmp_path / "here")
    told.tell({A: Seen(2, SECOND)})
    Path(store.root).rename(tmp_path / "unmounted")
    with pytest.raises(UserError, match="0 checkpoints, and this host saw 1: it is not there"):
        told.refuse_behind({A: ([FIRST], "the log")})
    with pytest.raises(UserError, match="told nothing yet: it is new, or not there"):
        witnesses(store, tmp_path / "other").refuse_behind({A: ([FIRST], "the log")})
    witnesses(store, tmp_path / "other").refuse_behind({A: ([FIRST], "the log")}, begins=True)


def test_a_log_beyond_what_was_told_is_said(store: Store, tmp_path: Path) -> None:
    """A process was killed between its entry and the witness."""
    told = witnesses(store, tmp_path / "here")
    told.tell({A: Seen(1, FIRST)})
    said = told.faults({A: ([FIRST, SECOND], "the log"), B: ([OTHER], "another")})
    assert [line.partition(",")[0] for line in said] == ["the log: 2 entries", "another: 1 entry"]
    told.tell({A: Seen(2, SECOND), B: Seen(1, OTHER)})
    assert told.faults({A: ([FIRST, SECOND], "the log"), B: ([OTHER], "another")}) == []


def test_a_checkpoint_of_a_key_that_is_revoked_still_holds_logs_to_what_it_saw(
    store: Store, tmp_path: Path
) -> None:
    told = witnesses(store, tmp_path / "here")
    told.tell({A: Seen(2, SECOND)})
    keys = (replace(BUILDER, revoked=True), AUDITOR)
    after = replace(told, trust=Trust(Path("trust.yaml"), 2, keys, signer=VOUCHES))
    with pytest.raises(UserError, match="it was cut"):
        after.refuse_behind({A: ([FIRST], "the log")})
    after.tell({A: Seen(3, OTHER)})
    assert after.newest(store).number == 2


def test_of_processes_that_begin_at_once_one_makes_the_key(tmp_path: Path) -> None:
    for turn in range(20):
        here = witnesses(Store(str(tmp_path / f"{turn}/w")), tmp_path / f"{turn}/host")
        barrier = Barrier(4)

        def name(here: Witnesses = here, barrier: Barrier = barrier) -> str:
            barrier.wait()
            here._make_key()
            return here.name_of(A)

        with ThreadPoolExecutor(4) as pool:
            assert len({one.result() for one in [pool.submit(name) for _ in range(4)]}) == 1
