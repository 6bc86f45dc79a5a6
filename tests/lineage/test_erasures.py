"""The erasure log: append-only, chained, without a text or an identity; approvers, holds and the clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import (
    REQUEST,
    ErasureEntry,
    append,
    approve,
    hold,
    owners_with_erasures,
    read_erasures,
    state_of,
    states,
)
from ft_dagster.records.record_keys import BACKUP, REFUSALS, back_up, keys_of, restore
from ft_dagster.records.refusals import Refused, refusal_key, refusals, refused_of
from ft_dagster.store import Store

ONE, OTHER = b"\1" * 32, b"\2" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def ask(
    store: Store,
    keys: Path,
    owner: str = "acme",
    *,
    id: str = "r1",
    approvers: Sequence[str] = (),
    due: str = "2026-12-31",
) -> ErasureEntry:
    key = refusal_key(keys, owner)
    kept = refusals(key, [ONE])
    entry = ErasureEntry(REQUEST, id, owner, "ann", "art. 17", due=due, key=key.id, refusals=kept)
    entry = ErasureEntry(**{**vars(entry), "approvers": tuple(approvers)})
    return append(store, owner, lambda _: entry)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store/erasures/acme").glob("0*.json"))


def test_entries_are_chained_and_none_is_written_over(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys")
    ask(store, tmp_path / "keys", id="r2")
    before = [file.read_bytes() for file in files(tmp_path)]
    hold(store, "acme", "r2", by="law", reason="a trial")
    assert [file.read_bytes() for file in files(tmp_path)][:2] == before
    assert [each.action for each in read_erasures(store, "acme")] == ["request", "request", "hold"]
    assert owners_with_erasures(store) == ["acme"]


@pytest.mark.parametrize("which", [1, 2, 3])
def test_an_entry_that_was_changed_or_taken_out_is_named(store: Store, tmp_path: Path, which: int) -> None:
    for number in range(1, 4):
        ask(store, tmp_path / "keys", id=f"r{number}")
    file = files(tmp_path)[which - 1]
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "reason": "another"}))
    with pytest.raises(UserError, match=r"0000\d\d.json: .*(is not what entry|is not the one that)"):
        read_erasures(store, "acme")
    file.unlink()
    with pytest.raises(UserError, match=rf"00000{which}.json: this entry of an erasure log is missing"):
        read_erasures(store, "acme")


def test_a_number_or_a_count_far_away_is_one_error_and_no_loop(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys")
    far = tmp_path / "store/erasures/acme/99999999999999999.json"
    far.write_text("{}")
    with pytest.raises(UserError, match=r"000002\.json: this entry of an erasure log is missing"):
        read_erasures(store, "acme")
    far.unlink()
    head = tmp_path / "store/erasures/acme/head.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "entries": 10**17}))
    with pytest.raises(UserError, match=r"(000001|000002)\.json"):
        read_erasures(store, "acme")


def test_a_log_without_its_head_is_refused(store: Store, tmp_path: Path) -> None:
    """Without it nothing would tell that the newest entries were taken out."""
    for number in range(1, 4):
        ask(store, tmp_path / "keys", id=f"r{number}")
    (tmp_path / "store/erasures/acme/head.json").unlink()
    files(tmp_path)[-1].unlink()
    with pytest.raises(UserError, match=r"acme: head\.json of this erasure log is missing"):
        read_erasures(store, "acme")


@pytest.mark.parametrize("before", [0, 1])
def test_an_entry_whose_writer_was_killed_before_the_head_counts_and_is_held(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """`before`: entries. The next writer writes the head for it first, and may be killed as well."""
    for number in range(before):
        ask(store, tmp_path / "keys", id=f"before{number}")
    for id in ("r1", "r2"):
        with monkeypatch.context() as patch:
            patch.setattr(Store, "create_exclusively", created_and_killed)
            with pytest.raises(KeyboardInterrupt):
                ask(store, tmp_path / "keys", id=id)
    head = json.loads((tmp_path / "store/erasures/acme/head.json").read_text())
    assert head["entries"] == before + 1
    assert [one.request for one in read_erasures(store, "acme")][before:] == ["r1", "r2"]
    ask(store, tmp_path / "keys", id="r3")
    files(tmp_path)[-1].unlink()
    with pytest.raises(UserError, match=rf"00000{before + 3}\.json: this entry of an erasure log is missing"):
        read_erasures(store, "acme")


create_exclusively = Store.create_exclusively


def created_and_killed(store: Store, path: str, content: bytes) -> bool:
    create_exclusively(store, path, content)
    raise KeyboardInterrupt


def test_who_wrote_an_entry_moves_no_head_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer was so slow that another went on from it."""

    def slowly(self: Store, path: str, content: bytes) -> bool:
        monkeypatch.setattr(Store, "create_exclusively", create_exclusively)
        made = create_exclusively(self, path, content)
        ask(self, tmp_path / "keys", id="r2")
        return made

    refusal_key(tmp_path / "keys", "acme")
    monkeypatch.setattr(Store, "create_exclusively", slowly)
    ask(store, tmp_path / "keys")
    assert json.loads((tmp_path / "store/erasures/acme/head.json").read_text())["entries"] == 2


