"""The release log: only what was judged, append-only, numbered, the same payload once."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import (
    ReleaseCandidate,
    ReleaseRequest,
    aliases,
    export_of,
    history,
    production,
    promote,
    record_release,
    rollback,
)
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.store import Artifact, Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.certificates import certificate
from tests.present import present
from tests.s3_server import serve_s3
from tests.verdicts import stored_rule

PREFIX = "tenants/acme/support"
WEIGHTS, GATES = "a" * 64, "b" * 64
VERDICT = Verdict.from_json({"passed": True, "rules": [stored_rule()]})
BROKEN = Verdict.from_json({"passed": False, "rules": [stored_rule(passed=False, sentence="it fell")]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def artifact(store: Store, stage: str, content: str, inputs: dict[str, str]) -> Artifact:
    """A committed artifact with one payload file."""

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "file").write_text(content, "utf-8")
        (attempt.evidence / "certificate.json").write_text(json.dumps({"of": content}), "utf-8")
        return {}

    work = Path(tempfile.mkdtemp())
    try:
        return make_artifact(store, work, Recipe(stage, PREFIX, inputs, {"content": content}), build)
    finally:
        shutil.rmtree(work)


def sha256_of(store: Store, of: Artifact) -> str:
    """Of the artifact's manifest as it lies in the store."""
    return hashlib.sha256(store.read(of.place.manifest)).hexdigest()


def judged(store: Store, content: str = "export", weights: str | None = None) -> ReleaseCandidate:
    """A candidate that holds; by weights of its own unless they are given."""
    weights = weights or hashlib.sha256(content.encode()).hexdigest()
    evaluation = artifact(
        store, "evaluation", f"scores of {content}", {"fine_tuned_model": weights, "gates": GATES}
    )
    inputs = {"fine_tuned_model": weights, "evaluation": evaluation.digest}
    export = artifact(store, "model_export", content, inputs)
    return ReleaseCandidate(export, evaluation, VERDICT, GATES, certificate(export.digest, weights))


def put(store: Store, candidate: ReleaseCandidate, *, run_id: str = "run-1", **request: Any) -> ReleaseEntry:
    asked = ReleaseRequest(**{"reason": "materialized", "by": "ann", **request})
    return record_release(store, PREFIX, candidate, asked, variant="acme.support", run_id=run_id)


def why(reason: str, by: str | None = None, approvers: tuple[str, ...] = ()) -> ReleaseRequest:
    return ReleaseRequest(reason, by, approvers)


def with_inputs(old: Artifact, **inputs: str) -> Artifact:
    return replace(old, predicate={**old.predicate, "inputs": {**old.inputs, **inputs}})


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


def released(store: Store, *contents: str, **more: Any) -> list[ReleaseEntry]:
    return [put(store, judged(store, content), **more) for content in contents]


def served(store: Store) -> int | None:
    return aliases(history(store, PREFIX))["production"]


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
    with pytest.raises(UserError, match="nothing was released"):
        rollback(store, PREFIX, why("x"))


def test_an_export_that_is_gone_or_changed_is_not_promoted(store: Store, tmp_path: Path) -> None:
    released(store, "one")
    export = judged(store, "one").export
    (file,) = (export.folder(store, tmp_path) / "payload").iterdir()
    file.write_text("other bytes", "utf-8")
    with pytest.raises(UserError, match="another size"):
        export_of(store, PREFIX, 1, tmp_path)


FIRST = {  # as 0.1 wrote it: served at once, without an id
    "schema_version": 1, "action": "release", "variant": "acme.support", "export": "e" * 64,
    "export_key": "key", "format": "adapter", "weights": WEIGHTS, "evaluation": "f" * 64, "verdict": "d" * 64,
    "gates": GATES, "run_id": None, "by": "ann", "reason": "materialized", "at": "2025-01-01T00:00:00+00:00",
    "version": 1,
}  # fmt: skip


