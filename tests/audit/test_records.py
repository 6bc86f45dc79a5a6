"""From a record to the models: whatever the history, index, evidence and a count by hand agree on every
pair.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.audit import Audit, index_folder
from ft_dagster.audit.index.index_file import FILE, SCHEMA_VERSION
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import (
    HELD_OUT,
    INHERITED,
    JUDGED,
    PERHAPS,
    TRAINED,
    UNREACHED,
    VALIDATED,
    record,
)
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.verify.verify import verify
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import Sample
from ft_dagster.records.record_keys import keys_of, rotate
from ft_dagster.stage_entries import FINE_TUNED_MODEL, GENERAL_CORPUS, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import Artifact, Store
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question
from tests.long import mostly_long
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

Pair = tuple[str, str, str]  # (variant, weights, how)


def identity_of(row: dict[str, Any]) -> bytes:
    return parse_record(json.dumps(row)).identities[0]


def splits_of(history: History, dataset: Artifact) -> dict[bytes, str]:
    """Identity -> split, read from the payload."""
    payload = dataset.folder(history.store, history.settings.cache_folder) / "payload"
    return {
        row.identity: split
        for split in ("train", "validation", "test")
        for row in read_split(payload / f"{split}.parquet")
    }


def pairs(history: History, row: dict[str, Any], **options: Any) -> dict[Pair, int | None]:
    audit = history.audit(**options)
    found = pairs_of(audit, row)
    audit.index.close()
    return found


def pairs_of(audit: Audit, row: dict[str, Any]) -> dict[Pair, int | None]:
    found = record(audit, parse_record(json.dumps(row)))
    return {(one.variant, one.weights, one.how): one.times for one in found.models}


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kept", ["trees", "rows", "none"])
def test_index_and_brute_force_agree_on_every_record_and_model(tmp_path: Path, seed: int, kept: Any) -> None:
    draw, asking, history = random.Random(seed), random.Random(-1 - seed), History(tmp_path / "project", kept)
    expected: dict[int, dict[Pair, int]] = {number: {} for number in range(40)}
    released: list[tuple[str, Artifact, Artifact]] = []
    evaluated = set[str]()
    base = history.base()
    identities = {identity_of(question(number)): number for number in range(40)}
    for step in range(6):
        variant = f"{draw.choice(['acme', 'globex'])}.{draw.choice(['one', 'two'])}"
        chosen = draw.sample(range(40), 25)
        dataset = history.dataset(variant, [question(number) for number in chosen])
        mixture = history.mixture(variant, dataset)
        parents = [each for each in released if each[0].split(".")[0] == variant.split(".", maxsplit=1)[0]]
        parent = draw.choice(parents) if parents and draw.random() < 0.7 else None
        start = (
            base if parent is None else history.derived_base(variant, parent[0], parent[2], parent[1], base)
        )
        reached = draw.choice([None, 3])
        model = history.model(variant, mixture, start, seed=step, times=draw.randint(1, 3), reached=reached)
        asked = some_asked(asking, history, variant, model, dataset) if asking.random() < 0.6 else set()
        evaluated |= {variant} if asked else set()
        expect(history, expected, identities, (variant, model, dataset, reached), asked)
        if parent is not None:
            inherit(expected, variant, model, parent[1].digest)
        if draw.random() < 0.7:
            export, _ = history.release(variant, model, start)
            released.append((variant, model, export))
        if draw.random() < 0.5:
            history.audit().index.close()  # the index follows in parts
        if kept == "trees" and draw.random() < 0.3 and variant not in evaluated:
            assert history.retire(variant)
            released = [each for each in released if each[0] != variant]
    followed, anew = every(history, 40), every(history, 40, again=True)
    assert [set(found) for found in followed] == [set(found) for found in expected.values()]
    assert anew == followed
    assert verify(history.audit()).problems == ()
    if kept == "trees":
        proofs_agree(history, expected, tmp_path / "proof.json")


def proofs_agree(history: History, expected: dict[int, dict[Pair, int]], file: Path) -> None:
    """Of every record and model: what a proof shows, checked by itself, is what is to be expected."""
    audit = history.audit()
    for number, found in expected.items():
        asked = parse_record(json.dumps(question(number)))
        for model in audit.index.of_stage(FINE_TUNED_MODEL.name):
            hows = {
                how for variant, weights, how in found if (variant, weights) == (model.variant, model.digest)
            }
            proof = prove(audit, asked, model)
            file.write_text(dumps(proof), "utf-8")
            shown = check(file, asked, audit.keys(model.tenant).current)
            present = bool(hows & {TRAINED, INHERITED, VALIDATED, UNREACHED})
            assert (shown.kind, shown.model) == (PRESENCE if present else ABSENCE, model.digest)
            assert bool(proof.get("times")) == bool(hows & {TRAINED, INHERITED})
    audit.index.close()


def every(history: History, count: int, **options: Any) -> list[dict[Pair, int | None]]:
    """`pairs` of the first questions, asked of one audit; whether retention took an evaluation's questions
    from the index is not told.
    """
    audit = history.audit(**options)
    found = [pairs_of(audit, question(number)) for number in range(count)]
    audit.index.close()
    return [
        {(variant, model, HELD_OUT if how == PERHAPS else how): n for (variant, model, how), n in one.items()}
        for one in found
    ]


def some_asked(
    draw: random.Random, history: History, variant: str, model: Artifact, dataset: Artifact
) -> set[bytes]:
    """The test rows that an evaluation of the model then asks: about half of them."""
    rows = [identity for identity, split in splits_of(history, dataset).items() if split == "test"]
    asked = [identity for identity in rows if draw.random() < 0.5]
    names = (f"test_split_task:0:{identity.hex()[:32]}" for identity in asked)
    samples = [
        Sample("test_split_task", "test_split_task", "completion_loss", name, 1.0, 1.0, False)
        for name in names
    ]
    history.evaluated(variant, model, samples, [])
    return set(asked)


def expect(
    history: History,
    expected: dict[int, dict[Pair, int]],
    identities: dict[bytes, int],
    trained: tuple[str, Artifact, Artifact, int | None],
    asked: set[bytes],
) -> None:
    variant, model, dataset, reached = trained
    train = 0
    for identity, split in splits_of(history, dataset).items():
        held = JUDGED if identity in asked else HELD_OUT
        how = {"train": TRAINED, "validation": VALIDATED, "test": held}[split]
        if split == "train":
            how = TRAINED if reached is None or train < reached else UNREACHED
            train += 1
        expected[identities[identity]][variant, model.digest, how] = 1


def inherit(expected: dict[int, dict[Pair, int]], variant: str, model: Artifact, parent: str) -> None:
    """A child has what its parent was trained on, and what that inherited."""
    for found in expected.values():
        if any(weights == parent and how in (TRAINED, INHERITED) for _, weights, how in found):
            found[variant, model.digest, INHERITED] = 1


@pytest.fixture(scope="module")
def kept_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acme.one on 30 rows and a corpus, released; globex.two on 20 of these rows."""
    made = History(tmp_path_factory.mktemp("records") / "project")
    base, corpus = made.base(), made.corpus([f"Document {n} of the town." for n in range(40)])
    dataset = made.dataset("acme.one", [question(number) for number in range(30)])
    model = made.model("acme.one", made.mixture("acme.one", dataset, corpus), base, times=3)
    made.release("acme.one", model, base)
    other = made.dataset("globex.two", [question(number) for number in range(20)])
    made.model("globex.two", made.mixture("globex.two", other), base)
    return made.folder


