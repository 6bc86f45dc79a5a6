"""Text that stands inside a row, a document, a question or an answer is found, and nothing is called never
seen that was not searched.
"""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from ft_dagster.audit.answers import RecordAnswer, SearchAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.proofs.absence import and_held, held_against
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import ANSWERED, JUDGED, TRAINED, record
from ft_dagster.audit.search.inside import AllInside, loosely, rows_with, views, words_in
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.search.stored_text import read_texts, text_files
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.cli import app
from ft_dagster.data.rows.content import normal_text
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import Answer, Sample
from ft_dagster.stage_entries import EVALUATION, TASK_DATASET
from tests.audit.histories import History, question
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow

NAME = "Agnes Müller"
WHOLE = {"validation": 0, "test": 0, "minimum": 1}


def searched(audit: Audit, given: str, **options: Any) -> SearchAnswer:
    return present(look_through(audit, parse_record(given, audit.readings()), **options).search)


def told(audit: Audit, given: str, **options: Any) -> RecordAnswer:
    """As the command answers."""
    asked = parse_record(given, audit.readings())
    found = record(audit, asked)
    held = found if found.found else and_held(found, held_against(audit, asked))
    return replace(held, search=look_through(audit, asked, **options).search)


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def answered(asked: str, expected: str, said: str) -> tuple[list[Sample], list[Answer]]:
    name = f"town:0:{'5' * 32}"
    sample = Sample("task", "town", "acc", name, 1.0, 1.0, higher_is_better=True)
    return [sample], [Answer("task", "town", name, asked, expected, said)]


ROWS: dict[str, dict[str, Any]] = {
    "a prompt": question(1, prompt=f"Does {NAME} live here?"),
    "a completion": question(2, completion=f"Yes: {NAME}, at number 4."),
    "a turn": chat(("user", "Who?"), ("assistant", f"Ask {NAME}.")),
    "a turn before the last": chat(
        ("user", "Who?"), ("assistant", f"{NAME}"), ("user", "Where?"), ("assistant", "There.")
    ),
    "a system turn": chat(("system", f"You serve {NAME}."), ("user", "Who?"), ("assistant", "You.")),
    "a text": {"text": f"On that day {NAME} came."},
    "another case": {"text": "AGNES MÜLLER CAME"},
    "two lines": {"text": "Here Agnes\r\n  Müller"},
    "a line within the word": {"text": "Agnes Mül-\nler came"},
    "a line within the word without a sign": {"text": "Agnes Mül\nler came"},
    "a tag between": {"text": "<p>Agnes <b>Müller</b></p>"},
    "a tag in place of the space": {"text": "Agnes<br/>Müller"},
    "a tag within the word": {"text": "Agnes M<i>ü</i>ller"},
    "entities": {"text": "Agnes&nbsp;M&uuml;ller"},
    "tags as entities": {"text": "Agnes &lt;b&gt;Müller&lt;/b&gt;"},
    "marks between the words": {"text": "**Agnes** *Müller*"},
    "an invisible character": {"text": "Here Agnes M\u00adü\u200bller"},
    "a control character": {"text": "Here Agnes M\u0001üller"},
    "a combining mark": {"text": unicodedata.normalize("NFD", f"Here {NAME}")},
    "full width": {"text": "Here Ａｇｎｅｓ Ｍüｌｌｅｒ"},
    "a quote before it": {"text": f'"{NAME}"'},
    "a possessive": {"text": f"{NAME}'s house"},
}
NONE: dict[str, str] = {
    "another order": "Müller, Agnes",
    "within words": "Hagnes Müllerin",
    "a longer word": "Agnes Müllers",
    "a part alone": "Agnes and Peter Müller",
    "without the mark": "Agnes Muller",
}