def test_a_log_of_the_first_schema_is_still_read_and_goes_on(store: Store) -> None:
    store.write_json(f"{PREFIX}/releases/000001.json", FIRST)
    (first,) = history(store, PREFIX)
    added = ("entry", "previous", "export_manifest", "evaluation_manifest", "certificate")
    assert first.to_json() == {**FIRST, "production": 1, **dict.fromkeys(added)}
    assert served(store) == 1

    released(store, "one")
    assert rollback(store, PREFIX, why("worse answers")).production == 1


@pytest.mark.parametrize("field", sorted(FIRST.keys() - {"schema_version"}))
def test_an_entry_that_lacks_a_field_is_named_and_not_half_read(store: Store, field: str) -> None:
    content = {name: value for name, value in FIRST.items() if name != field}
    store.write_json(f"{PREFIX}/releases/000001.json", content)
    with pytest.raises(UserError, match=r"000001\.json.*not an entry of a release log"):
        history(store, PREFIX)


def test_each_kind_of_entry_is_read_as_it_was_written(store: Store) -> None:
    made = released(store, "one", "two")
    made.append(rollback(store, PREFIX, why("worse answers", "ann")))
    made.append(promote(store, PREFIX, 2, why("the questions were wrong", "bob"), force=True))

    assert history(store, PREFIX) == made
    stored = [store.read_json(f"{PREFIX}/releases/00000{number}.json") for number in range(1, 5)]
    assert [entry.to_json() for entry in made] == stored
    release = {"verdict", "gates", "run_id", "export_manifest", "evaluation_manifest", "certificate"}
    own = [entry.keys() & {*release, "forced", "from_version"} for entry in stored]
    assert own == [release, release, {"from_version"}, {"forced"}]


def edited(store: Store, number: int, **changes: Any) -> None:
    path = f"{PREFIX}/releases/{number:06d}.json"
    store.write_json(path, {**store.read_json(path), **changes})


def test_an_entry_that_was_changed_is_named(store: Store) -> None:
    released(store, "one", "two", "three")
    edited(store, 1, reason="approved by everybody")
    with pytest.raises(UserError, match=r"000002\.json: entry 1 of this release log is not what entry 2"):
        history(store, PREFIX)


def test_an_entry_that_was_taken_out_is_named(store: Store) -> None:
    released(store, "one", "two", "three")
    store.fs.rm(store.path(f"{PREFIX}/releases/000002.json"))
    with pytest.raises(UserError, match=r"000002\.json: this entry of a release log is missing"):
        history(store, PREFIX)


def test_a_rollback_that_was_taken_out_is_named(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    store.fs.rm(store.path(f"{PREFIX}/releases/000003.json"))
    with pytest.raises(UserError, match=r"000003\.json: this entry of a release log is missing"):
        production(store, PREFIX)


def test_a_last_entry_that_was_changed_is_named(store: Store) -> None:
    released(store, "one", "two")
    edited(store, 2, reason="approved by everybody")
    with pytest.raises(
        UserError, match=r"000002\.json: this entry of a release log is not the one that head"
    ):
        production(store, PREFIX)


def test_a_head_that_lags_behind_is_no_fault(store: Store) -> None:
    released(store, "one")
    before = store.read(f"{PREFIX}/releases/head.json")
    released(store, "two")
    store.write(f"{PREFIX}/releases/head.json", before)
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2]
    released(store, "three")
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2, 3]


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": "x", "sha256": ""}', "{}"])
def test_a_head_that_is_none_is_named(store: Store, content: str) -> None:
    released(store, "one")
    store.write(f"{PREFIX}/releases/head.json", content.encode())
    with pytest.raises(UserError, match=r"head\.json: not the head of a release log"):
        history(store, PREFIX)


