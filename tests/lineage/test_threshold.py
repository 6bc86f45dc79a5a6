"""Where two have to sign an entry of a release log, it counts once two have, and not before."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import countersign, entry_path, folder_of, read_log, uncounted_words, waiting
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.lineage.statements import sign_history, unsigned
from ft_dagster.provenance.signing import RELEASE, Signer, Trust
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import Store
from ft_dagster.store.witness import Witnesses
from tests.lineage.releases import PREFIX, judged, put
from tests.present import present
from tests.store.signing_keys import APPROVER, APPROVES, AUDITOR, BUILDER, SIGNS, VOUCHES, key

OTHER, SIGNS_TOO = key("other")
KEYS = (BUILDER, OTHER, AUDITOR, APPROVER)


def root(signer: Signer | None, *, needed: int = 2, **more: Any) -> Trust:
    return Trust(Path("trust.yaml"), 1, KEYS, "refused", signer=signer, thresholds={RELEASE: needed}, **more)


@pytest.fixture
def waits(store: Store) -> Store:
    """Version 1 is in production, signed by two; the builder signed version 2, which waits."""
    store.trust = root(SIGNS)
    with pytest.raises(UserError, match=r"release of version 1 by ann waits for 1 more signature"):
        put(store, judged(store, "one"))
    assert signed_too(store, SIGNS_TOO) == 0
    store.trust = root(SIGNS)
    with pytest.raises(UserError, match="release of version 2 by ann waits for 1 more signature"):
        put(store, judged(store, "two"))
    return store


def signed_too(store: Store, signer: Signer) -> int:
    store.trust = root(signer)
    seen = waiting(store, PREFIX, read_log(store, PREFIX))
    assert seen is not None
    return countersign(store, PREFIX, seen)


def test_an_entry_that_one_signed_does_not_count_and_the_log_is_read(waits: Store) -> None:
    log = read_log(waits, PREFIX)
    assert [entry.version for entry in log.entries] == [1]
    assert log.entries[0].signed == "signed by builder and other"
    [said] = uncounted_words(waits, PREFIX, log)
    assert said.endswith("000002.json: release of version 2 by ann waits for 1 more signature")


def test_once_another_signed_it_counts(waits: Store) -> None:
    assert signed_too(waits, SIGNS_TOO) == 0
    assert [entry.production for entry in read_log(waits, PREFIX).entries] == [1, 2]
    assert waiting(waits, PREFIX, read_log(waits, PREFIX)) is None


def test_who_signs_too_is_told_that_a_promotion_was_forced(waits: Store) -> None:
    seen = present(waiting(waits, PREFIX, read_log(waits, PREFIX)))
    forced = replace(seen.entry, action="promote", forced=True)
    assert replace(seen, entry=forced).words.startswith("promote (forced) of version 2 by ann waits")


def test_nothing_is_appended_after_what_waits(waits: Store) -> None:
    for signer in (SIGNS, SIGNS_TOO):
        waits.trust = root(signer)
        with pytest.raises(UserError, match=r"waits for 1 more signature.*trust countersign acme\.support"):
            put(waits, judged(waits, "three"))


def test_a_key_or_a_person_signs_once(waits: Store) -> None:
    with pytest.raises(UserError, match="builder signed this already"):
        signed_too(waits, SIGNS)
    again, signs_again = key("ann-again", "approver", person="ann")
    waits.trust = root(APPROVES)
    seen = waiting(waits, PREFIX, read_log(waits, PREFIX))
    assert seen is not None
    assert root(APPROVES).lacks(RELEASE, [APPROVER, again]) == 1
    assert countersign(waits, PREFIX, seen) == 0
    with pytest.raises(UserError, match="ann signed this already"):
        by_ann_alone(waits, signs_again)


def by_ann_alone(store: Store, again: Signer) -> None:
    """Ann puts a version, and signs it again by her other key."""
    store.trust = root(SIGNS)
    candidate = judged(store, "three")
    store.trust = replace(root(APPROVES), keys=(*KEYS, again.key), known={})
    with pytest.raises(UserError, match="waits for 1 more"):
        put(store, candidate)
    store.trust = replace(store.trust, signer=again, known={})
    seen = waiting(store, PREFIX, read_log(store, PREFIX))
    assert seen is not None
    countersign(store, PREFIX, seen)


def test_what_one_signed_and_wrote_the_head_for_is_refused_until_an_auditor_signs_it(waits: Store) -> None:
    """As who has one of the keys and writes the store."""
    content = waits.read(entry_path(PREFIX, 2))
    head = {"schema_version": 1, "entries": 2, "sha256": hashlib.sha256(content).hexdigest()}
    waits.write_json(f"{folder_of(PREFIX)}/{HEAD}", head)
    waits.trust = root(None)
    with pytest.raises(UserError, match=r"000002\.json: 1 of the 2 signatures that it needs by trust\.yaml"):
        read_log(waits, PREFIX)
    waits.trust = replace(root(VOUCHES), unsigned="accepted")
    assert entry_path(PREFIX, 2) in [one.path for one in unsigned(waits)]
    assert entry_path(PREFIX, 2) in [one.path for one in sign_history(waits)]
    waits.trust = root(None)
    assert len(read_log(waits, PREFIX).entries) == 2


def test_a_signature_that_is_taken_away_is_an_error_and_no_rollback(waits: Store) -> None:
    for file in Path(waits.root, PREFIX, "signatures").glob(f"*.{OTHER.id}.json"):
        file.unlink()
    waits.trust = root(None)
    with pytest.raises(UserError, match="1 of the 2 signatures"):
        read_log(waits, PREFIX)


def test_another_entry_than_was_shown_is_not_signed(waits: Store) -> None:
    waits.trust = root(SIGNS_TOO)
    seen = waiting(waits, PREFIX, read_log(waits, PREFIX))
    assert seen is not None
    with pytest.raises(UserError, match="another entry than was shown"):
        countersign(waits, PREFIX, replace(seen, content=b"{}"))


def test_a_key_that_began_later_than_the_entry_does_not_sign_it(waits: Store) -> None:
    """Its signature would not count, and the entry would wait for ever."""
    late, signs_late = key("late")
    late = replace(late, begins=datetime.now(UTC) + timedelta(seconds=1))
    time.sleep(1.1)
    waits.trust = replace(root(Signer(late, signs_late._signer)), keys=(*KEYS, late), known={})
    seen = waiting(waits, PREFIX, read_log(waits, PREFIX))
    assert seen is not None
    with pytest.raises(UserError, match="the key late does not count on what was made then"):
        countersign(waits, PREFIX, seen)


def test_a_witness_is_told_once_it_counts(waits: Store, tmp_path: Path) -> None:
    place = Store(str(tmp_path / "witness"))
    trust = root(SIGNS_TOO)
    told = Witnesses(trust, (place,), tmp_path / "keys/witness.key", tmp_path / "host")
    waits.trust, waits.witnesses = trust, told
    log = read_log(waits, PREFIX)
    told.tell({PREFIX: Seen(1, log.hashes[0])})
    seen = waiting(waits, PREFIX, log)
    assert seen is not None
    assert told.newest(place).logs[told.name_of(PREFIX)].entries == 1
    countersign(waits, PREFIX, seen)
    assert told.newest(place).logs[told.name_of(PREFIX)].entries == 2