@pytest.fixture
def history(tmp_path: Path, kept_history: Path) -> History:
    """A copy of that history, for the test alone."""
    return History(shutil.copytree(kept_history, tmp_path / "project"))


def trained(history: History, variant: str) -> dict[str, Any]:
    """A row that the variant was trained on."""
    for number in range(10):
        if any(pair[0] == variant and pair[2] == TRAINED for pair in pairs(history, question(number))):
            return question(number)
    raise AssertionError("no row was trained on")


def test_case_and_spacing_find_the_same_record(history: History) -> None:
    row = trained(history, "acme.one")
    shouted = {name: f"  {text.upper()} \n" for name, text in row.items()}
    assert pairs(history, shouted) == pairs(history, row)
    assert any(how == TRAINED and times == 3 for (_, _, how), times in pairs(history, row).items())


def test_an_answer_has_the_facts_and_a_proof(history: History) -> None:
    audit = history.audit()
    found = record(audit, parse_record(json.dumps(question(3))))
    assert found.equal
    for one in found.found:
        assert one.facts["line"] == 4
        assert one.facts["file"] == "rows.jsonl"
        assert one.inclusion is not None


def test_general_text_is_found_in_the_corpus_and_in_the_models(history: History) -> None:
    audit = history.audit()
    found = record(audit, parse_record("document 0 OF the town."))
    assert {one.stage for one in found.found} <= {"general_corpus", "training_mixture"}
    assert found.equal


