"""Record evidence by keyed lookups: all questions are answered as by identities, across rotations too; old
files have their identities taken out under amendments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from ft_dagster.audit import forget as forgetting
from ft_dagster.audit.crossings import crossings
from ft_dagster.audit.forget import Forgotten, forget_identities
from ft_dagster.audit.models import diff
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import training_records
from ft_dagster.audit.verify.verify import Verified, verify
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.records.lost_keys import lost_keys
from ft_dagster.records.record_keys import rotate
from ft_dagster.records.record_tree import TreeHead
from ft_dagster.stage_entries import TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import read_head
from ft_dagster.store.amendments import FOLDER
from tests.audit.histories import History, question
from tests.audit.proved import proof
from tests.e2e.project import write_lines
from tests.present import present
from tests.s3_server import S3Server
from tests.store.signing_keys import trust

pytestmark = pytest.mark.slow
ROWS = [*(question(number) for number in range(20)), question(3)]  # one twice, and so one left out
OTHERS = [*(question(number) for number in range(100, 115)), *ROWS[:4]]


def train(made: History, variant: str, rows: list[Any] = ROWS) -> None:
    corpus = made.corpus([f"Document {number}⁰ of the town." for number in range(20)])
    source = f"data/{variant.partition('.')[0]}/rows.jsonl"  # the tenant's own
    write_lines(made.folder / source, rows)
    dataset = made.dataset(variant, rows, sources=[source])
    weights = made.model(variant, made.mixture(variant, dataset, corpus), made.base())
    made.release(variant, weights, made.base())


@pytest.fixture(params=["trees", "identities"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """acme.one, its evidence as it is written now, or with identities."""
    found = History(tmp_path / "project", request.param)
    train(found, "acme.one")
    return found


@pytest.fixture
def old(tmp_path: Path) -> History:
    found = History(tmp_path / "project", "identities")
    train(found, "acme.one")
    return found


def files(made: History) -> list[Path]:
    found = (made.folder / ".ft_dagster" / "store").rglob("evidence/*.parquet")
    return sorted(file for file in found if file.name in ("rows.parquet", "dropped.parquet"))


def found_in(made: History, row: Any) -> set[tuple[str, str, str, bool]]:
    answer = record(made.audit(), parse_record(json.dumps(row)))
    return {(one.stage, one.digest, one.state, one.inclusion is not None) for one in answer.found}


def verified(made: History) -> Verified:
    return verify(made.audit())


def test_what_is_trained_on_is_listed_with_identity_and_text(made: History) -> None:
    audit = made.audit()
    found = list(training_records(audit, audit.model("acme.one")))
    assert len(found) > 10
    assert all(one.identity and one.content for one in found)
    for one in found[:3]:
        answer = record(audit, parse_record(str(one.identity)))
        assert {"task_dataset", "training_mixture"} & {each.stage for each in answer.found} or answer.found


def test_old_trees_are_proved_by_the_old_key_and_new_ones_by_the_new(made: History) -> None:
    keys = made.settings.keys_folder
    before, of_old = found_in(made, ROWS[0]), proof(made, json.dumps(ROWS[0]))
    new = rotate(keys, "acme")
    assert found_in(made, ROWS[0]) == before
    assert proof_of(made, "acme.one") == of_old["tree"]["key"] == new.keys[1].id
    train(made, "acme.two", OTHERS)
    audit = made.audit()
    dataset = audit.artifact(audit.index.of_stage("task_dataset", "tenants/acme/two")[0])
    assert present(TreeHead.of(dataset.figures)).key == new.current.id
    assert {one[1] for one in found_in(made, ROWS[0])} > {one[1] for one in before}
    assert verified(made).holds


def proof_of(made: History, variant: str) -> str:
    from ft_dagster.audit.proofs.proofs import prove

    audit = made.audit()
    shown = prove(audit, parse_record(json.dumps(ROWS[0])), audit.model(variant))
    return str(shown["tree"]["key"])


def test_models_of_before_and_after_a_rotation_are_compared(made: History) -> None:
    rotate(made.settings.keys_folder, "acme")
    train(made, "acme.two", OTHERS)
    found = diff(made.audit(), "acme.one", "acme.two")
    plain = History(made.folder.with_name("plain"), "identities")
    train(plain, "acme.one")
    train(plain, "acme.two", OTHERS)
    other = diff(plain.audit(), "acme.one", "acme.two")
    assert (found.added, found.removed, found.same) == (other.added, other.removed, other.same)
    assert found.same > 0


def test_tenants_are_compared_by_the_shared_key_also_old_with_new(made: History) -> None:
    made.kept = "trees"
    train(made, "globex.two", OTHERS)
    rotate(made.settings.keys_folder, "globex")
    before = {(one.owner, one.records) for one in crossings(made.audit()).crossings}
    assert {owner for owner, _ in before} == {"acme", "globex"}
    rotate(made.settings.keys_folder, "")
    train(made, "initech.three", OTHERS)
    found = crossings(made.audit(), "initech")
    said = [line for line in found.unshown if "another shared key" in line]
    assert len(said) == (4 if made_new(made) else 2)  # those of before the rotation, in both directions


def made_new(made: History) -> bool:
    [file] = (
        file for file in files(made) if "acme/one/task_dataset" in str(file) and file.name == "rows.parquet"
    )
    return "identity" not in parquet.read_schema(file).names


def test_a_lost_key_is_said_before_it_matters(made: History) -> None:
    keys, store = made.settings.keys_folder, made.store
    heads = [
        present(read_head(store, "tenants/acme/one", stage.name))
        for stage in (TASK_DATASET, TRAINING_MIXTURE)
    ]
    assert lost_keys(keys, heads) == []
    (keys / "tenants" / "acme.json").unlink()
    [lost] = lost_keys(keys, heads)
    assert "of acme is not here, and orders 2 of the newest record trees" in lost.problem
    assert "ft-dagster audit key restore" in lost.fix
    assert not (keys / "tenants" / "acme.json").exists()  # to ask makes none
    [line, *_] = verified(made).unchecked
    assert "ft-dagster audit key restore" in line


# Old files


def digests(made: History) -> dict[str, bytes]:
    """Every file of the store but those of rows."""
    store = made.folder / ".ft_dagster" / "store"
    skipped = {*files(made)}
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in store.rglob("*")
        if file.is_file() and file not in skipped and FOLDER not in file.parts
    }


def forget(made: History, *, dry_run: bool = False) -> Forgotten:
    return forget_identities(made.audit(), dry_run=dry_run)


def test_identities_are_taken_out_and_nothing_else_changes(old: History) -> None:
    before, known, answers = verified(old), digests(old), found_in(old, ROWS[0])
    assert before.unsalted == len(files(old)) == 4
    told = forget(old, dry_run=True)
    assert len(told.files) == 4
    assert verified(old).unsalted == 4
    assert forget(old).files == told.files
    after = verified(old)
    assert after.problems == ()
    assert (after.unsalted, after.amended) == (0, 3)
    assert digests(old) == known
    assert found_in(old, ROWS[0]) == answers
    assert all("identity" not in parquet.read_schema(file).names for file in files(old))
    assert forget(old).files == ()
    train(old, "acme.one")  # a run takes what stands, and writes heads alone
    heads = {name for name, content in digests(old).items() if content != known.get(name)}
    assert all("/heads/" in name for name in heads)


@pytest.mark.parametrize("at", range(4))
def test_what_is_killed_in_the_middle_loses_nothing_and_is_finished(
    old: History, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Between an amendment and its file, at each of the files."""
    from ft_dagster.store.blobs import Store

    before, upload, left = found_in(old, ROWS[0]), Store.upload, [at]

    def some(self: Store, source: Path, relative: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        upload(self, source, relative)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "upload", some)
        with pytest.raises(KeyboardInterrupt):
            forget(old)
    assert found_in(old, ROWS[0]) == before != set()
    [problem] = verified(old).problems
    assert "this amendment was begun and not carried out" in problem
    assert "forget-identities" in problem
    assert len(forget(old).files) == 4 - at
    found = verified(old)
    assert (found.problems, found.unsalted) == ((), 0)
    assert len(list((old.folder / ".ft_dagster/store").rglob(f"{FOLDER}/*.json"))) == 4


