"""What was altered or is missing is noticed and named, whoever tried to hide it; what holds is not."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.audit.audit import Audit, index_folder, open_audit
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.verify.verify import Verified, kept_state, verify
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, mark_newest, read_log
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.records.record_keys import keys_of
from ft_dagster.settings import Settings
from ft_dagster.store.blobs import as_stored
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from tests.audit.histories import History, question
from tests.audit.index_rows import edit_members
from tests.long import mostly_long

pytestmark = pytest.mark.slow


def verified(history: History, **options: Any) -> Verified:
    audit = history.audit(**options)
    found = verify(audit)
    audit.index.close()
    return found


def only(folder: Path, pattern: str) -> Path:
    [file] = (folder / ".ft_dagster" / "store").glob(pattern)
    return file


def flip(file: Path) -> None:
    """Another byte, of the same size and with the same times."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_manifest(manifest: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(manifest.read_text())
    change(content["predicate"])
    manifest.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def list_again(manifest: Path, part: str) -> None:
    """Let a manifest list the files of its evidence as they are now, as a forger would."""

    def change(predicate: dict[str, Any]) -> None:
        for file in predicate[part]:
            path = manifest.parent / predicate["attempt"] / part / file["path"]
            file.update(size=path.stat().st_size, sha256=sha256_file(path))

    edit_manifest(manifest, change)


def swap_leaves(folder: Path) -> None:
    manifest = only(folder, "tenants/acme/one/task_dataset/*/manifest.json")
    file = only(folder, "tenants/acme/one/task_dataset/*/*/evidence/tree.parquet")
    table = parquet.read_table(file)
    columns = table.to_pydict()
    columns["leaf"][0], columns["leaf"][1] = columns["leaf"][1], columns["leaf"][0]
    parquet.write_table(pa.table(columns, schema=table.schema), file)
    list_again(manifest, "evidence")


def other_ledger(folder: Path) -> None:
    ledger = only(folder, "tenants/acme/one/fine_tuned_model/*/*/evidence/ledger.json")
    ledger.write_bytes(
        only(folder, "tenants/acme/child/fine_tuned_model/*/*/evidence/ledger.json").read_bytes()
    )
    list_again(only(folder, "tenants/acme/one/fine_tuned_model/*/manifest.json"), "evidence")


def seen_less_often(folder: Path) -> None:
    """A ledger that says the records were never trained on, and a manifest that lists it."""
    ledger = only(folder, "tenants/acme/one/fine_tuned_model/*/*/evidence/ledger.json")
    content = json.loads(ledger.read_text())
    content["times_exported"] = [0] * len(content["times_exported"])
    ledger.write_text(json.dumps(content))
    list_again(only(folder, "tenants/acme/one/fine_tuned_model/*/manifest.json"), "evidence")


def whole_entry_removed(folder: Path) -> None:
    """The newest entry, and the head that would tell of it."""
    log = folder / ".ft_dagster/store/tenants/acme/one/releases"
    for name in ("000001.json", "head.json"):
        (log / name).unlink()


def newest_entry_replaced(folder: Path) -> None:
    """By one that could stand there, and the head made to fit."""
    store, prefix = History(folder).store, "tenants/acme/one"
    entries = read_log(store, prefix).entries
    content = as_stored(replace(entries[-1], by="eve").to_json())
    store.write(entry_path(prefix, len(entries)), content)
    mark_newest(store, prefix, len(entries), content)


DATASET, WEIGHTS = "tenants/acme/one/task_dataset/*", "tenants/acme/one/fine_tuned_model/*"
LOG = "tenants/acme/one/releases/000001.json"
CORPUS_HEAD = "shared/corpora/general/heads/general_corpus.json"
TRIED_HEAD = "tenants/acme/one/experiments/tried/lora/heads/fine_tuned_model.json"
Forge = Callable[[Path], object]


def flipped(pattern: str) -> Forge:
    return lambda folder: flip(only(folder, pattern))


def edited(**fields: Any) -> Forge:
    """A field of the data set's manifest."""
    return lambda folder: edit_manifest(only(folder, f"{DATASET}/manifest.json"), lambda m: m.update(fields))