def test_what_no_record_equals_says_what_was_looked_at(history: History) -> None:
    found = record(history.audit(), parse_record("nobody ever wrote this"))
    assert not found.equal
    assert found.checked.artifacts == 5
    assert found.checked.models == 2
    assert found.checked.records > 100
    assert "base model" in found.note


def test_an_auditor_of_a_tenant_hears_of_that_tenant_alone(history: History) -> None:
    row = trained(history, "globex.two")
    assert {pair[0] for pair in pairs(history, row)} == {"acme.one", "globex.two"}
    assert {pair[0] for pair in pairs(history, row, tenant="globex")} == {"globex.two"}
    with pytest.raises(UserError, match="no model of this variant"):
        history.audit(tenant="globex").model("acme.one")
    weights = history.audit().model("acme.one").digest
    with pytest.raises(UserError, match="no artifact has this digest"):
        history.audit(tenant="globex").model(weights)


def test_an_open_audit_answers_by_the_numbers_that_another_gave_the_artifacts(history: History) -> None:
    audit = history.audit()
    known = {id: audit.index.artifact(id) for id in (1, 2)}
    with closing(sqlite3.connect(index_folder(history.settings) / FILE)) as other, other:
        other.execute("UPDATE artifacts SET id = -id WHERE id IN (1, 2)")
        other.execute("UPDATE artifacts SET id = 3 + id WHERE id IN (-1, -2)")
    for id, before in known.items():
        audit.said(before)
        now = audit.index.artifact(3 - id)
        assert now.place == before.place
        assert audit.artifact(now).place == before.place


def test_a_rotated_key_finds_the_same_after_the_index_was_made_again(history: History) -> None:
    row = trained(history, "acme.one")
    before = pairs(history, row)
    rotate(history.settings.keys_folder, "acme")
    assert pairs(history, row) == before
    assert verify(history.audit()).holds


def test_a_lost_key_loses_no_answer(history: History) -> None:
    row = trained(history, "acme.one")
    before = pairs(history, row)
    (history.settings.keys_folder / "tenants" / "acme.json").unlink()
    assert pairs(history, row) == before
    assert verify(history.audit()).holds
    audit = history.audit()
    with pytest.raises(UserError, match=r"the key .* is lost"):
        prove(audit, parse_record(json.dumps(row)), audit.model("acme.one"))


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_damaged_or_deleted_index_is_made_again(history: History, damage: bytes | None) -> None:
    row = trained(history, "acme.one")
    before = pairs(history, row)
    file = history.settings.work_folder / "audit" / "index.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink() if damage is None else file.write_bytes(damage)
    assert pairs(history, row) == before
    assert file.stat().st_mode & 0o777 == 0o600


