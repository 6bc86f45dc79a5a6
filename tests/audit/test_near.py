"""Records that are nearly the one that is asked for, by the runs of words that they share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_dagster.audit.asked import asked_record
from ft_dagster.audit.near import near_records
from ft_dagster.audit.records import TRAINED
from ft_dagster.data.dedup import word_grams
from ft_dagster.errors import UserError
from tests.audit.histories import History, question

LONG = "The harbour master keeps the long list of all ships that came in since the great storm of that year"


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
    asked = asked_record(json.dumps(written(LONG.replace("that year", "this year"))))
    found = near_records(audit, asked, 0.5)
    nearest, *documents = found.records
    before, after = word_grams(asked.words), word_grams(asked_record(json.dumps(written(LONG))).words)
    assert nearest.similarity == len(before & after) / len(before | after) > 0.8
    assert [(one.variant, one.how, one.times) for one in nearest.models] == [("acme.one", TRAINED, 2)]
    assert len(documents) == 40
    assert {one.found[0].variant for one in documents} == {None}
    assert (found.rows, found.artifacts, found.near) == (47, 3, 41)


def test_a_lower_threshold_finds_no_fewer_and_the_record_itself_is_none(history: History) -> None:
    audit = history.audit()
    asked = asked_record(json.dumps(written(LONG)))
    counts = [near_records(audit, asked, threshold).near for threshold in (0.99, 0.6, 0.1)]
    assert counts == sorted(counts)
    assert counts[0] == 0


def test_another_tenants_rows_are_not_read_for_an_auditor_of_one(history: History) -> None:
    asked = asked_record(json.dumps(question(7, prompt="What, then, is item 7?")))
    whole = near_records(history.audit(), asked, 0.05)
    alone = near_records(history.audit(tenant="acme"), asked, 0.05)
    assert whole.rows == alone.rows + 1


def test_text_that_retention_removed_is_counted(history: History) -> None:
    history.remove("task_dataset")
    found = near_records(history.audit(), asked_record(LONG), 0.5)
    assert (found.removed, found.artifacts) == (2, 1)


def test_an_identity_has_no_words(history: History) -> None:
    with pytest.raises(UserError, match="without its words"):
        near_records(history.audit(), asked_record("a" * 64), 0.8)
