"""Keys of record trees: made once, of this user alone, kept when a new one is put before them."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import SHARED_OWNER, back_up, keys_of, owners, restore, rotate

ACME = "tenants/acme.json"


def test_a_key_is_made_on_first_use_and_stays(tmp_path: Path) -> None:
    first = keys_of(tmp_path / "keys", "acme").current
    assert keys_of(tmp_path / "keys", "acme").current == first
    assert len(first.secret) == 32
    assert (tmp_path / "keys" / ACME).stat().st_mode & 0o777 == 0o600
    assert keys_of(tmp_path / "keys", "globex").current != first
    assert keys_of(tmp_path / "keys", SHARED_OWNER).current != first
    assert owners(tmp_path / "keys") == [SHARED_OWNER, "acme", "globex"]


def test_a_lookup_is_the_hmac_of_the_identity(tmp_path: Path) -> None:
    key = keys_of(tmp_path, "acme").current
    assert key.lookup(b"i" * 32) == hmac.new(key.secret, b"i" * 32, hashlib.sha256).digest()


def test_of_many_that_make_one_at_once_all_get_the_same(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(keys_of(tmp_path, "acme").current.secret))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [file.name for file in (tmp_path / "tenants").iterdir()] == ["acme.json"]


def test_of_rotations_and_restores_at_once_no_key_is_lost(tmp_path: Path) -> None:
    folder, backup = tmp_path / "keys", tmp_path / "backup.json"
    lost = keys_of(folder, "acme").current
    back_up(folder, backup)
    (folder / ACME).unlink()
    found = [lost.id]
    threads = [
        threading.Thread(target=lambda: found.append(rotate(folder, "acme").current.id)) for _ in range(12)
    ]
    threads += [threading.Thread(target=restore, args=(folder, backup)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 13
    assert set(found) <= {key.id for key in keys_of(folder, "acme").keys}


def test_rotating_keeps_the_old_keys_behind_the_new_one(tmp_path: Path) -> None:
    old = keys_of(tmp_path, "acme").current
    rotated = rotate(tmp_path, "acme")
    assert rotated.current != old
    assert rotated.of_id(old.id) == old
    assert rotated.of_id("0" * 16) is None


def test_a_backup_brings_lost_keys_back_behind_those_that_were_made_since(tmp_path: Path) -> None:
    folder, backup = tmp_path / "keys", tmp_path / "backup.json"
    lost, shared = keys_of(folder, "acme").current, keys_of(folder, SHARED_OWNER).current
    assert back_up(folder, backup) == 2
    assert backup.stat().st_mode & 0o777 == 0o600
    (folder / ACME).unlink()
    new = keys_of(folder, "acme").current
    assert restore(folder, backup) == 1
    assert keys_of(folder, "acme").keys == (new, lost)
    assert keys_of(folder, SHARED_OWNER).keys == (shared,)
    assert restore(folder, backup) == 0


def test_a_rotation_takes_the_old_key_out_of_use_on_every_host_that_restores_its_backup(
    tmp_path: Path,
) -> None:
    here, there, backup = tmp_path / "here", tmp_path / "there", tmp_path / "backup.json"
    old = keys_of(here, "acme").current
    back_up(here, tmp_path / "first.json")
    restore(there, tmp_path / "first.json")
    new = rotate(here, "acme").current
    back_up(here, backup)
    assert restore(there, backup) == 1
    assert keys_of(there, "acme").keys == keys_of(here, "acme").keys == (new, old)
    assert restore(here, tmp_path / "first.json") == 0
    assert keys_of(here, "acme").current == new
    content = json.loads((there / ACME).read_text())
    content["keys"].reverse()  # as earlier versions left it
    (there / ACME).write_text(json.dumps(content))
    assert restore(there, backup) == 0
    assert keys_of(there, "acme").current == new


def test_a_rotated_key_is_later_than_the_one_before_whatever_the_clock_says(tmp_path: Path) -> None:
    ahead = "2999-01-01T00:00:00+00:00"
    keys_of(tmp_path, "acme")
    content = json.loads((tmp_path / ACME).read_text())
    content["keys"][0]["made"] = ahead
    (tmp_path / ACME).write_text(json.dumps(content))
    assert rotate(tmp_path, "acme").current.made > ahead


def test_a_backup_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read: No such file"):
        restore(tmp_path / "keys", tmp_path / "nowhere.json")


def test_a_backup_is_written_over_nothing(tmp_path: Path) -> None:
    keys_of(tmp_path / "keys", "acme")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        back_up(tmp_path / "keys", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema_version": 1, "keys": []}', '{"schema_version": 9}', "\0"]
)
def test_what_is_no_key_is_refused_and_not_replaced(tmp_path: Path, content: str) -> None:
    keys_of(tmp_path, "acme")
    (tmp_path / ACME).write_text(content)
    with pytest.raises(UserError, match=r"acme\.json"):
        keys_of(tmp_path, "acme")
    assert (tmp_path / ACME).read_text() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys_of(tmp_path, "acme")
    (tmp_path / ACME).chmod(0o640)
    with pytest.raises(UserError, match="others may read"):
        keys_of(tmp_path, "acme")


@pytest.mark.parametrize("content", ["{", '{"schema_version": 1, "owners": {"../x": []}}'])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "backup").write_text(content)
    with pytest.raises(UserError, match="not a backup"):
        restore(tmp_path / "keys", tmp_path / "backup")


def another_digit(file: Path) -> None:
    """Of the key alone; its id stays."""
    content = json.loads(file.read_text())
    keys = content.get("keys") or content["owners"]["acme"]
    keys[0]["key"] = ("1" if keys[0]["key"][0] == "0" else "0") + keys[0]["key"][1:]
    file.write_text(json.dumps(content))


def test_a_key_of_which_one_digit_was_changed_is_refused(tmp_path: Path) -> None:
    key, backup = keys_of(tmp_path / "keys", "acme").current, tmp_path / "backup.json"
    back_up(tmp_path / "keys", backup)
    file = tmp_path / "keys" / ACME
    another_digit(file)
    with pytest.raises(UserError, match=f"not a file of keys: the key {key.id} is another than it was"):
        keys_of(tmp_path / "keys", "acme")
    another_digit(backup)
    with pytest.raises(UserError, match=f"not a backup of keys: the key {key.id} is another"):
        restore(tmp_path / "others", backup)