def amended(made: History) -> Iterator[Path]:
    yield from sorted((made.folder / ".ft_dagster/store").rglob(f"{FOLDER}/*.json"))


def test_an_amendment_that_fits_nothing_does_not_hold(old: History) -> None:
    forget(old)
    file = next(amended(old))
    whole = file.read_text("utf-8")
    content = json.loads(whole)
    change = content["changes"][0]
    forged = {
        "amends no artifact": {**content, "manifest": "0" * 64},
        "names other bytes than there were": {**content, "changes": [{**change, "before": "0" * 64}]},
        "not an amendment": {**content, "changes": [{**change, "path": "payload/train.parquet"}]},
    }
    for said, other in forged.items():
        file.write_text(json.dumps(other), "utf-8")
        assert any(said in line for line in verified(old).problems), said
    file.write_text(whole, "utf-8")
    rows = next(file for file in files(old) if str(file).startswith(str(next(amended(old)).parents[1])))
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    assert any("other bytes" in line for line in verified(old).problems)


def test_where_signatures_are_asked_for_an_amendment_without_one_changes_nothing(old: History) -> None:
    from ft_dagster.lineage.statements import unsigned

    forget(old)
    audit = old.audit()
    asked = trust(unsigned="accepted")
    audit.store.trust = asked
    kinds = {one.kind for one in unsigned(audit.store)}
    assert any("amendment" in kind for kind in kinds)
    [indexed] = audit.index.of_stage("task_dataset")
    artifact = audit.artifact(indexed)
    audit.store.trust = trust()
    with pytest.raises(UserError, match="nobody whom"):
        artifact.as_amended(audit.store)