def written(pattern: str, content: str) -> Forge:
    return lambda folder: only(folder, pattern).write_text(content)


def repointed(**fields: str) -> Forge:
    """A field of the corpus' head."""

    def forge(folder: Path) -> None:
        head = only(folder, CORPUS_HEAD)
        head.write_text(json.dumps({**json.loads(head.read_text()), **fields}))

    return forge


def removed(pattern: str) -> Forge:
    return lambda folder: only(folder, pattern).unlink()


def added(folder: Path) -> None:
    (only(folder, f"{WEIGHTS}/*/payload") / "more").write_text("x")


def another_head(digits: str) -> Forge:
    """A head of weights as it would be of other ones, written when the first was."""

    def forge(folder: Path) -> None:
        file = only(folder, HEAD)
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "run_id": digits}))

    return forge


def into_globex(folder: Path) -> None:
    theirs = json.loads(only(folder, "tenants/globex/two/heads/task_dataset.json").read_text())
    only(folder, "tenants/acme/one/heads/task_dataset.json").write_text(json.dumps(theirs))


def tried_otherwise(folder: Path) -> None:
    file = only(folder, TRY)
    file.write_text(json.dumps({**json.loads(file.read_text()), "questions": "7" * 64}))


def planted(name: str) -> Forge:
    """A file under the key of the data set."""

    def forge(folder: Path) -> None:
        file = only(folder, DATASET) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")

    return forge


MANIFEST = f"{DATASET}/manifest.json"
HEAD = "tenants/acme/one/heads/fine_tuned_model.json"
GONE_HEAD = "tenants/acme/one/heads/training_mixture.json"
TRY = "tenants/acme/one/tries/*/000002.json"
COUNTED = "tenants/acme/one/tries/lineage/*/000002.json"
FORGED: dict[str, tuple[Forge, str]] = {
    "a byte of a data set": (flipped(f"{DATASET}/*/payload/train.parquet"), r"train\.parquet.*other bytes"),
    "a byte of weights": (flipped(f"{WEIGHTS}/*/payload/*"), r"adapter_model.*other bytes"),
    "a byte of evidence": (flipped(f"{DATASET}/*/evidence/rows.parquet"), r"rows\.parquet.*other bytes"),
    "a file beside the payload": (added, "does not list"),
    "a manifest's date": (edited(created="2020-01-01T00:00:00+00:00"), "another than it was"),
    "a manifest's code": (edited(code=None), "code: a manifest that does not hold"),
    "a manifest that is no JSON": (written(MANIFEST, "{"), "not JSON"),
    "a manifest of a newer schema": (edited(schema_version=99), "newer ft-dagster"),
    "a manifest gone": (removed(MANIFEST), "manifest is missing"),
    "a leaf swapped, and the manifest made to list it": (swap_leaves, "another than it was"),
    "a ledger of another run": (other_ledger, "another than it was"),
    "a ledger that says less": (seen_less_often, "another than it was"),
    "the newest entry of a log and its head": (whole_entry_removed, "taken out of this release log"),
    "the newest entry replaced, head fitting": (newest_entry_replaced, r"000001\.json.*another than it was"),
    "an entry of a log": (removed(LOG), "entry of a release log is missing"),
    "a byte of an entry of a log": (flipped(LOG), "releases"),
    "the head of a corpus": (written(CORPUS_HEAD, "garbage"), r"corpora/general/heads.*not a head"),
    "the digest of a head of a corpus": (repointed(digest="0" * 64), "corpora/general/heads.*points at 0000"),
    "the key of a head of a corpus": (repointed(key="0" * 64), "corpora/general/heads.*nothing stands"),
    "a head of a variant, as of then": (
        another_head("f" * 12),
        r"heads/fine_tuned_model\.json: it is another",
    ),
    "a head of a variant gone": (removed(GONE_HEAD), r"heads/training_mixture\.json: no head points at"),
    "the head of an experiment gone": (
        removed(TRIED_HEAD),
        r"fine_tuned_model\.json: it is gone, and an earlier",
    ),
    "a head into another tenant's part": (into_globex, r"heads/task_dataset\.json: a head that points into"),
    "the newest try gone": (removed(TRY), r"tries/[0-9a-f]{64}: the weights .* as try 2, and that is not"),
    "the newest try of a count gone": (
        removed(COUNTED),
        r"lineage/000000: the weights .* as try 2, and that",
    ),
    "a try that is none": (written(TRY, "{"), "not a record of an evaluation"),
    "a try changed": (tried_otherwise, r"000002\.json: it is another than it was"),
    "a file under a key": (planted("more.json"), r"more\.json: nobody wrote it there"),
    "a folder under a key": (planted("attempt/more/x"), r"attempt/more/x: nobody wrote it there"),
    "a manifest that comes after one that stands": (planted("manifest-2.json"), r"manifest-2\.json: nobody"),
    "a manifest of before the first": (planted("manifest-0.json"), r"manifest-0\.json: nobody wrote it"),
    "a manifest of a name beside its own": (planted("manifest-01.json"), r"manifest-01\.json: nobody"),
    "a name that is no text": (planted("more\udcff.json"), r"more\\udcff\.json: nobody wrote it there"),
    "a claim of another name": (planted("claims/x/y.txt"), r"claims/x/y\.txt: nobody wrote it there"),
    "the head of an experiment": (written(TRIED_HEAD, "garbage"), "tried/lora/heads.*not a head"),
}
# What a forger who also removes the index leaves to be noticed.
WITHOUT_INDEX = {
    "a manifest's date": "has another manifest than when it was used",
    "a manifest's code": r"task_dataset/.*code: a manifest that does not hold",
    "a manifest that is no JSON": "not JSON",
    "a manifest gone": "is gone",
    "a leaf swapped, and the manifest made to list it": "root of this record tree is not",
    "a ledger of another run": "the ledger is of mixture",
    "a ledger that says less": "has another manifest than when it was used",
    "an entry of a log": "entry of a release log is missing",
    "the head of a corpus": "not a head",
    "a head of a variant gone": r"no head points at",
    "the newest try gone": "were put to questions as try 2, and that is not recorded",
    "the newest try of a count gone": "were put to questions as try 2, and that is not recorded",
    "a file under a key": "more.json: nobody wrote it there",
    "a manifest that comes after one that stands": "manifest-2.json: nobody wrote it there",
}


