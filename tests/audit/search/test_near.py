"""Records that are nearly the one that is asked for, by the runs of words that they share."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ft_dagster.audit.answers import NearAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.records import TRAINED
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import SoughtRecord, parse_record
from ft_dagster.data.rows.dedup import word_grams
from ft_dagster.errors import UserError
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from tests.audit.histories import History, question
from tests.present import present

pytestmark = pytest.mark.slow

LONG = "The harbour master keeps the long list of all ships that came in since the great storm of that year"


def near_records(audit: Audit, asked: SoughtRecord, threshold: float) -> NearAnswer:
    return present(look_through(audit, asked, search=False, near=threshold).near)


def written(text: str) -> dict[str, str]:
    return {"prompt": "Who keeps the list?", "completion": text}


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "project")
    whole = {"validation": 0, "test": 0, "minimum": 1}
    rows = [written(LONG), *(question(number) for number in range(5))]
    dataset = made.dataset("acme.one", rows, splits=whole, deduplicate={"method": "off"})
    made.model("acme.one", made.mixture("acme.one", dataset), made.base(), times=2)
    made.dataset("globex.two", [question(7)], splits=whole)
    made.corpus([f"Document {number}: {LONG}" for number in range(40)])
    return made


def test_rows_and_documents_are_found_by_their_exact_similarity(history: History) -> None:
    audit = history.audit()
    asked = parse_record(json.dumps(written(LONG.replace("that year", "this year"))))
    found = near_records(audit, asked, 0.5)
    nearest, *documents = found.records
    before, after = asked.words[0], parse_record(json.dumps(written(LONG))).words[0]
    then, now = word_grams(before), word_grams(after)
    assert nearest.similarity == len(then & now) / len(then | now) > 0.8
    assert [(one.variant, one.how, one.times) for one in nearest.models] == [("acme.one", TRAINED, 2)]
    assert len(documents) == 40
    assert {one.found[0].variant for one in documents} == {None}
    assert (found.rows, found.artifacts, found.near) == (47, 3, 41)


def test_a_lower_threshold_finds_no_fewer_and_the_record_itself_is_none(history: History) -> None:
    audit = history.audit()
    asked = parse_record(json.dumps(written(LONG)))
    counts = [near_records(audit, asked, threshold).near for threshold in (0.99, 0.6, 0.1)]
    assert counts == sorted(counts)
    assert counts[0] == 0


def test_another_tenants_rows_are_not_read_for_an_auditor_of_one(history: History) -> None:
    asked = parse_record(json.dumps(question(7, prompt="What, then, is item 7?")))
    whole = near_records(history.audit(), asked, 0.05)
    alone = near_records(history.audit(tenant="acme"), asked, 0.05)
    assert whole.rows == alone.rows + 1


def test_text_that_retention_removed_is_counted(history: History) -> None:
    history.remove("task_dataset")
    found = near_records(history.audit(), parse_record(LONG), 0.5)
    assert (found.removed, found.artifacts) == (2, 1)


def test_equal_rows_are_read_where_retention_left_them(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    whole = {"validation": 0, "test": 0, "minimum": 1}
    first, second = (made.dataset(variant, [written(LONG)], splits=whole) for variant in ("a.one", "b.two"))
    assert first.digest == second.digest
    assert claim_removal(made.store, second, "retention", time.time() + DAY)
    finish_removal(made.store, second)
    asked = parse_record(json.dumps(written(LONG.replace("that year", "this year"))))
    found = near_records(made.audit(), asked, 0.5)
    assert (found.near, found.artifacts, found.removed) == (1, 1, 0)


def test_a_row_is_compared_as_the_source_reads_it(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    row = {"instruction": "Who keeps the long list of ships?", "output": "The harbour master keeps it."}
    system = "You are a patient keeper of all that is written down in this town, and you answer in one line."
    source = {"path": "rows.jsonl", "format": "alpaca", "system": system}
    made.dataset("acme.one", [row], sources=[source], splits={"validation": 0, "test": 0, "minimum": 1})
    audit = made.audit()
    asked = parse_record(json.dumps({**row, "output": "The harbour master keeps them."}), audit.readings())
    [nearest] = near_records(audit, asked, 0.5).records
    assert nearest.similarity > 0.9


def test_a_data_set_that_is_damaged_is_named_and_the_others_are_read(history: History) -> None:
    damaged = history.dataset(
        "globex.three", [question(8)], splits={"validation": 0, "test": 0, "minimum": 1}
    )
    present(history.store.local(f"{damaged.path}/payload/train.parquet")).write_bytes(b"other")
    found = near_records(history.audit(), parse_record(json.dumps(written(LONG))), 0.1)
    assert found.near > 0
    assert found.rows == 47
    [unread] = found.unread
    assert "train.parquet" in unread


def test_an_identity_has_no_words(history: History) -> None:
    with pytest.raises(UserError, match="without its words"):
        near_records(history.audit(), parse_record("a" * 64), 0.8)


def test_short_rows_have_near_matches_too(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    whole = {"validation": 0, "test": 0, "minimum": 1}
    rows = [
        {"text": text} for text in ("Agnes Miller lives in Bonn.", "Rain tomorrow.", "The bank lends money.")
    ]
    made.dataset("acme.one", rows, splits=whole)
    audit = made.audit()
    found = near_records(audit, parse_record("Agnes Miller lives in Berlin"), 0.5)
    assert found.run == 1
    assert [(one.found[0].facts["line"], one.similarity) for one in found.records] == [(1, 4 / 6)]
    assert [one.found[0].facts["line"] for one in near_records(audit, parse_record("rain"), 0.5).records] == [
        2
    ]
    assert near_records(audit, parse_record(LONG), 0.5).run == 5
