"""`ft-dagster audit`: every question as text and as JSON, its exit codes, and the keys."""

from __future__ import annotations

import json
import os
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.audit.kept_answers import folder_of, keep_answer, kept_answers
from ft_dagster.audit.verify.verify import CANNOT_NOTICE
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from tests.audit.histories import History, question, this_moment
from tests.kept_project import OLD_PROJECT
from tests.long import mostly_long

pytestmark = pytest.mark.slow

ROW = json.dumps(
    {"instruction": "Where is the account of the north?", "input": "", "output": "The account is north."}
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    return shutil.copytree(OLD_PROJECT, tmp_path / "project")


def typed(project: Path, *words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), "audit", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_record_says_what_learned_from_it(project: Path) -> None:
    said = typed(project, "record", ROW)
    assert "5 models learned from it" in said
    told = typed(project, "record", ROW, "--json")
    assert told["seen"]
    assert {one["variant"] for one in told["models"]} == {
        "acme.places", "acme.colours", "globex.places", "globex.strict",
    }  # fmt: skip
    assert any(one["how"] == "parent trained on" for one in told["models"])
    alone = typed(project, "record", ROW, "--tenant", "globex", "--json")
    assert {one["variant"] for one in alone["models"]} == {"globex.places", "globex.strict"}


def test_record_says_never_seen_and_what_it_was_held_against(project: Path) -> None:
    said = typed(project, "record", "nobody wrote this")
    assert said.startswith("never seen: compared with 1,354 records of 10 data sets")
    asked = typed(project, "record", "Question 0: what floats on the sea?")
    assert asked.startswith(
        "in 6 artifacts; 0 models learned from it; no other row contains it, and 6 stored "
    )
    assert "models: acme.colours, acme.places, globex.places, globex.strict" in said
    told = typed(project, "record", "nobody wrote this", "--json")
    assert told["seen"] is False
    assert len(told["held_against"]["absences"]) == 10
    assert typed(project, "record", ROW, "--json")["held_against"] is None


def test_record_shows_between_which_leaves_a_record_would_be(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = made.dataset("acme.one", [question(1)], splits={"validation": 0, "test": 0, "minimum": 1})
    made.mixture("acme.one", rows)
    said = typed(made.folder, "record", "nobody wrote this")
    assert "between leaves" in said
    assert "who has the tenant's key" in said


def test_the_records_of_a_version_are_written_beside_what_made_it(project: Path, tmp_path: Path) -> None:
    said = typed(project, "model", "acme.places@2", "--to", str(tmp_path / "rows.jsonl"))
    assert said.startswith("trained on 71 records, written to ")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 71
    assert all(row["times"] > 0 and row["content"] for row in rows)
    told = typed(project, "model", "acme.places@2", "--to", str(tmp_path / "again.jsonl"), "--json")
    assert (told["records_in"], told["without_content"]) == (str(tmp_path / "again.jsonl"), 0)


def test_a_record_is_read_from_a_file(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    file.write_text(ROW)
    identity = typed(project, "record", str(file), "--json")["identities"][0]
    assert typed(project, "record", identity, "--json")["seen"]


@pytest.mark.long
def test_a_lost_key_is_told_once(project: Path, tmp_path: Path) -> None:
    """To whom it concerns, beside the answer; a rotated key is none that was lost."""
    typed(project, "index")
    keys = {one["owner"]: one["id"] for one in typed(project, "key", "list", "--json")["keys"]}
    typed(project, "key", "backup", str(tmp_path / "keys.json"))
    typed(project, "key", "rotate", "globex")

    def asked(*words: str) -> tuple[dict[str, Any], str]:
        done = CliRunner().invoke(app, ["--project", str(project), "audit", "record", ROW, "--json", *words])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        del found["search"]["seconds"]
        return found, done.stderr

    before, said = asked()
    assert said == ""
    (project / ".ft_dagster/keys/tenants/acme.json").unlink()
    after, said = asked()
    assert f"the key {keys['acme']} of acme is no longer in" in said
    assert len(said.splitlines()) == 1
    assert asked() == (before, "")
    assert after == before
    shutil.rmtree(project / ".ft_dagster/keys")
    _, said = asked("--tenant", "acme")
    assert "of acme is no longer" in said
    assert "globex" not in said


def test_one_of_anything_is_said_in_the_singular(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    base, whole = made.base(), {"validation": 0, "test": 0, "minimum": 1}
    rows = made.dataset("acme.one", [question(1)], splits=whole)
    made.model("acme.one", made.mixture("acme.one", rows), base)
    row, file = json.dumps(question(1)), tmp_path / "proof.json"
    assert "in 2 artifacts; 1 model learned from it" in typed(made.folder, "record", row)
    assert "2 data sets, corpora and mixtures, and 1 model, " in typed(made.folder, "record", "not written")
    assert "acme: 1 record in data sets" in typed(made.folder, "tenant", "acme")
    typed(made.folder, "prove", row, "acme.one", "--to", str(file))
    assert "that it was trained on 1 time:" in typed(made.folder, "check", str(file))


QUESTIONS = {
    "model": (["acme.places"], "acme.colours"),
    "at": (["acme.places", "2026-11-26"], "version 3"),
    "source": (["data/places.jsonl"], "acme.places v3"),
    "tenant": (["acme"], "200 records"),
    "diff": (["acme.places", "globex.strict"], "records: 0 added"),
    "index": ([], "1,354 records were new"),
    "verify": (["--all"], "all holds"),
}


@pytest.mark.parametrize("question", mostly_long(QUESTIONS, every=2))
def test_every_question_is_answered_in_words_and_as_json(project: Path, question: str) -> None:
    words, said = QUESTIONS[question]
    assert said in typed(project, question, *words)
    assert isinstance(typed(project, question, *words, "--json"), dict)


def test_records_whose_text_retention_removed_are_written_without_it(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    base, rows = made.base(), made.dataset("acme.one", [question(number) for number in range(20)])
    made.release("acme.one", made.model("acme.one", made.mixture("acme.one", rows), base), base)
    made.remove("task_dataset")
    file = tmp_path / "rows.jsonl"
    told = typed(made.folder, "at", "acme.one", this_moment(), "--to", str(file), "--json")
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert told["without_content"] == told["records"] == len(written) > 5
    assert all(row["content"] is None and row["facts"]["line"] for row in written)
    said = typed(made.folder, "at", "acme.one", this_moment(), "--to", str(file))
    assert f"{len(written)} without their text, which retention removed" in said
    assert "removed by retention on" in said


def test_the_records_of_a_model_are_its_own_where_another_variant_has_equal_weights(tmp_path: Path) -> None:
    made, equal = History(tmp_path / "project"), set[str]()
    for variant in ("acme.one", "globex.two"):
        rows = made.dataset(variant, [question(number) for number in range(20)])
        equal.add(made.model(variant, made.mixture(variant, rows), made.base()).digest)
    assert len(equal) == 1
    assert made.retire("globex.two")
    file = tmp_path / "rows.jsonl"
    told = typed(made.folder, "model", "acme.one", "--to", str(file), "--json")
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written
    assert all(row["content"] for row in written)
    assert told["without_content"] == 0


def test_verify_exits_with_1_where_something_was_altered(project: Path) -> None:
    weights = next((project / "store/tenants/acme/places/fine_tuned_model").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[::-1])
    assert str(weights) in typed(project, "verify", "--all", code=1).replace("\n", "")
    told = typed(project, "verify", "--all", "--json", code=1)
    assert not told["holds"]
    assert len(told["problems"]) == 1


def test_verify_looks_at_all_that_have_a_digest(project: Path) -> None:
    """Two tenants have equal data sets; either may be altered."""
    digests: dict[str, set[Path]] = {}
    for manifest in (project / "store/tenants").glob("*/*/task_dataset/*/manifest.json"):
        digests.setdefault(json.loads(manifest.read_text())["predicate"]["digest"], set()).add(manifest)
    [(digest, equal)] = [(digest, found) for digest, found in digests.items() if len(found) > 1]
    assert f"{len(equal)} artifacts" in typed(project, "verify", digest)
    for manifest in equal:
        file = next(manifest.parent.glob("*/payload/train.parquet"))
        content = file.read_bytes()
        file.write_bytes(content[::-1])
        told = typed(project, "verify", digest[:12], "--json", code=1)
        assert str(file) in told["problems"][0]
        for other in {each.parts[-5] for each in equal} - {manifest.parts[-5]}:
            assert "all holds" in typed(project, "verify", digest, "--tenant", other)
        file.write_bytes(content)


CHAT = {"format": "chat", "system": "Be brief.", "fields": {"messages": "talk"}}


def chat(number: int) -> dict[str, Any]:
    asked, answered = f"What is item {number}?", f"Item {number} is a thing."
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"talk": turns, "prompt": asked, "completion": answered}


@pytest.mark.parametrize(("number", "kind"), [(3, "presence"), (300, "absence")])
def test_a_proof_of_a_row_that_its_source_reads_otherwise_is_checked(
    tmp_path: Path, number: int, kind: str
) -> None:
    """A row that can be read plainly too; absence is shown of both readings, and as a text."""
    made = History(tmp_path / "project")
    base = made.base()
    rows = made.dataset("acme.chat", [chat(n) for n in range(10)], sources=[{"path": "rows.jsonl", **CHAT}],
                        splits={"validation": 0, "test": 0, "minimum": 1})  # fmt: skip
    made.model("acme.chat", made.mixture("acme.chat", rows), base)
    other = made.dataset("globex.two", [chat(n) for n in range(9)], sources=[
        {"path": "rows.jsonl", **CHAT, "system": "A secret of globex."}
    ])  # fmt: skip
    made.model("globex.two", made.mixture("globex.two", other), base)
    row, file = json.dumps(chat(number)), tmp_path / "proof.json"
    typed(made.folder, "prove", row, "acme.chat", "--to", str(file))
    assert "globex" not in file.read_text()
    key = made.settings.keys_folder / "tenants/acme.json"
    words = ("check", str(file), "--record", row, "--key", str(key))
    assert f"{kind} holds" in typed(made.folder, *words)
    told = typed(made.folder, *words, "--json")
    assert any("read as" in step and "Be brief." in step for step in told["steps"])
    with pytest.raises(UserError, match="another record"):
        typed(made.folder, "check", str(file), "--record", json.dumps(chat(301)))
    proof = json.loads(file.read_text())
    assert len(proof.get("read_otherwise", [])) == 2 * (kind == "absence")
    for shown in proof.get("read_otherwise", []):
        shown["identity"] = "0" * 64
        file.write_text(json.dumps(proof))
        with pytest.raises(UserError, match="another record"):
            typed(made.folder, *words)


@pytest.mark.parametrize(
    "words",
    mostly_long([
        ("record", ""), ("model", "acme.nobody"), ("model", "0" * 64), ("at", "acme.places", "1999-01-01"),
        ("verify",), ("verify", "0" * 64), ("verify", "--all", "0" * 64), ("tenant", "nobody"),
        ("record", "x", "--tenant", "../x"), ("prove", "x", "acme.places"), ("check", "nowhere.json"),
        ("key", "rotate"), ("key", "rotate", "../x"), ("key", "restore", "nowhere"),
    ], every=3, whole=True),
)  # fmt: skip
def test_a_mistake_is_one_message(project: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        typed(project, *words)
    assert refused.value.fix


def test_without_the_tenants_key_the_check_of_an_absence_shows_nothing(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = made.dataset("acme.one", [question(n) for n in range(9)])
    made.model("acme.one", made.mixture("acme.one", rows), made.base())
    file, key = tmp_path / "proof.json", made.settings.keys_folder / "tenants/acme.json"
    typed(made.folder, "prove", "never written", "acme.one", "--to", str(file))
    assert typed(made.folder, "check", str(file), code=1).startswith("absence not shown: acme.one, weights ")
    assert typed(made.folder, "check", str(file), "--json", code=1)["holds"] is False
    words = ("check", str(file), "--key", str(key))
    assert typed(made.folder, *words).startswith("absence holds: acme.one, weights ")
    assert typed(made.folder, *words, "--json")["holds"] is True


def test_verify_says_what_it_did_not_check_and_what_no_check_can_notice(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    made.dataset("acme.one", [question(n) for n in range(9)])
    said = typed(made.folder, "verify", "--all")
    assert ": all holds\n" in said
    assert said.count("not noticed by any check: ") == len(CANNOT_NOTICE)
    assert "held against what they were since 20" in said
    made.settings.keys_folder.joinpath("tenants/acme.json").unlink()
    said = typed(made.folder, "verify", "--all")
    assert "not checked: the order of 1 record tree of acme" in said
    assert ": all that was checked holds\n" in said
    told = typed(made.folder, "verify", "--all", "--json")
    assert (told["holds"], len(told["unchecked"]), len(told["cannot_notice"])) == (
        True,
        1,
        len(CANNOT_NOTICE),
    )


def test_what_names_no_proof_or_no_folder_is_one_message(project: Path, tmp_path: Path) -> None:
    typed(project, "index")
    [key] = sorted((project / ".ft_dagster/keys/tenants").glob("acme.json"))
    no_proof = tmp_path / "rows.jsonl"
    no_proof.write_text("no JSON")
    for file in (no_proof, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"not a proof|no such file"):
            typed(project, "check", str(file), "--key", str(key))
    with pytest.raises(UserError, match="cannot be written"):
        typed(project, "at", "acme.places", this_moment(), "--to", str(tmp_path / "no" / "where.jsonl"))


def test_keys_are_listed_rotated_backed_up_and_restored(project: Path, tmp_path: Path) -> None:
    typed(project, "index")
    keys = {one["owner"]: one["id"] for one in typed(project, "key", "list", "--json")["keys"]}
    assert set(keys) == {"", "acme", "globex"}
    assert typed(project, "key", "backup", str(tmp_path / "keys.json"), "--json")["owners"] == 3
    rotated = typed(project, "key", "rotate", "acme", "--json")
    assert rotated["kept"] == [keys["acme"]]
    assert typed(project, "record", ROW, "--json")["seen"]
    shutil.rmtree(project / ".ft_dagster" / "keys")
    assert typed(project, "key", "restore", str(tmp_path / "keys.json"), "--json")["added"] == 3
    assert {one["owner"]: one["id"] for one in typed(project, "key", "list", "--json")["keys"]} == keys
    assert "acme" in typed(project, "key", "list")


@pytest.mark.long
def test_a_model_whose_data_set_comes_out_otherwise_diverged_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kept code, which makes the data set again from all rows of the declared file."""
    made = History(tmp_path / "project")
    weights = made.declared("acme.one", [question(number) for number in range(40)], kept=30)
    monkeypatch.chdir(tmp_path)
    words = ("replay", "acme.one", "--keep", "kept")
    said = typed(made.folder, *words, code=1)
    assert said.startswith("DIVERGED at task_dataset: task_dataset came out as another")
    assert f"made in {tmp_path / 'kept' / 'project'}" in " ".join(said.split())
    told = typed(made.folder, "replay", weights.digest, "--json", code=1)
    assert (told["verdict"], told["first"], told["step"], told["folder"]) == (
        "DIVERGED", "task_dataset", None, None,
    )  # fmt: skip
    [stage] = told["stages"]
    assert stage["rebuilt"] != stage["recorded"]
    assert stage["said"] == "another: test.parquet, train.parquet, validation.parquet"
    refused = CliRunner().invoke(app, ["--project", str(made.folder), "audit", *words])
    assert isinstance(refused.exception, UserError)
    assert "not an empty folder" in str(refused.exception)


def test_an_answer_is_kept_as_a_page_that_names_a_record_by_its_identity_alone(project: Path) -> None:
    told = typed(project, "record", ROW, "--save", "--json")
    page = Path(told["page"]).read_text("utf-8").replace("\u200b", "")
    assert told["identities"][0] in page
    assert all(one["variant"] in page for one in told["models"])
    assert "account" not in page
    said = typed(project, "record", "nobody wrote this", "--save")
    assert "kept as a page: " in said
    kept = sorted(folder_of(load_settings(project)).iterdir())
    assert len(kept) == 2
    assert "nobody wrote this" not in kept[1].read_text("utf-8")
    assert "never seen: compared with" in kept[1].read_text("utf-8")


def test_kept_answers_on_long_texts_are_told_apart_by_name(project: Path) -> None:
    settings = load_settings(project)
    said = "a person's whole address " * 8
    first, other = (keep_answer(settings, "search", f"{said}{n}", "<p>kept</p>") for n in range(2))
    assert first.name.partition("-search-")[2] != other.name.partition("-search-")[2]
    assert all(len(file.name) <= 150 for file in (first, other))
    assert len(kept_answers(settings)) == 2


@pytest.mark.parametrize(
    "question",
    [
        ("model", "acme.places@2"),
        ("at", "acme.places", this_moment()),
        ("tenant", "acme"),
        ("diff", "acme.places@1", "acme.places@2"),
    ],
)
def test_a_kept_page_has_what_the_terminal_shows(project: Path, question: tuple[str, ...]) -> None:
    lines = typed(project, *question).split()
    typed(project, *question, "--save")
    [kept] = kept_answers(load_settings(project))
    assert (kept.question, kept.of[:4]) == (question[0], "acme")
    page = (folder_of(load_settings(project)) / kept.name).read_text("utf-8")
    page = unescape(page.replace("\u200b", ""))
    assert [word for word in lines if word not in page] == []
