"""A row trained on in part is not told as trained on whole; one that differs past its cut is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.answers import RecordAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.models import at, model
from ft_dagster.audit.parts import OLDER
from ft_dagster.audit.proofs.absence import and_held, held_against
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import TRAINED, record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import training_records
from ft_dagster.cli.audit.questions import RecordCounts, written_sentence
from ft_dagster.data.mixture.cuts import IN_PART, TOO_LONG, UNFOLLOWED, UNTRAINED, Cut
from ft_dagster.stage_entries import TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question, this_moment
from tests.present import present

pytestmark = pytest.mark.slow

WHOLE = {"validation": 0, "test": 0, "minimum": 1}
SOURCE = "data.sources[0]"
# Row 0 was cut within its answer, rows 1 and 2 were left out, row 3 is whole.
CUTS = (
    Cut("train", SOURCE, 0, 812, 512, 1, 14),
    Cut("train", SOURCE, 1, 900, 0, reason=TOO_LONG),
    Cut("train", SOURCE, 2, reason=UNTRAINED),
)


def made(folder: Path, *, tells: bool = True, cuts: tuple[Cut, ...] = CUTS, **more: Any) -> History:
    history = History(folder / "project")
    rows, base = [question(n) for n in range(6)], history.base()
    dataset = history.dataset("acme.one", rows, splits=WHOLE, deduplicate="off")
    mixture = history.mixture("acme.one", dataset, cuts=cuts, tells=tells, **more)
    history.release("acme.one", history.model("acme.one", mixture, base, times=4), base)
    return history


def asked_of(audit: Audit, number: int, **more: Any) -> RecordAnswer:
    return record(audit, parse_record(dumps(question(number, **more)), audit.readings()))


def test_a_record_says_how_much_of_it_was_trained_on(tmp_path: Path) -> None:
    audit = made(tmp_path).audit()
    cut, whole = asked_of(audit, 0), asked_of(audit, 3)
    said = "the first 512 of 812 tokens"
    assert {(one.stage, one.cut) for one in cut.found} == {
        (TASK_DATASET.name, ""),
        (TRAINING_MIXTURE.name, said),
    }
    assert [(one.how, one.times, one.cut) for one in cut.models] == [(TRAINED, 4, said)]
    assert {one.cut for one in whole.found} == {one.cut for one in whole.models} == {""}


def test_a_row_that_the_mixture_left_out_shows_with_the_reason(tmp_path: Path) -> None:
    audit = made(tmp_path).audit()
    for number, reason, tokens in ((1, TOO_LONG, 900), (2, UNTRAINED, None)):
        found = asked_of(audit, number)
        [left_out] = [one for one in found.found if one.stage == TRAINING_MIXTURE.name]
        assert (left_out.state, left_out.facts["reason"], left_out.facts["tokens"]) == (
            "dropped",
            reason,
            tokens,
        )
        assert (left_out.facts["file"], left_out.facts["line"]) == ("rows.jsonl", number + 1)
        assert found.models == ()


def test_what_a_model_was_trained_on_says_how_much_of_each_record(tmp_path: Path) -> None:
    audit = made(tmp_path).audit()
    weights = audit.model("acme.one")
    told = {one.facts["line"]: one.cut for one in training_records(audit, weights)}
    assert told == {1: "the first 512 of 812 tokens", 4: "", 5: "", 6: ""}
    found = model(audit, "acme.one")
    assert (found.in_part, found.perhaps_in_part) == (1, 0)
    assert at(audit, "acme.one", this_moment()).model.in_part == 1
    assert written_sentence(RecordCounts(4, 0, 1, 0), None) == "trained on 4 records, 1 of them in part"


def test_a_row_that_differs_past_the_cut_alone_is_found(tmp_path: Path) -> None:
    audit = made(tmp_path).audit()
    completion = question(0)["completion"]  # "Item 0 is a thing."
    asked = parse_record(dumps(question(0, completion=f"{completion[:14].upper()}whale, as is known.")))
    found = record(audit, asked)
    search = present(look_through(audit, asked).search)
    found = replace(and_held(found, held_against(audit, asked)), search=search)
    assert (found.found, found.seen) == ((), True)
    assert sought(found).startswith(
        "no record equals this; 1 row that was cut is the same as far as that: compared with "
    )
    [same] = search.cut
    assert {one.facts["line"] for one in same.found} == {1}
    assert [(one.how, one.cut) for one in search.models] == [(TRAINED, "the first 512 of 812 tokens")]
    before = parse_record(dumps(question(0, completion="Item 0 was a whale")))
    assert present(look_through(audit, before).search).cut == ()


def test_a_document_of_which_pieces_are_there_says_so(tmp_path: Path) -> None:
    history = History(tmp_path / "project")
    corpus = history.corpus([f"Document {n} of the town." for n in range(40)])
    dataset = history.dataset("acme.one", [question(n) for n in range(6)], splits=WHOLE)
    cuts = (Cut("train", "general:general", 2, reason=IN_PART),)
    history.model("acme.one", history.mixture("acme.one", dataset, corpus, cuts=cuts), history.base())
    audit = history.audit()
    [weights] = audit.index.of_stage("fine_tuned_model")
    records = [one for one in training_records(audit, weights) if one.facts["source"] == "general:general"]
    found = {one.facts["row"]: one.cut for one in records}
    assert found == {0: "", 1: "", 2: IN_PART, 3: "", 4: ""}


def test_a_record_says_that_turns_after_its_last_trained_answer_were_not_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The old bank."}]
    after = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "weight": 0}]
    history = History(tmp_path / "project")
    others: list[dict[str, Any]] = [
        {"messages": [{**turns[0], "content": f"Who is {n}?"}, turns[1]]} for n in range(5)
    ]
    rows: list[dict[str, Any]] = [{"messages": [*turns, *after]}, *others]
    dataset = history.dataset("acme.one", rows, splits=WHOLE, deduplicate="off")
    mixture = history.mixture("acme.one", dataset, cuts=(Cut("train", SOURCE, 0, reason=UNFOLLOWED),))
    history.model("acme.one", mixture, history.base())
    audit, said = history.audit(), UNFOLLOWED
    found = record(audit, parse_record(dumps(rows[0]), audit.readings()))
    assert {(one.stage, one.cut) for one in found.found} == {
        (TASK_DATASET.name, ""),
        (TRAINING_MIXTURE.name, said),
    }
    assert [(one.how, one.cut) for one in found.models] == [(TRAINED, said)]
    assert {one.cut for one in training_records(audit, audit.model("acme.one"))} == {"", said}
    assert model(audit, "acme.one").in_part == 1
    asked = parse_record(dumps({"messages": turns}), audit.readings())
    assert record(audit, asked).found == ()
    [same] = present(look_through(audit, asked).search).cut
    assert [(one.how, one.cut) for one in same.models] == [(TRAINED, said)]


def test_what_was_cut_is_told_after_retention_removed_the_rows(tmp_path: Path) -> None:
    history = made(tmp_path)
    history.remove(TASK_DATASET.name, TRAINING_MIXTURE.name)
    audit = history.audit(again=True)
    assert [one.cut for one in asked_of(audit, 0).models] == ["the first 512 of 812 tokens"]
    assert [one.facts.get("reason") for one in asked_of(audit, 1).found] == [None, TOO_LONG]


def test_a_mixture_that_was_made_before_tells_what_follows_from_its_figures(tmp_path: Path) -> None:
    """All of its examples are as long as one may be."""
    some = made(tmp_path / "some", tells=False)
    said = f"perhaps the first 3 tokens alone: {OLDER}"
    audit = some.audit()
    assert [(one.how, one.cut) for one in asked_of(audit, 3).models] == [(TRAINED, said)]
    assert (model(audit, "acme.one").in_part, model(audit, "acme.one").perhaps_in_part) == (0, 4)
    [left_out] = [one for one in asked_of(audit, 1).found if one.stage == TRAINING_MIXTURE.name]
    assert left_out.facts["reason"] == f"{UNTRAINED} or {TOO_LONG}"
    every = tuple(Cut("train", SOURCE, row, 9, 3) for row in range(6))
    audit = made(tmp_path / "every", tells=False, cuts=every).audit()
    assert [one.cut for one in asked_of(audit, 3).models] == ["the first 3 tokens of more"]
    assert (model(audit, "acme.one").in_part, model(audit, "acme.one").perhaps_in_part) == (6, 0)
    audit = made(tmp_path / "none", tells=False, cuts=()).audit()
    assert [one.cut for one in asked_of(audit, 3).models] == [""]
    some.remove(TRAINING_MIXTURE.name)
    said = f"perhaps its beginning alone: {OLDER}"
    assert [one.cut for one in asked_of(some.audit(again=True), 3).models] == [said]


def test_where_a_mixture_does_not_say_its_cuts_a_long_text_is_not_never_seen(tmp_path: Path) -> None:
    audit = made(tmp_path, tells=False).audit()
    search = present(look_through(audit, parse_record("nobody ever wrote this")).search)
    [line] = search.cannot
    assert line.startswith("what differs from a row of 1 mixture that cuts rows past its cut alone")


def test_a_proof_says_that_a_row_may_have_been_cut(tmp_path: Path) -> None:
    history = made(tmp_path)
    audit, file = history.audit(), tmp_path / "proof.json"
    asked = parse_record(dumps(question(0)))
    file.write_text(dumps(prove(audit, asked, audit.model("acme.one"))), "utf-8")
    assert (
        "that all of it was trained on: what is longer than an example is cut" in check(file, asked).unchecked
    )
    left_out = prove(audit, parse_record(dumps(question(1))), audit.model("acme.one"))
    assert left_out["kind"] == "absence"


def test_every_command_says_how_much_was_trained_on(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ft_dagster.cli import app

    history = made(tmp_path)

    def typed(*words: str) -> str:
        done = CliRunner().invoke(
            app, ["--project", str(history.folder), "audit", *words], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    file = tmp_path / "rows.jsonl"
    assert "the first 512 of 812 tokens" in typed("record", dumps(question(0)))
    assert "dropped: too long" in typed("record", dumps(question(1)))
    said = f"trained on 4 records, 1 of them in part, written to {file}"
    assert said in typed("model", "acme.one", "--to", str(file))
    assert "in part alone 1 of the records" in typed("model", "acme.one")
    assert "trained on 4 records, 1 of them in part" in typed("at", "acme.one", this_moment())
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [line["cut"] for line in lines if line["cut"]] == ["the first 512 of 812 tokens"]
