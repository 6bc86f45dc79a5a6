"""The release log: only what was judged, append-only, numbered, the same payload once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import ReleaseLog, read_log, recalled_log
from ft_dagster.lineage.release import export_of, history, production, promote, rollback
from ft_dagster.lineage.served import aliases
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.store import Store
from tests.lineage.releases import (
    BROKEN,
    GATES,
    PREFIX,
    VERDICT,
    WEIGHTS,
    artifact,
    judged,
    put,
    released,
    served,
    sha256_of,
    why,
    with_inputs,
)
from tests.present import present


def test_a_release_says_what_was_released_and_why(store: Store) -> None:
    given = judged(store)
    entry = put(store, given)

    assert entry.to_json() == store.read_json(f"{PREFIX}/releases/000001.json")
    expected = {
        "version": 1,
        "action": "release",
        "variant": "acme.support",
        "export": given.export.digest,
        "export_key": given.export.place.key,
        "previous": None,
        "export_manifest": sha256_of(store, given.export),
        "evaluation_manifest": sha256_of(store, given.evaluation),
        "certificate": hashlib.sha256(b'{"of": "export"}').hexdigest(),
        "weights": given.export.inputs["fine_tuned_model"],
        "evaluation": given.evaluation.digest,
        "gates": GATES,
        "format": "adapter",
        "run_id": "run-1",
        "by": "ann",
        "reason": "materialized",
    }
    assert {name: getattr(entry, name) for name in expected} == expected


def test_releasing_the_same_payload_again_gives_the_standing_entry(store: Store) -> None:
    first = put(store, judged(store))
    again = put(store, judged(store), run_id="run-2")

    assert again == first
    assert len(history(store, PREFIX)) == 1


def test_versions_count_up_and_the_newest_is_in_production(store: Store) -> None:
    assert production(store, PREFIX) is None
    for content in ("one", "two", "three"):
        put(store, judged(store, content))

    assert [entry.version for entry in history(store, PREFIX)] == [1, 2, 3]
    newest = production(store, PREFIX)
    assert newest is not None
    assert newest.version == 3


def test_one_payload_is_one_version_and_is_served_again_when_it_is_made_again(store: Store) -> None:
    one, two = judged(store, "one"), judged(store, "two")
    for given in (one, two, one):
        put(store, given)

    story = [(entry.action, entry.version, entry.production) for entry in history(store, PREFIX)]
    assert story == [("release", 1, 1), ("release", 2, 2), ("promote", 1, 1)]


def test_an_older_payload_that_must_be_approved_does_not_come_back_by_itself(store: Store) -> None:
    released(store, "one", "two")
    (again,) = released(store, "one", approvers=("ann",))
    assert (again.version, served(store)) == (1, 2)


def test_two_releases_at_once_both_get_an_entry_of_their_own(store: Store) -> None:
    given = [judged(store, f"export {number}") for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        entries = list(pool.map(lambda g: put(store, g), given))

    assert sorted(entry.version for entry in entries) == list(range(1, 13))
    assert [entry.version for entry in history(store, PREFIX)] == list(range(1, 13))


@pytest.mark.parametrize("read", [read_log, recalled_log])
def test_a_log_that_gets_its_first_entries_while_it_is_read_is_whole(
    store: Store, read: Callable[[Store, str], ReleaseLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [judged(store, "one"), judged(store, "two")]

    def names(relative: str) -> list[str]:
        monkeypatch.undo()  # what others wrote after the head was looked for, and before the entries were
        for each in given:
            put(store, each)
        return store.names(relative)

    monkeypatch.setattr(store, "names", names)

    assert [entry.version for entry in read(store, PREFIX).entries] == [1, 2]


def test_entries_are_never_changed(store: Store) -> None:
    put(store, judged(store, "one"))
    before = store.read(f"{PREFIX}/releases/000001.json")
    put(store, judged(store, "two"))

    assert store.read(f"{PREFIX}/releases/000001.json") == before
    assert store.names(f"{PREFIX}/releases") == ["000001.json", "000002.json", "head.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda g: {"export": with_inputs(g.export, fine_tuned_model="d" * 64)},
            "other weights than the eval",
        ),
        (lambda g: {"evaluation": with_inputs(g.evaluation, fine_tuned_model="d" * 64)}, "other weights"),
        (lambda g: {"export": with_inputs(g.export, evaluation="d" * 64)}, "made for another evaluation"),
        (lambda g: {"gates": "d" * 64}, "the gates changed after the evaluation"),
        (
            lambda g: {"certificate": replace(g.certificate, judged="d" * 64)},
            "certificate is of other weights",
        ),
        (lambda g: {"certificate": replace(g.certificate, payload="d" * 64)}, "of another payload"),
        (
            lambda g: {"certificate": replace(g.certificate, failures=("it answers otherwise",))},
            "certificate of the export does not",
        ),
        (lambda g: {"verdict": BROKEN}, "the gate does not hold for weights [0-9a-f]{12}: it fell"),
        (lambda g: {"verdict": Verdict(False, "fail", ())}, "no rule was judged"),
    ],
)
def test_what_was_not_judged_as_it_stands_is_refused(store: Store, change: Any, said: str) -> None:
    given = judged(store)
    with pytest.raises(UserError, match=said):
        put(store, replace(given, **change(given)))
    assert history(store, PREFIX) == []


def test_what_stands_in_production_is_refused_too_once_its_gates_changed(store: Store) -> None:
    given = judged(store)
    put(store, given)
    with pytest.raises(UserError, match="the gates changed"):
        put(store, replace(given, gates="d" * 64))


def test_an_export_that_names_no_weights_is_refused(store: Store) -> None:
    given = judged(store)
    bare = artifact(store, "model_export", "bare", {"evaluation": given.evaluation.digest})
    with pytest.raises(UserError, match="other weights"):
        put(store, replace(given, export=bare))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not an entry of a release log"),
        ("[]", "not an entry of a release log"),
        (json.dumps({"schema_version": 4, "action": "release"}), "newer ft-dagster"),
        (json.dumps({"schema_version": 2, "action": "teleport"}), "newer ft-dagster"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(store: Store, content: str, said: str) -> None:
    store.write(f"{PREFIX}/releases/000001.json", content.encode())
    with pytest.raises(UserError, match=rf"000001\.json.*{said}"):
        production(store, PREFIX)


@pytest.mark.parametrize(
    ("drifted", "own", "holds"),
    [(True, VERDICT, True), (True, None, False), (True, BROKEN, False), (False, VERDICT, False)],
)
def test_a_merge_that_drifted_is_released_by_a_verdict_on_its_own_bytes(
    store: Store, drifted: bool, own: Verdict | None, holds: bool
) -> None:
    given = judged(store)
    far = replace(given.certificate, failures=("mean KL 0.01 nats a token",))
    read_alike = {**far.figures, "chat_ids_equal": float(drifted)}
    given = replace(given, certificate=replace(far, figures=read_alike), own_verdict=own)
    if holds:
        assert put(store, given).version == 1
        return
    with pytest.raises(UserError, match="certificate of the export does not hold"):
        put(store, given)


def test_a_rollback_serves_the_version_before_and_deletes_nothing(store: Store) -> None:
    released(store, "one", "two")
    entry = rollback(store, PREFIX, why("worse answers", "ann"))

    assert (entry.action, entry.production, entry.from_version) == ("rollback", 1, 2)
    assert present(production(store, PREFIX)).export == judged(store, "one").export.digest
    assert [e.action for e in history(store, PREFIX)] == ["release", "release", "rollback"]
    assert export_of(store, PREFIX, 2, Path(tempfile.mkdtemp())).digest == judged(store, "two").export.digest


def test_what_was_rolled_back_is_not_released_again_by_itself(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    (again,) = released(store, "two")

    assert again.version == 2
    assert served(store) == 1
    with pytest.raises(UserError, match="was rolled back: worse answers"):
        promote(store, PREFIX, 2, why(""))
    with pytest.raises(UserError, match="was rolled back"):
        promote(store, PREFIX, 2, why(""), force=True)  # a force without a reason


def test_a_forced_promotion_says_why_and_lifts_the_rollback(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    entry = promote(store, PREFIX, 2, why("the questions were wrong"), force=True)

    assert (entry.forced, entry.reason, served(store)) == (True, "the questions were wrong", 2)
    assert promote(store, PREFIX, 2, why("again")) == entry
    assert len(history(store, PREFIX)) == 4


def test_after_a_rollback_new_weights_are_a_new_version(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    (third,) = released(store, "three")

    assert (third.version, served(store)) == (3, 3)
    assert rollback(store, PREFIX, why("worse too")).production == 1  # 2 stays rolled back


def test_a_rollback_goes_to_a_named_version(store: Store) -> None:
    released(store, "one", "two", "three")
    assert rollback(store, PREFIX, why("far back"), 1).production == 1


def test_a_rollback_does_not_lead_to_what_was_rolled_back(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    released(store, "three")
    with pytest.raises(UserError, match="version 2 was rolled back"):
        rollback(store, PREFIX, why("x"), 2)


@pytest.mark.parametrize(
    ("contents", "to", "said"),
    [
        ((), None, "nothing was released"),
        (("one",), None, "version 1 is the first"),
        (("one", "two"), 2, "a rollback goes back"),
        (("one", "two"), 7, "no such version"),
    ],
)
def test_a_rollback_that_cannot_be_is_refused_and_writes_nothing(
    store: Store, contents: tuple[str, ...], to: int | None, said: str
) -> None:
    released(store, *contents)
    with pytest.raises(UserError, match=said):
        rollback(store, PREFIX, why("x"), to)
    assert len(history(store, PREFIX)) == len(contents)


def test_a_rollback_does_not_approve_a_candidate(store: Store) -> None:
    released(store, "one")
    released(store, "two", approvers=("ann",))
    (third,) = released(store, "three")
    with pytest.raises(UserError, match="version 2 was never in production"):
        rollback(store, PREFIX, why("x"), 2)
    assert (third.version, served(store)) == (3, 3)


def test_weights_that_were_rolled_back_do_not_come_back_in_another_format(store: Store) -> None:
    released(store, "one")
    put(store, judged(store, "adapter", weights=WEIGHTS))
    rollback(store, PREFIX, why("worse answers"))
    merged = put(store, judged(store, "merged", weights=WEIGHTS))

    assert (merged.version, served(store)) == (3, 1)
    with pytest.raises(UserError, match="version 3 was rolled back: worse answers"):
        promote(store, PREFIX, 3, why("please"))
    assert promote(store, PREFIX, 3, why("the questions were wrong"), force=True).production == 3
    assert promote(store, PREFIX, 2, why("the same weights")).production == 2


def test_a_rollback_goes_back_to_other_weights(store: Store) -> None:
    released(store, "one")
    for content in ("adapter", "merged"):
        put(store, judged(store, content, weights=WEIGHTS))
    with pytest.raises(UserError, match="version 2 is another export of the weights in production"):
        rollback(store, PREFIX, why("x"), 2)
    assert rollback(store, PREFIX, why("worse answers")).production == 1


def test_after_an_older_payload_came_back_the_one_it_replaced_is_before_it(store: Store) -> None:
    released(store, "one", "two", "one")
    assert served(store) == 1
    assert rollback(store, PREFIX, why("worse answers")).production == 2


def test_a_version_that_needs_approval_waits_as_the_candidate(store: Store) -> None:
    released(store, "one")
    (second,) = released(store, "two", approvers=("ann", "bob"))
    assert aliases(history(store, PREFIX)) == {"production": 1, "candidate": 2}
    assert released(store, "two", approvers=("ann", "bob")) == [second]

    with pytest.raises(UserError, match="eve may not approve version 2"):
        promote(store, PREFIX, None, why("", "eve", ("ann", "bob")))
    entry = promote(store, PREFIX, None, why("read 50 answers", "bob", ("ann", "bob")))
    assert (entry.by, served(store)) == ("bob", 2)


def test_a_first_version_that_waits_serves_nobody(store: Store) -> None:
    released(store, "one", approvers=("ann",))
    assert production(store, PREFIX) is None
    with pytest.raises(UserError, match="no version is in production"):
        rollback(store, PREFIX, why("x"))


def test_an_export_that_is_gone_or_changed_is_not_promoted(store: Store, tmp_path: Path) -> None:
    released(store, "one")
    export = judged(store, "one").export
    (file,) = (export.folder(store, tmp_path) / "payload").iterdir()
    file.write_text("other bytes", "utf-8")
    with pytest.raises(UserError, match="another size"):
        export_of(store, PREFIX, 1, tmp_path)