@pytest.mark.parametrize("forged", mostly_long(FORGED, every=3))
def test_what_was_forged_is_noticed_and_named(history: History, forged: str) -> None:
    assert verified(history).holds
    forge, named = FORGED[forged]
    forge(history.folder)
    assert any(_says(line, named) for line in verified(history).problems), verified(history).problems


@pytest.mark.parametrize("forged", mostly_long(WITHOUT_INDEX, every=3))
def test_it_is_noticed_without_the_index_too(history: History, forged: str) -> None:
    FORGED[forged][0](history.folder)
    problems = verified(history, again=True).problems
    assert any(_says(line, WITHOUT_INDEX[forged]) for line in problems), problems


def _says(line: str, pattern: str) -> bool:
    return re.search(pattern, line) is not None


@pytest.mark.parametrize("name", ["heads/more.json", f"tries/{'0' * 64}/000001.json", "heads/\udcff.json"])
def test_a_file_that_was_never_right_is_not_missed_once_it_is_deleted(history: History, name: str) -> None:
    assert verify(history.audit()).holds
    file = history.folder / ".ft_dagster/store/tenants/acme/one" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    [problem] = verify(history.audit()).problems
    assert ascii(name)[1:-1] in problem
    file.unlink()
    assert verify(history.audit()).problems == ()


def test_what_holds_is_not_said_to_be_wrong(history: History, old: Settings) -> None:
    found = verified(history)
    assert (found.holds, found.before) == (True, 0)
    assert found.bytes == sum(
        file.stat().st_size
        for file in (history.folder / ".ft_dagster/store").rglob("*")
        if "payload" in file.parts or "evidence" in file.parts
        if file.is_file()
    )
    assert verify(open_audit(old)).problems == ()


