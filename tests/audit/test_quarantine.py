"""What an approved erasure keeps from being served: versions that learned the record, and from when on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.erasure.requests import log_request
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.lineage.erasures import ErasureEntry, append, hold, read_erasures, state_of
from ft_dagster.lineage.release import history
from ft_dagster.spec import VariantKey
from ft_dagster.stages.judging.may_serve import Today, findings_in
from tests.audit.histories import History, question
from tests.audit.taken import taken

pytestmark = pytest.mark.slow


def learned_row(made: History) -> dict[str, Any]:
    """The first row that the one data set trains on."""
    (file,) = made.folder.rglob("task_dataset/*/*/payload/train.parquet")
    row = next(iter(read_split(file)))
    return {"prompt": row.prompt, "completion": row.completion}


def quarantined(made: History, number: int = 1) -> list[str]:
    past = history(made.store, "tenants/acme/one")
    today = Today.of(made.settings, VariantKey.parse("acme.one"))
    return [each.words for each in findings_in(today, past, past[number - 1]) if each.rule == "erasure"]


@pytest.fixture
def made(tmp_path: Path) -> History:
    made = History(tmp_path / "project")
    base, rows = made.base(), [question(number) for number in range(30)]
    mixture = made.mixture("acme.one", made.dataset("acme.one", rows))
    made.release("acme.one", made.model("acme.one", mixture, base), base)
    return made


@pytest.mark.parametrize("at_once", [False, True])
def test_a_version_that_learned_a_record_is_quarantined(made: History, at_once: bool) -> None:
    row = learned_row(made)
    assert not quarantined(made)
    (entry,) = log_request(made.settings, taken(made, row), "ann", at_once=at_once)
    found = quarantined(made)
    assert len(found) == at_once
    assert all(entry.request in words for words in found)
    hold(made.store, "acme", entry.request, by="law", reason="a trial")
    assert not quarantined(made)


def test_one_that_comes_after_the_request_is_quarantined_and_so_is_the_one_it_replaced(made: History) -> None:
    log_request(made.settings, taken(made, learned_row(made)), "ann", at_once=False)
    base, mixture = (
        made.base(),
        made.mixture("acme.one", made.dataset("acme.one", [question(n) for n in range(30)])),
    )
    assert not quarantined(made)
    made.release("acme.one", made.model("acme.one", mixture, base, seed=1), base)
    assert [len(quarantined(made, number)) for number in (1, 2)] == [1, 1]


def test_what_is_late_is_quarantined_and_what_only_tested_with_it_is_not(made: History) -> None:
    row = learned_row(made)
    (entry,) = log_request(made.settings, taken(made, row), "ann", at_once=False)
    late: ErasureEntry = replace(entry, request="late", due="2001-01-01")
    append(made.store, "acme", lambda _: late)
    assert len(quarantined(made)) == 1
    (test,) = made.folder.rglob("task_dataset/*/*/payload/test.parquet")
    held = next(iter(read_split(test)))
    other = taken(made, {"prompt": held.prompt, "completion": held.completion})
    (entry,) = log_request(made.settings, other, "ann", at_once=True)
    assert state_of(read_erasures(made.store, "acme"), entry.request).asked.learned == ()
    assert len(quarantined(made)) == 1


def test_a_request_that_waits_for_approval_quarantines_nothing(made: History) -> None:
    (made.folder / "policy.yaml").write_text("schema_version: 1\napprovers: [dpo]\n")
    log_request(made.settings, taken(made, learned_row(made)), "ann", at_once=True)
    assert not quarantined(made)