def test_an_entry_that_was_taken_out_and_the_rest_numbered_anew_is_noticed(store: Store) -> None:
    released(store, "one", "two", "three")
    folder = f"{PREFIX}/releases"
    store.write(f"{folder}/000002.json", store.read(f"{folder}/000003.json"))
    store.fs.rm(store.path(f"{folder}/000003.json"))
    with pytest.raises(UserError, match="entry 1 of this release log is not what entry 2 was written after"):
        history(store, PREFIX)


def test_older_entries_are_held_by_the_first_one_that_is_chained(store: Store) -> None:
    for number in (1, 2):
        store.write_json(f"{PREFIX}/releases/00000{number}.json", {**FIRST, "version": number})
    released(store, "one")
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2, 3]
    edited(store, 1, weights="d" * 64)
    with pytest.raises(
        UserError, match=r"000003\.json: one of the entries 1 to 2 of this release log is not"
    ):
        history(store, PREFIX)


def test_an_entry_of_an_older_schema_after_a_chained_one_is_refused(store: Store) -> None:
    released(store, "one")
    store.write_json(f"{PREFIX}/releases/000002.json", {**FIRST, "version": 2})
    with pytest.raises(UserError, match="names none before it"):
        history(store, PREFIX)


@pytest.mark.parametrize("changes", [{"production": 7}, {"version": 1}])
def test_a_last_entry_about_a_version_that_cannot_be_is_refused(
    store: Store, changes: dict[str, Any]
) -> None:
    released(store, "one", "two")
    edited(store, 2, **changes)
    with pytest.raises(UserError, match=r"000002\.json: an entry about a version that it cannot be about"):
        production(store, PREFIX)


def test_a_store_that_lists_nothing_ends_with_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given = judged(store, "two")
    released(store, "one")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(store, "names", lambda folder: [])
    assert put(store, given).version == 2  # the head says what is there
    store.fs.rm(store.path(f"{PREFIX}/releases/head.json"))
    with pytest.raises(UserError, match="the store does not list what is in it"):
        put(store, judged(store, "three"))


@pytest.mark.slow
def test_the_log_is_the_same_on_s3(tmp_path: Path) -> None:
    with serve_s3(tmp_path / "s3") as server:
        remote = Store(f"s3://{server.bucket}/store", server.options)
        given = [judged(remote, content) for content in ("one", "two")]
        first, second = (put(remote, g) for g in given)

        assert put(remote, given[1]) == second
        assert history(remote, PREFIX) == [first, second]
        assert [first.version, second.version] == [1, 2]


def test_what_went_into_production_since_it_was_held_against_it_is_not_passed_over(store: Store) -> None:
    released(store, "one")
    seen = history(store, PREFIX)
    released(store, "two")  # by another process, while "three" was held against version 1
    with pytest.raises(UserError, match="another version went into production meanwhile") as refused:
        put(store, replace(judged(store, "three"), held_against=seen))
    assert refused.value.value == 2
    assert put(store, replace(judged(store, "three"), held_against=history(store, PREFIX))).version == 3
    with pytest.raises(UserError, match="another version went into production meanwhile"):
        put(store, replace(judged(store, "one"), held_against=seen[:0]))
    assert served(store) == 3


def test_the_log_of_another_variant_is_refused(store: Store) -> None:
    released(store, "one")
    shutil.copytree(store.path(f"{PREFIX}/releases"), store.path("tenants/globex/support/releases"))
    with pytest.raises(UserError, match=r"entry of another variant's release log \(acme\.support\)"):
        history(store, "tenants/globex/support")


@pytest.mark.parametrize("entries", [-1, 0, True, 1e999, "1"])
def test_a_head_of_no_number_is_named(store: Store, entries: object) -> None:
    released(store, "one")
    path = f"{PREFIX}/releases/head.json"
    content = json.dumps({**store.read_json(path), "entries": entries})
    store.write(path, content.encode())
    with pytest.raises(UserError, match="not the head of a release log"):
        history(store, PREFIX)