def test_a_remote_store_forgets_too_and_the_copies_here(tmp_path: Path, s3_server: S3Server) -> None:
    made = History(tmp_path / "project", "identities")
    settings = {"store": f"s3://{s3_server.bucket}/unsalted", "store_options": s3_server.options}
    (made.folder / "ft_dagster.yaml").write_text(json.dumps(settings), "utf-8")
    train(made, "acme.one")
    answers = found_in(made, ROWS[0])
    assert len(forget(made).files) == 4
    found = verified(made)
    assert (found.problems, found.unsalted, found.amended) == ((), 0, 3)
    assert found_in(made, ROWS[0]) == answers
    for root in (made.settings.cache_folder, s3_server.folder / "unsalted"):
        rows = [*root.rglob("rows.parquet"), *root.rglob("dropped.parquet")]
        assert all("identity" not in parquet.read_schema(file).names for file in rows)


def test_the_command_says_what_it_does(old: History) -> None:
    def typed(*words: str) -> Any:
        return CliRunner().invoke(app, ["--project", str(old.folder), "audit", *words])

    assert "4 files hold unsalted identities" in " ".join(typed("verify", "--all").output.split())
    said = " ".join(typed("forget-identities", "--dry-run").output.split())
    assert "identities would be taken out of 4 files" in said
    done = json.loads(typed("forget-identities", "--json").output)
    assert (len(done["files"]), done["left"], done["signed"]) == (4, [], False)
    assert "AMENDED: 3 artifacts" in " ".join(typed("verify", "--all").output.split())


def test_a_file_whose_key_is_lost_is_left_and_named(old: History) -> None:
    (old.settings.keys_folder / "tenants" / "acme.json").unlink()
    found = forget(old)
    assert len(found.files) == 1  # of the corpus
    assert len(found.left) == 3
    assert all("is not here: left as it is" in line for line in found.left)
    assert forgetting.NO_TREE not in found.left