def test_a_head_that_appears_while_the_log_is_read_is_read_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader saw no head, and then two entries that were written meanwhile."""
    read, looked = Store.read_json, iter([True])

    def late(self: Store, path: str) -> object:
        if path.endswith("head.json") and next(looked, False):
            monkeypatch.setattr(Store, "read_json", read)
            for id in ("r1", "r2"):
                ask(store, tmp_path / "keys", id=id)
            raise FileNotFoundError(path)
        return read(self, path)

    monkeypatch.setattr(Store, "read_json", late)
    assert [one.request for one in read_erasures(store, "acme")] == ["r1", "r2"]


@pytest.mark.parametrize("field", ["at", "by", "request"])
def test_an_entry_with_a_number_for_a_text_is_named(store: Store, tmp_path: Path, field: str) -> None:
    ask(store, tmp_path / "keys")
    (file,) = files(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), field: 5}))
    with pytest.raises(UserError, match=r"000001\.json: not an entry of an erasure log"):
        read_erasures(store, "acme")


def test_an_entry_of_another_tenants_log_is_refused(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys")
    target = tmp_path / "store/erasures/globex/000001.json"
    target.parent.mkdir()
    target.write_bytes(files(tmp_path)[0].read_bytes())
    with pytest.raises(UserError, match=r"an entry of another owner's erasure log \(acme\)"):
        read_erasures(store, "globex")


def test_only_an_approver_approves_and_no_hold_is_passed_over(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys", approvers=["dpo"])
    (state,) = states(read_erasures(store, "acme"))
    assert state.said == "waits for approval by dpo"
    with pytest.raises(UserError, match="ann may not approve an erasure"):
        approve(store, "acme", "r1", by="ann", reason="x")
    hold(store, "acme", "r1", by="law", reason="a trial until May")
    with pytest.raises(UserError, match=r"law holds this request since .*: a trial until May"):
        approve(store, "acme", "r1", by="dpo", reason="x")
    assert state_of(read_erasures(store, "acme"), "r1").said == "on hold: a trial until May"
    hold(store, "acme", "r1", by="law", reason="it ended", lift=True)
    approve(store, "acme", "r1", by="dpo", reason="x")
    assert state_of(read_erasures(store, "acme"), "r1").said == "approved"
    with pytest.raises(UserError, match="nothing holds this request"):
        hold(store, "acme", "r1", by="law", reason="x", lift=True)


def test_the_clock_counts_days_and_the_first_due_comes_first(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys", due="2027-02-01")
    ask(store, tmp_path / "keys", id="r2", due="2027-01-01")
    first, second = states(read_erasures(store, "acme"))
    assert (first.asked.request, second.asked.request) == ("r2", "r1")
    assert (first.days_left(date(2026, 12, 30)), first.days_left(date(2027, 1, 3))) == (2, -2)


def test_a_request_keeps_an_hmac_under_a_key_of_its_own(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    entry = ask(store, keys)
    assert ONE.hex() not in json.dumps(entry.refusals)
    assert entry.refusals == (refusal_key(keys, "acme").lookup(ONE).hex(),)
    assert refusal_key(keys, "acme").secret != refusal_key(keys, "globex").secret
    (file,) = (keys / REFUSALS / "tenants").glob("acme.json")
    assert file.stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "store").rglob("*key*"))


def test_what_was_approved_is_refused_exactly_and_a_hold_stops_that(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert refused_of(store, keys, "acme") == Refused()
    assert not keys.exists()
    asked = ask(store, keys, approvers=["dpo"])
    assert refused_of(store, keys, "acme").since(ONE) is None
    approve(store, "acme", "r1", by="dpo", reason="x")
    refused = refused_of(store, keys, "acme")
    assert (refused.since(ONE), refused.since(OTHER)) == (asked.at[:10], None)
    assert refused_of(store, keys, "globex").since(ONE) is None
    hold(store, "acme", "r1", by="law", reason="x")
    assert refused_of(store, keys, "acme").since(ONE) is None


def test_a_lost_refusal_key_is_an_error_and_no_silence(store: Store, tmp_path: Path) -> None:
    ask(store, tmp_path / "keys")
    with pytest.raises(UserError, match=r"the refusal key [0-9a-f]{16} of acme is not here"):
        refused_of(store, tmp_path / "others", "acme")


def test_a_pod_takes_its_refusal_key_from_its_backup_and_no_record_key_for_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, inside, backup = tmp_path / "keys", tmp_path / "inside", tmp_path / "backup.json"
    back_up(keys, tmp_path / "older.json", ["acme"])  # before the first request
    asked = ask(store, keys)
    assert back_up(keys, backup, ["acme"]) == 1
    monkeypatch.setenv(BACKUP, str(tmp_path / "older.json"))
    with pytest.raises(UserError, match=r"no refusal key of acme.*audit key backup keys\.json --tenant acme"):
        refused_of(store, inside, "acme")
    monkeypatch.setenv(BACKUP, str(backup))
    assert refused_of(store, inside, "acme").since(ONE) == asked.at[:10]
    assert refusal_key(inside, "acme").secret == refusal_key(keys, "acme").secret


def test_a_backup_has_the_refusal_keys_of_its_owners_alone(tmp_path: Path) -> None:
    keys, backup = tmp_path / "keys", tmp_path / "backup.json"
    made = {owner: refusal_key(keys, owner) for owner in ("acme", "globex", "")}
    record_key = keys_of(keys, "acme").current
    assert back_up(keys, tmp_path / "one.json", ["acme"]) == 1
    assert restore(tmp_path / "one", tmp_path / "one.json") == 2
    assert refusal_key(tmp_path / "one", "acme") == made["acme"]
    assert refusal_key(tmp_path / "one", "globex") != made["globex"]
    back_up(keys, backup)
    other = refusal_key(tmp_path / "all", "acme")  # a request of another host
    restore(tmp_path / "all", backup)
    assert keys_of(tmp_path / "all" / REFUSALS, "acme").keys == (other, made["acme"])
    assert {owner: refusal_key(tmp_path / "all", owner) for owner in ("globex", "")} == {
        owner: made[owner] for owner in ("globex", "")
    }
    assert keys_of(tmp_path / "all", "acme").current == record_key