@pytest.mark.parametrize("kind", mostly_long(ROWS, every=4))
def test_a_name_inside_a_row_is_found(tmp_path: Path, kind: str) -> None:
    made = History(tmp_path / "project")
    other = {
        "prompt": question(20),
        "messages": chat(("user", "a"), ("assistant", "b")),
        "text": {"text": "x"},
    }
    format = next(name for name in other if name in ROWS[kind])
    dataset = made.dataset("acme.one", [ROWS[kind], other[format]], splits=WHOLE)
    made.model("acme.one", made.mixture("acme.one", dataset), made.base(), times=2)
    answer = told(made.audit(), NAME)
    assert sought(answer).startswith("no record equals this; 1 row contains it: compared with ")
    assert answer.seen
    [one] = present(answer.search).records
    assert [(each.stage, each.facts["line"]) for each in one.found] == [
        (TASK_DATASET.name, 1),
        ("training_mixture", 1),
    ]
    assert [(each.how, each.times) for each in present(answer.search).models] == [(TRAINED, 2)]


@pytest.mark.parametrize("row", [question(1), chat(("user", "Who?"), ("assistant", "You."))])
def test_a_name_of_a_group_of_rows_is_found(tmp_path: Path, row: dict[str, Any]) -> None:
    made = History(tmp_path / "project")
    source = {"path": "rows.jsonl", "fields": {"group": "patient"}}
    made.dataset("acme.one", [{**row, "patient": NAME}], splits=WHOLE, sources=[source])
    assert searched(made.audit(), NAME).rows == 1