def test_of_many_that_ask_at_once_all_get_the_answer(history: History) -> None:
    """Each makes or follows the index, which is not there at first."""
    row, answers = question(3), list[Any]()
    threads = [threading.Thread(target=lambda: answers.append(pairs(history, row))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [pairs(history, row)] * 4
    assert verify(history.audit()).holds


@pytest.mark.parametrize("schema", mostly_long(range(1, SCHEMA_VERSION), [1, SCHEMA_VERSION - 1]))
def test_an_index_of_an_older_schema_is_made_again(history: History, schema: int) -> None:
    row = question(3)
    before = pairs(history, row)
    file = index_folder(history.settings) / FILE
    with closing(sqlite3.connect(file)) as older, older:
        older.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", [str(schema)])
        older.execute("DROP TABLE artifacts")
    assert pairs(history, row) == before
    with closing(sqlite3.connect(file)) as made:
        assert dict(made.execute("SELECT name, value FROM meta"))["schema_version"] == str(SCHEMA_VERSION)


def test_a_remote_store_is_answered_from_copies_that_hold(tmp_path: Path, s3_server: S3Server) -> None:
    (tmp_path / "project").mkdir()
    settings = {"store": f"s3://{s3_server.bucket}/audit", "store_options": s3_server.options}
    (tmp_path / "project" / "ft_dagster.yaml").write_text(json.dumps(settings))
    made = History(tmp_path / "project")
    dataset = made.dataset("acme.one", [question(number) for number in range(10)])
    made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    row = trained(made, "acme.one")
    copies = list(made.settings.cache_folder.glob(f"{dataset.digest}/*/evidence/*.parquet"))
    assert copies
    before = pairs(made, row)
    copies[0].write_bytes(b"cut short")
    assert pairs(made, row, again=True) == before
    assert verify(made.audit()).holds
    name = next(name for name in made.store.files_below(dataset.path) if name.endswith("rows.parquet"))
    made.store.write(f"{dataset.path}/{name}", b"altered")
    assert any("rows.parquet" in line for line in verify(made.audit()).problems)


def test_what_a_remote_store_has_not_is_not_asked_for(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made again after a removal is found all the same."""
    (tmp_path / "project").mkdir()
    settings = {"store": f"s3://{s3_server.bucket}/asked", "store_options": s3_server.options}
    (tmp_path / "project" / "ft_dagster.yaml").write_text(json.dumps(settings))
    made = History(tmp_path / "project")
    rows = [question(number) for number in range(10)]
    made.dataset("acme.one", rows)
    made.dataset("acme.two", rows[:9])
    assert len(made.audit().index.all()) == 2
    asked: list[str] = []
    read_each = Store.read_each

    def noted(store: Store, relatives: list[str]) -> list[bytes | None]:
        asked.extend(relatives)
        return read_each(store, relatives)

    monkeypatch.setattr(Store, "read_each", noted)
    assert len(made.audit().index.all()) == 2
    assert asked == []
    made.remove("task_dataset")
    asked.clear()
    assert made.dataset("acme.one", rows).generation == 2
    audit = made.audit()
    assert [path.rpartition("/")[2] for path in asked] == ["manifest-2.json"]
    assert {(each.variant, each.generation) for each in audit.index.all()} == {
        ("acme.one", 1), ("acme.one", 2), ("acme.two", 1),
    }  # fmt: skip
    assert verify(audit).problems == ()


def test_copies_of_a_remote_store_are_bounded(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.audit.index.artifact_records.HELD_AT_ONCE", 1)
    (tmp_path / "project").mkdir()
    settings = {"store": f"s3://{s3_server.bucket}/bounded", "store_options": s3_server.options}
    (tmp_path / "project" / "ft_dagster.yaml").write_text(json.dumps({**settings, "cache_gb": 30e-6}))
    made = History(tmp_path / "project")
    for first, name in enumerate(("one", "two", "three", "four")):
        made.dataset(f"acme.{name}", [question(number) for number in range(first, first + 100)])
    assert len(made.audit().index.all()) == 4
    copies = [file for file in made.settings.cache_folder.glob("*/*/evidence/*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in copies) < 60_000
    assert len({file.parents[2].name for file in copies}) < 4


def test_the_index_has_no_text_and_no_identity(history: History) -> None:
    history.audit().index.close()
    content = b"".join(
        file.read_bytes() for file in (history.settings.work_folder / "audit").iterdir() if file.is_file()
    )
    assert b"What is item" not in content
    for number in range(30):
        assert identity_of(question(number)) not in content
        assert identity_of(question(number)).hex().encode() not in content


def proof_file(history: History, given: str, model: str, tmp_path: Path) -> Path:
    audit = history.audit()
    file = tmp_path / "proof.json"
    file.write_text(dumps(prove(audit, parse_record(given), audit.model(model))), "utf-8")
    return file


def test_a_proof_of_presence_is_checked_without_the_store(history: History, tmp_path: Path) -> None:
    row = trained(history, "acme.one")
    file = proof_file(history, json.dumps(row), "acme.one", tmp_path)
    weights = history.audit().model("acme.one").digest
    found = check(file, parse_record(json.dumps(row)))
    assert (found.kind, found.variant, found.model) == (PRESENCE, "acme.one", weights)
    assert found.facts["split"] == "train"
    assert file.stat().st_size < 64_000
    path = json.loads(file.read_text())["leaves"][0]["path"]
    assert sum(map(len, path)) // 2 < 2000


def test_a_proof_of_absence_needs_the_key_of_the_tenant(history: History, tmp_path: Path) -> None:
    file = proof_file(history, "never written", "acme.one", tmp_path)
    asked, key = parse_record("never written"), keys_of(history.settings.keys_folder, "acme").current
    found = check(file, asked, key)
    assert found.kind == ABSENCE
    assert any("it is not there" in step for step in found.steps)
    assert any("needs the tenant's key" in step for step in check(file, asked).unchecked)
    with pytest.raises(UserError, match="another than the tree's"):
        check(file, asked, keys_of(history.settings.keys_folder, "globex").current)


def test_a_proof_of_absence_does_not_hold_of_another_record(history: History, tmp_path: Path) -> None:
    row = trained(history, "acme.one")
    file = proof_file(history, "never written", "acme.one", tmp_path)
    proof = json.loads(file.read_text())
    proof["identity"] = identity_of(row).hex()
    file.write_text(json.dumps(proof))
    with pytest.raises(UserError, match="does not hold"):
        check(file, parse_record(json.dumps(row)), keys_of(history.settings.keys_folder, "acme").current)


FORGED = {
    "another record": lambda proof: proof.update(identity="0" * 64),
    "another salt": lambda proof: proof.update(salt="0" * 32),
    "other facts": lambda proof: proof.update(facts=proof["facts"].replace('"line":', '"line":9')),
    "a sibling changed": lambda proof: proof["leaves"][0]["path"].__setitem__(0, "0" * 64),
    "another place": lambda proof: proof["leaves"][0].update(index=proof["leaves"][0]["index"] ^ 1),
    "another root": lambda proof: proof["tree"].update(root="0" * 64),
    "another size": lambda proof: proof["tree"].update(size=9),
    "the mixture's manifest changed": lambda proof: proof["manifests"].update(
        training_mixture=proof["manifests"]["training_mixture"].replace('"seed"', '"Seed"')
    ),
    "no manifest": lambda proof: proof["manifests"].pop("fine_tuned_model"),
    "another kind": lambda proof: proof.update(kind=ABSENCE),
}


@pytest.mark.parametrize("forged", mostly_long(FORGED, every=3))
def test_a_forged_proof_does_not_hold(history: History, tmp_path: Path, forged: str) -> None:
    row = trained(history, "acme.one")
    file = proof_file(history, json.dumps(row), "acme.one", tmp_path)
    proof = json.loads(file.read_text())
    FORGED[forged](proof)
    file.write_text(json.dumps(proof))
    key = keys_of(history.settings.keys_folder, "acme").current
    with pytest.raises(UserError, match=r"does not hold|not a proof|not a manifest"):
        check(file, parse_record(json.dumps(row)), key)


def test_what_a_record_was_in_is_told_after_retention_removed_it(history: History) -> None:
    """Trees, rows and ledgers stay with the manifests."""
    row = question(3)
    before = pairs(history, row)
    store = history.store
    for keyed in contents_of(store).keyed.values():
        artifact = keyed.artifact
        if artifact is not None and artifact.place.stage in (
            TASK_DATASET.name,
            GENERAL_CORPUS.name,
            TRAINING_MIXTURE.name,
            FINE_TUNED_MODEL.name,
        ):
            assert claim_removal(store, artifact, "retention", time.time() + DAY)
            finish_removal(store, artifact, (f"{artifact.predicate['attempt']}/{n}" for n in artifact.files))
            assert not store.names(f"{artifact.path}/payload")
    assert before
    assert pairs(history, row) == before
    assert pairs(history, row, again=True) == before
    found = record(history.audit(), parse_record(json.dumps(row)))
    assert all(each.inclusion is not None for each in found.found)