def changed(name: str, by: int, where: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Of the records that `where` chooses, a field by so much."""

    def change(members: Any) -> Any:
        members[name][where(members)] += by
        return members

    return change


EDITS: dict[str, Callable[[Any], Any]] = {
    "a row changed": changed("state", 1, lambda members: members["state"] == 3),
    "a record moved": changed("lookup", 1, lambda members: members["number"] == 2),
    "a record taken out": lambda members: members[members["number"] != 2],
    "a record put in twice": lambda members: members.repeat(2),
}
SQL = {
    "times changed": "UPDATE times SET counts = zeroblob(length(counts))",
    "a record given to another": "UPDATE members SET place = place + (100 << 40)",
    "a record put where nobody looks": "UPDATE members SET place = -place",
    "an edge taken out": "DELETE FROM inputs WHERE name = 'training_mixture'",
    "an edge moved": "UPDATE inputs SET digest = upper(digest) WHERE name = 'base_model'",
    "a release edited": "UPDATE releases SET entry = replace(entry, 'release', 'promote')",
    "a digest edited": "UPDATE artifacts SET digest = upper(digest) WHERE stage = 'base_model'",
    "a date edited": "UPDATE artifacts SET created = '2020' WHERE stage = 'model_export'",
    "an owner edited": "UPDATE artifacts SET owner = owner + 1 WHERE stage = 'model_export'",
}


@pytest.mark.parametrize("edit", mostly_long([*EDITS, *SQL], every=3))
def test_an_edited_index_is_noticed(history: History, edit: str) -> None:
    history.audit().index.close()
    if edit in EDITS:
        edit_members(history.settings, EDITS[edit])
    else:
        with sqlite3.connect(index_folder(history.settings) / "index.sqlite") as db:
            assert db.execute(SQL[edit]).rowcount
    assert any("the index says otherwise" in line for line in verified(history).problems)
    assert verified(history, again=True).holds


@pytest.mark.parametrize("records", ["substr(records, 2)", "NULL", "'text'"])
def test_records_of_the_index_that_are_none_are_damage(history: History, records: str) -> None:
    """By which a command makes it again."""
    history.audit().index.close()
    with sqlite3.connect(index_folder(history.settings) / "index.sqlite") as db:
        assert db.execute(f"UPDATE members SET records = {records}").rowcount
    audit = history.audit()
    with pytest.raises(sqlite3.DatabaseError, match="records of the index"):
        record(audit, parse_record(json.dumps(question(0)), audit.readings()))  # beside whose those are
    assert any("the index says otherwise" in line for line in verify(audit).problems)


def test_an_answer_is_held_against_the_evidence_and_not_the_index_alone(history: History) -> None:
    """An entry of the index that no evidence bears out is no answer."""
    history.audit().index.close()
    edit_members(history.settings, changed("number", 1, lambda members: members["number"] == 2))
    audit = history.audit()
    answers = [record(audit, parse_record(json.dumps(question(number)))) for number in range(30)]
    assert all(one.facts["line"] - 1 == n for n, found in enumerate(answers) for one in found.found)


def test_a_tree_that_was_altered_answers_nothing(history: History) -> None:
    """Also where somebody made the manifest fit and removed the index."""
    swap_leaves(history.folder)
    audit = history.audit(again=True)
    refused = 0
    for number in range(30):
        try:
            record(audit, parse_record(json.dumps(question(number))))
        except UserError as error:
            refused += "audit verify" in str(error)
    assert refused


def test_a_check_that_was_ended_goes_on(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_dagster.audit.verify.verify.SAVE_SECONDS", 0.0)
    audit, said = history.audit(), list[str]()

    def end_after_five(line: str) -> None:
        said.append(line)
        if len(said) == 5:
            raise KeyboardInterrupt

    flip(only(history.folder, f"{DATASET}/*/payload/train.parquet"))
    with pytest.raises(KeyboardInterrupt):
        verify(audit, say=end_after_five)
    assert kept_state(audit).is_file()
    found = verify(audit)
    assert found.before == 5
    assert found.artifacts > 10
    assert any("other bytes" in line for line in found.problems)
    assert not kept_state(audit).exists()
    assert "s left" in said[0]


def ended(audit: Audit) -> None:
    """A check of all that is ended after five artifacts."""
    said = list[str]()

    def end(line: str) -> None:
        said.append(line)
        if len(said) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(audit, say=end)


def test_two_checks_of_all_at_once_each_come_to_an_end(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one keeps what it looked at just before the first one's file takes its place."""
    monkeypatch.setattr("ft_dagster.audit.verify.verify.SAVE_SECONDS", 0.0)
    first, second, replace = history.audit(), history.audit(), Path.replace

    def after_the_second(draft: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        ended(second)
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", after_the_second)
    assert verify(first).holds
    assert not [file.name for file in kept_state(first).parent.iterdir() if "verify" in file.name]


def test_a_check_of_another_store_is_not_gone_on_with(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.audit.verify.verify.SAVE_SECONDS", 0.0)
    ended(history.audit())
    shutil.copytree(history.folder / ".ft_dagster/store", tmp_path / "copy")
    (history.folder / "ft_dagster.yaml").write_text(json.dumps({"store": str(tmp_path / "copy")}))
    assert verify(history.audit()).before == 0


def test_a_check_of_long_ago_is_not_gone_on_with(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_dagster.audit.verify.verify.SAVE_SECONDS", 0.0)
    audit = history.audit()
    ended(audit)
    monkeypatch.setattr("ft_dagster.audit.verify.verify.MOST_SECONDS", 0.0)
    assert verify(audit).before == 0


def test_a_tenants_check_leaves_that_of_the_platform(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.audit.verify.verify.SAVE_SECONDS", 0.0)
    ended(history.audit())
    assert verify(history.audit(tenant="acme")).before == 0
    assert verify(history.audit()).before == 5


def test_a_tenants_check_does_not_name_what_is_anothers(history: History) -> None:
    only(history.folder, "tenants/globex/two/task_dataset/*/manifest.json").write_text("nonsense")
    assert verified(history, tenant="acme", again=True).problems == ()
    assert any("not JSON" in line for line in verified(history).problems)


LEDGERS: dict[str, Any] = {
    "a list": [],
    "empty": {},
    "no JSON": "{",
    "less than none": {"times_exported": -1},
    "texts": {"times_exported": "x"},
    "fractions": {"times_exported": 0.5},
    "too many": {"times_exported": 2**40},
    "too short": {"times_exported": None},
    "newer": {"schema_version": 99},
}


@pytest.mark.parametrize("kind", mostly_long(LEDGERS, every=3))
def test_a_malformed_ledger_is_the_problem_of_one_model(history: History, kind: str) -> None:
    dataset = history.dataset("globex.bad", [question(number) for number in range(10)])
    mixture = history.mixture("globex.bad", dataset)

    def ledger(whole: dict[str, Any]) -> str:
        given = LEDGERS[kind]
        if not isinstance(given, dict) or not given:
            return given if isinstance(given, str) else json.dumps(given)
        times = given.get("times_exported", 1)
        counts = [times] * len(whole["records"]) if times is not None else [1]
        return json.dumps({**whole, **given, "times_exported": counts})

    history.model("globex.bad", mixture, history.base(), ledger=ledger)
    mine, all_of_it = history.audit(tenant="acme", again=True), history.audit()
    assert record(mine, parse_record(json.dumps(question(3)))).checked.unread == ()
    assert len(record(all_of_it, parse_record(json.dumps(question(3)))).checked.unread) == 1
    assert verify(mine).holds
    assert all("ledger" in line and "globex" in line for line in verify(all_of_it).problems)
    assert not verify(all_of_it).holds


@pytest.mark.parametrize("name", ["rows.parquet", "tree.parquet"])
def test_evidence_that_is_no_table_is_the_problem_of_one_artifact(history: History, name: str) -> None:
    """Though its manifest lists it."""
    file = only(history.folder, f"tenants/globex/two/task_dataset/*/*/evidence/{name}")
    file.chmod(0o644)
    file.write_bytes(b"PAR1 garbage PAR1")
    list_again(only(history.folder, "tenants/globex/two/task_dataset/*/manifest.json"), "evidence")
    audit = history.audit(again=True)
    assert record(audit, parse_record(json.dumps(question(25)))).equal
    answer = record(audit, parse_record("nobody ever wrote this"))
    assert answer.equal is None
    assert sought(answer).startswith("no record equals this, and 1 could not be read; not searched")
    assert any("globex/two/task_dataset" in line for line in verify(audit).problems)


def test_what_could_not_be_read_is_told_until_it_is_mended(history: History) -> None:
    """Also by a check of that artifact alone, and never by one that follows the mending."""
    ledger = only(history.folder, f"{WEIGHTS}/*/evidence/ledger.json")
    rows = only(history.folder, f"{DATASET}/*/evidence/rows.parquet")
    whole = {file: file.read_bytes() for file in (ledger, rows)}
    before = verified(history)
    answered = record(history.audit(), parse_record(json.dumps(question(3))))
    for file in whole:
        flip(file)
    for again in (True, False, False):
        audit = history.audit(again=again)
        assert len(audit.index.unread()) == len(audit.followed.problems) == 2
        problems = verify(audit).problems
        assert {each.problem for each in audit.index.unread()} <= set(problems)
        assert record(audit, parse_record("nobody ever wrote this")).equal is None
    [weights] = [each for each in audit.index.unread() if each.place.stage == "fine_tuned_model"]
    assert weights.problem in verify(audit, [weights]).problems
    for file, content in whole.items():
        file.write_bytes(content)
    audit = history.audit()
    assert audit.index.unread() == []
    after = verify(audit)
    assert (after.artifacts, after.problems) == (before.artifacts, ())
    assert audit.index.artifact(weights.id).place == weights.place
    assert record(audit, parse_record(json.dumps(question(3)))) == answered
    assert history.audit().followed.artifacts == 0


def test_rows_that_retention_removed_unread_are_no_problem_of_a_check(old: Settings) -> None:
    """They are older than evidence of records, and the index is made again after them."""
    store = old.open_store()
    for each in contents_of(store).keyed.values():
        if each.artifact is not None and each.place.stage in ("task_dataset", "training_mixture"):
            assert claim_removal(store, each.artifact, "retention", 4e9 + DAY)
            finish_removal(store, each.artifact)
    for _ in range(2):
        audit = open_audit(old)
        assert audit.index.unread()
        assert verify(audit).problems == ()


def test_with_a_key_of_which_a_digit_was_changed_nothing_is_said_to_hold(history: History) -> None:
    file = history.settings.keys_folder / "tenants/acme.json"
    assert verified(history).holds
    content = json.loads(file.read_text())
    secret = content["keys"][0]["key"]
    content["keys"][0]["key"] = f"{secret[:-1]}{'1' if secret[-1] == '0' else '0'}"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is another than it was"):
        history.audit()


def test_trees_whose_key_is_lost_are_said_not_to_be_checked_by_it(history: History) -> None:
    assert verified(history).unchecked == ()
    key = keys_of(history.settings.keys_folder, "acme").current.id
    (history.settings.keys_folder / "tenants/acme.json").unlink()
    for _ in range(2):  # also by a check after the one that found it lost
        found = verified(history)
        assert found.holds
        [line] = found.unchecked
        assert line.startswith(f"the order of 4 record trees of acme: the key {key} is not in ")


def test_one_artifact_is_verified_by_its_digest(history: History) -> None:
    flip(only(history.folder, f"{DATASET}/*/payload/train.parquet"))
    audit = history.audit()
    weights = audit.model("acme.one")
    assert verify(audit, [weights]).holds
    assert not verify(audit, audit.index.of_stage("task_dataset", "tenants/acme/one")).holds


def test_a_tenant_is_verified_alone(history: History) -> None:
    flip(only(history.folder, f"{DATASET}/*/payload/train.parquet"))
    assert verified(history, tenant="globex").holds
    assert not verified(history, tenant="acme").holds