def test_what_a_model_answered_while_it_was_trained_is_searched(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    dataset = made.dataset("acme.one", [question(n) for n in range(8)])
    wrote = ["The sky is blue.", f"It is {NAME}."]
    made.model("acme.one", made.mixture("acme.one", dataset), made.base(), wrote=wrote)
    found = searched(made.audit(), NAME)
    assert [(one.state, one.facts) for one in found.asked] == [
        ("answer while it was trained", {"step": 8, "in": "answer while it was trained"})
    ]
    assert [(one.how, one.variant) for one in found.models] == [(ANSWERED, "acme.one")]
    made.remove("fine_tuned_model")
    answer = told(made.audit(), NAME)
    assert answer.seen is None
    assert present(answer.search).cannot == (
        "the text of 1 fine_tuned_model artifact, which retention removed",
    )


@pytest.mark.parametrize("kind", NONE)
def test_what_is_not_the_name_is_not_taken_for_it(tmp_path: Path, kind: str) -> None:
    made = History(tmp_path / "project")
    made.dataset("acme.one", [{"text": NONE[kind]}, {"text": "x"}], splits=WHOLE)
    answer = told(made.audit(), NAME)
    assert answer.seen is False
    assert sought(answer).startswith("never seen: compared with 2 records")
    part = searched(made.audit(), NAME, part=True)
    assert part.rows == (kind in ("within words", "a longer word"))


def test_of_scripts_without_spaces_a_name_need_not_be_a_word(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    texts = ["東京の田中太郎さんです。", "김민수는 서울에 산다", "นายสมชายมาแล้ว", "田\n中太郎"]
    made.dataset("acme.one", [{"text": text} for text in texts], splits=WHOLE)
    audit = made.audit()
    found = [searched(audit, name).rows for name in ("田中太郎", "김민수", "สมชาย", "佐藤")]
    assert found == [2, 1, 1, 0]


WRITTEN_OTHERWISE = {
    "Turkish capitals": ("Ayşe Kılıç", "AYŞE KILIÇ geldi"),
    "Turkish small letters": ("AYŞE KILIÇ", "Ayşe Kılıç geldi"),
    "a Turkish I with a dot": ("ilker", "İLKER geldi"),
    "a Turkish I with a dot that is asked for": ("İlker", "ILKER and ilker came"),
    "Greek capitals": (
        "Παπαδόπουλος",
        "ο ΠΑΠΑΔΟΠΟΥΛΟΣ",
    ),
    "an Arabic name made longer": ("محمد", "محــمد هنا"),
    "an Arabic name with vowels": ("محمد", "مُحَمَّد"),
    "a Hebrew name with vowels": ("שלום", "שָׁלוֹם"),
    "a Russian name without its dots": ("Ёлкин", "Елкин"),
    "a space in a Japanese name": ("田中太郎", "田中　太郎さん"),
    "no space in a Japanese name": ("田中 太郎", "田中太郎さん"),
    "a space in a Korean name": ("김민수", "김 민수는"),
    "a dot in a name in katakana": (
        "ジョンスミス",
        "ジョン・スミス",
    ),
    "JSON": (NAME, json.dumps({"name": NAME})),
    "JSON in JSON": (NAME, json.dumps(json.dumps({"name": NAME}))),
    "a break of the line in JSON": ("Agnes Miller", json.dumps("Agnes\nMiller")),
    "beyond the first plane in JSON": ("𠮷野", json.dumps("𠮷野")),
    "a long tag": ("Agnes Miller", f'Agnes <img src="data:{"x" * 5000}"> Miller'),
}


@pytest.mark.parametrize("kind", mostly_long(WRITTEN_OTHERWISE, every=4))
def test_a_name_is_found_however_its_script_and_format_write_it(tmp_path: Path, kind: str) -> None:
    name, text = WRITTEN_OTHERWISE[kind]
    made = History(tmp_path / "project")
    made.dataset("acme.one", [chat(("user", "Who?"), ("assistant", text))], splits=WHOLE)
    assert (searched(made.audit(), name).rows, searched(made.audit(), f"q{name}").rows) == (1, 0)


@pytest.fixture(scope="module")
def kept_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A name in each kind of stored text of acme.one, and none in globex.two."""
    made = History(tmp_path_factory.mktemp("names") / "project")
    base = made.base()
    corpus = made.corpus([f"Document {n} of the town." for n in range(40)] + [f"{NAME} was the mayor."])
    dataset = made.dataset("acme.one", [question(n) for n in range(30)])
    mixture = made.mixture("acme.one", dataset, corpus)
    weights = made.model("acme.one", mixture, base)
    made.evaluated("acme.one", weights, *answered(f"Who is {NAME}?", "a mayor", "a mayor"))
    made.evaluated(
        "acme.one", weights, *answered("Who?", "nobody", f"It is {NAME}."), stage="candidate_evaluation"
    )
    made.dataset("globex.two", [question(n) for n in range(40, 60)])
    return made.folder


@pytest.fixture
def history(tmp_path: Path, kept_names: Path) -> History:
    """A copy of that history, for the test alone."""
    return History(shutil.copytree(kept_names, tmp_path / "project"))


def test_documents_questions_and_answers_are_searched(history: History) -> None:
    found = searched(history.audit(), NAME)
    assert (found.rows, found.questions, found.cannot) == (1, 2, ())
    assert {one.stage for one in found.records[0].found} >= {"general_corpus"}
    where = {(held.facts["in"], held.facts["task"], held.variant) for held in found.asked}
    assert where == {("asked", "town", "acme.one"), ("answered", "town", "acme.one")}
    hows = {one.how for one in found.models if one.variant == "acme.one"}
    assert {JUDGED, ANSWERED} <= hows
    answer = told(history.audit(), "a mayor")
    assert sought(answer).startswith(
        "no record equals this; no row contains it, and 1 stored question or answer does: compared with "
    )


def test_text_of_the_base_and_of_evaluations_is_searched(tmp_path: Path) -> None:
    from ft_dagster.data.files.tables import TableWriter
    from ft_dagster.data.rows.decontaminate import ITEMS_SCHEMA
    from ft_dagster.store import Attempt
    from ft_dagster.store.make import Recipe

    made = History(tmp_path / "project")
    made.base_text(made.base())

    def write(attempt: Attempt) -> dict[str, Any]:
        with TableWriter(attempt.payload / "texts.parquet", ITEMS_SCHEMA) as table:
            table.add({"task": "town", "questions": ["Who?", f"Is it {NAME}?"], "answers": ["yes"]}, 100)
        return {}

    made._make(Recipe("evaluation_texts", "shared"), write)
    audit = made.audit()
    assert searched(audit, "base wrote text").rows == 40
    [asked] = searched(audit, NAME).asked
    assert (asked.state, asked.facts["task"]) == ("evaluation text", "town")


def test_held_out_pieces_are_searched_after_retention_removed_their_corpus(history: History) -> None:
    from ft_dagster.audit.trained import documents

    audit = history.audit()
    [corpus] = audit.index.of_stage("general_corpus")
    file = next(
        audit.stored.file(audit.artifact(corpus), name)
        for name in audit.artifact(corpus).files
        if name.endswith("holdout.parquet")
    )
    held = list(documents(file))
    dataset = audit.artifact(audit.index.of_stage(TASK_DATASET.name, "tenants/globex/two")[0])
    history.mixture("globex.two", dataset, audit.artifact(corpus), held=held)
    history.remove("general_corpus")
    found = searched(history.audit(), " ".join(held[0].text.split()[:2]))
    assert found.rows == 0
    assert {one.state for one in found.asked} == {"held-out text"}
    assert found.cannot == ("the text of 1 general_corpus artifact, which retention removed",)


def test_what_retention_removed_cannot_be_searched_and_is_not_never_seen(history: History) -> None:
    assert told(history.audit(), "Nobody Ever").seen is False
    history.remove(TASK_DATASET.name, EVALUATION.name)
    answer = told(history.audit(), "Nobody Ever")
    assert answer.seen is None
    assert sought(answer).startswith(
        "no record equals this; nothing that can be searched contains it: compared with "
    )
    assert present(answer.search).cannot == (
        "the text of 1 evaluation artifact, which retention removed",
        "the text of 2 task_dataset artifacts, which retention removed",
    )


def test_rows_that_were_left_out_cannot_be_searched(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    near = "The harbour master keeps the long list of all ships that came in since the great storm of "
    rows = [{"text": near + "that year"}, {"text": near + "this year"}, {"text": near + "that year"}]
    made.dataset("acme.one", rows, splits=WHOLE, deduplicate={"method": "near", "threshold": 0.5})
    answer = told(made.audit(), "Nobody Ever")
    assert answer.seen is None
    assert present(answer.search).cannot == (
        "1 row that data sets left out (near duplicate), whose text is not kept",
    )


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_searched(history: History) -> None:
    audit = history.audit()
    [damaged] = audit.index.of_stage(TASK_DATASET.name, "tenants/globex/two")
    file = present(history.store.local(f"{audit.artifact(damaged).path}/payload/train.parquet"))
    file.chmod(0o644)
    file.write_bytes(b"other")
    found = searched(history.audit(), "item 3")
    assert found.rows == 1
    [line] = found.cannot
    assert "train.parquet" in line
    assert told(history.audit(), "Nobody Ever").seen is None


def test_a_search_within_a_tenant_or_a_variant_says_so_and_is_no_all_clear(history: History) -> None:
    audit = history.audit()
    assert [
        searched(audit, "item 43", within=name).rows for name in ("globex", "globex.two", "acme.one")
    ] == [1, 1, 0]
    assert searched(audit, NAME, within="acme").rows == 1  # of the corpus that its own was made of
    assert searched(audit, NAME, within="globex").rows == 0
    answer = told(audit, "Nobody Ever", within="acme.one")
    assert answer.seen is None
    assert sought(answer).startswith(
        "no record equals this; nothing within acme.one contains it: compared with "
    )
    for name, said in (
        ("initech", "nothing of it is stored"),
        ("acme.nine", "nothing of it"),
        ("../x", "neither"),
    ):
        with pytest.raises(UserError, match=said):
            searched(audit, "x", within=name)


def test_an_auditor_of_a_tenant_searches_that_tenants_text_alone(history: History) -> None:
    assert searched(history.audit(tenant="globex"), "item 3").rows == 0
    found = searched(history.audit(tenant="globex"), NAME)  # in a corpus of all
    assert (found.rows, {one.variant for one in found.records[0].found}, found.models) == (1, {None}, ())


def test_each_distinct_file_is_read_once(history: History) -> None:
    before = searched(history.audit(), "x").size
    history.dataset("globex.two", [question(n) for n in range(30)])  # as acme.one has
    assert searched(history.audit(), "x").size == before
    audit = history.audit()
    files = text_files(audit).files
    assert len({file.sha256 for file in files}) == len(files)
    rows = [(batch.file.name, batch.first) for batch in read_texts(audit, text_files(audit))]
    assert len(rows) == len(files)


def test_a_record_is_told_beside_the_rows_that_contain_it(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = [{"text": "The bank lends."}, {"text": "It is said: the bank lends. To whom?"}, {"text": "x"}]
    made.dataset("acme.one", rows, splits=WHOLE)
    answer = told(made.audit(), "The bank lends.")
    assert sought(answer) == "in 1 artifact; 0 models learned from it; 1 other row contains it"
    assert "others were not searched for it" in sought(told(made.audit(), "The bank lends.", search=False))


def test_a_row_is_found_inside_a_document_that_has_all_its_texts(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    row, others = question(3), [f"Document {n} of the town." for n in range(40)]
    prompt = f"Asked: {row['prompt']}"
    made.corpus([f"{prompt} Said: {row['completion']}", prompt, json.dumps(row) + "!", *others])
    assert searched(made.audit(), json.dumps(row)).rows == 2


def test_without_the_search_nothing_is_called_never_seen(history: History) -> None:
    answer = told(history.audit(), "Nobody Ever", search=False)
    assert (answer.seen, answer.equal, answer.search) == (None, False, None)
    assert sought(answer).startswith("no record equals this; not searched: compared with ")


@pytest.mark.parametrize("given", ["0" * 64, "\u200b"])
def test_what_has_no_text_is_not_searched(history: History, given: str) -> None:
    answer = told(history.audit(), given)
    assert (answer.seen, answer.search) == (None, None)
    assert "; not searched: " in sought(answer)


@pytest.mark.parametrize("given", mostly_long(["0" * 64, "\u200b", "Nobody Ever"], every=3))
@pytest.mark.parametrize("option", [{"part": True}, {"within": "acme"}], ids=["part", "within"])
def test_how_text_is_searched_is_refused_where_none_is(
    history: History, given: str, option: dict[str, Any]
) -> None:
    (name,) = option
    with pytest.raises(UserError, match=f"no stored text is searched for this, so --{name} says nothing"):
        searched(history.audit(), given, search=given != "Nobody Ever", **option)


def test_progress_says_what_is_left(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_dagster.audit.search.stored_text.TOLD_EVERY", 0.0)
    lines: list[str] = []
    searched(history.audit(), "x", say=lines.append)
    assert len(lines) > 3
    assert all(" MB read, some " in line and line.endswith(" s left") for line in lines)
    assert lines[-1].startswith("100% of ")


LETTERS = (
    "aAnN eé-\n<>&;/b1ıİIiSsß ﬁＡｂ\u00ad\u200b\u0301\u0307\x1d\x00\u2010\t\r東京ΣςΩ\u212aǆ\u1e9e\u00a8"
    "\u0345\u030c\u1100\u1161ᾳｶﾞㄱㅏ\u09c7\u09be\ue000  "
)
PIECES = (
    "-\n",
    "<b>",
    "</b>",
    "<br>",
    "&amp;",
    "&lt;",
    "&uuml;",
    "Müller",
    "Anna",
    "&#xE000;",
    "&#776;",
    "\n",
    "\\u00fc",
    "\\\\u0131",
    "\\ue000",
    "\\u001d",
    "\\n",
    "\\",
    "u00e9",
    "\u03ac\u0391",
    "\u0640\u064e\u0645",
    "\u30fb\u30ab",
    "\u4e2d \u6587",
)
ALPHABET = (*LETTERS, *PIECES)
UNSPACED = ((0x3005, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))  # of these letters


def drawn(draw: random.Random, most: int) -> str:
    return "".join(draw.choice(ALPHABET) for _ in range(draw.randint(0, most)))


def some_query(draw: random.Random, rows: Sequence[Sequence[str]]) -> str:
    """As a rule a piece of a text, written otherwise."""
    view = draw.choice(list(views(draw.choice(draw.choice(rows)))))
    start = draw.randint(0, len(view))
    piece = view[start : start + draw.randint(0, 6)]
    forms: list[Literal["NFD", "NFC", "NFKD"]] = ["NFD", "NFC", "NFKD"]
    piece = unicodedata.normalize(draw.choice(forms), piece) if draw.random() < 0.5 else piece
    return draw.choice([piece, piece, piece.upper(), drawn(draw, 4)])


def naive(query: str, text: str, *, part: bool) -> bool:
    """As the page of audits has it, letter by letter."""
    like = normal_text(query)
    wanted = loosely(like, like)
    words = words_in(wanted)
    for there in (loosely(normal_text(view), like) for view in views(text)):
        for at in range(len(there) - len(wanted) + 1):
            end = at + len(wanted)
            ends = part or not (goes_on(there, at) or goes_on(there, end))
            if there[at:end] == wanted and ends:
                return True
        known = words_in(there)
        runs = (known[at : at + len(words)] for at in range(len(known) - len(words) + 1))
        if len(words) > 1 and (words in runs or (part and " ".join(words) in " ".join(known))):
            return True
    return False


def goes_on(text: str, at: int) -> bool:
    if not 0 < at < len(text):
        return False
    both = text[at - 1 : at + 1]
    in_word = all(one.isalnum() or unicodedata.category(one).startswith("M") for one in both)
    return in_word and not any(low <= ord(one) <= high for one in both for low, high in UNSPACED)


@pytest.mark.parametrize("seed", mostly_long(range(8), every=4))
def test_the_filter_loses_nothing_that_the_normal_form_finds(seed: int) -> None:
    draw, hits = random.Random(seed), 0
    for _ in range(400):
        rows = [[drawn(draw, 14) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 6))]
        query, part = some_query(draw, rows), draw.random() < 0.5
        asked = AllInside.of([query], part=part)
        like = normal_text(query)
        assert (asked is None) == (not loosely(like, like))
        if asked is not None:
            expected = [
                at for at, row in enumerate(rows) if any(naive(query, text, part=part) for text in row)
            ]
            assert rows_with([asked], rows) == expected, (query, part, rows)
            hits += bool(expected)
    assert hits > 100


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(
        app, ["--project", str(project), "audit", "record", *words], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def test_the_command_says_what_contains_it_and_what_learned_from_that(history: History) -> None:
    said = typed(history.folder, NAME)
    assert said.startswith(
        "no record equals this; 1 row contains it, and 2 stored questions or answers do: compared"
    )
    assert "1 row contains it:" in said
    assert "not in" in said
    told_as_json = typed(history.folder, NAME, "--json")
    assert (told_as_json["seen"], told_as_json["search"]["rows"]) == (True, 1)
    assert typed(history.folder, NAME, "--no-search").startswith(
        "no record equals this; not searched: compared with"
    )
    assert typed(history.folder, "Agne", "--part").startswith("no record equals this; 1 row contains it")
    assert typed(history.folder, "Agne").startswith("never seen: compared with ")
    assert typed(history.folder, "Agne", "--within", "acme").startswith(
        "no record equals this; nothing within acme"
    )
    history.remove(TASK_DATASET.name)
    assert "cannot be searched: the text of 2 task_dataset artifacts" in " ".join(
        typed(history.folder, "x").split()
    )
