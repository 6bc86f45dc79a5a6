"""What an erasure takes: every place and model, which train again and in which order; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.erasure.course_before import points_of
from ft_dagster.audit.erasure.deadline import GDPR, LATER, SAID, due_day, one_month_after
from ft_dagster.audit.erasure.dry_run import Asked, ErasureDryRun, Took, dry_run
from ft_dagster.audit.records import record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record, parse_records
from ft_dagster.errors import UserError
from ft_dagster.store import Artifact
from ft_dagster.training.contract import Plan
from ft_dagster.training.retrain.course import bins_of
from tests.audit.histories import History, question
from tests.training.runs import LORA, TRAINING

pytestmark = pytest.mark.slow
DUE = date(2026, 12, 31)


def took(artifacts: Sequence[Artifact]) -> Took:
    return Took(2.0, 0.5, 3.0)


def of_rows(audit: Audit, *rows: Any) -> ErasureDryRun:
    texts = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    asked = [parse_record(text, audit.readings()) for text in texts]
    answers = [Asked(f"line {n}", record(audit, one), ()) for n, one in enumerate(asked, start=1)]
    return dry_run(audit, answers, took, reason="asked for", due=DUE, due_by="x")


def trained_row(history: History, variant: str = "acme.one") -> dict[str, Any]:
    """A row that the variant was trained on."""
    audit = history.audit()
    for number in range(30):
        found = of_rows(audit, question(number))
        if any(model.variant == variant and "trained on" in model.how for model in found.models):
            return question(number)
    raise AssertionError


def test_every_place_and_model_is_told_and_children_train_after_their_parents(history: History) -> None:
    row = trained_row(history)
    before = {path: path.read_bytes() for path in (history.folder / ".ft_dagster/store").rglob("*.json")}
    found = of_rows(history.audit(), row)
    held = {(each.variant, each.stage) for each in found.holders}
    assert {("acme.one", "task_dataset"), ("acme.one", "training_mixture")} <= held
    told = {model.variant: model for model in found.models}
    assert told["acme.one"].production
    assert told["acme.one"].versions == (1,)
    assert told["acme.child"].how == ("parent trained on",)
    order = [each.variant for each in found.retrains]
    assert order.index("acme.one") < order.index("acme.child")
    child = next(each for each in found.retrains if each.variant == "acme.child")
    assert child.after == ("acme.one",)
    assert {(each.how, each.share) for each in found.retrains} == {("FROM START", 1.0)}
    assert "retention.resume_points" in found.retrains[0].why
    assert found.hours == 2.5 * len(found.retrains)
    assert found.usd == 3 * found.hours
    assert any(source.path == "rows.jsonl" and source.lines for source in found.sources)
    assert {path: path.read_bytes() for path in before} == before


def test_general_text_is_a_shared_place(history: History) -> None:
    audit = history.audit()
    found = [of_rows(audit, f"Document {n} of the town.") for n in range(40)]
    assert any(each.shared and each.shared[0].stage == "general_corpus" for each in found)
    learned = next(each for each in found if each.retrains)
    assert {model.variant for model in learned.models if model.learned} >= {"acme.one", "acme.child"}


def test_a_record_that_is_nowhere_is_said_and_nothing_trains_again(history: History) -> None:
    found = of_rows(history.audit(), {"prompt": "Nobody asked?", "completion": "No."})
    assert [one.places for one in found.records] == [0]
    assert (found.holders, found.models, found.retrains) == ((), (), ())


def test_a_text_is_resolved_to_the_records_that_contain_it(history: History) -> None:
    row = trained_row(history)
    audit = history.audit()
    wanted = parse_record(row["completion"], audit.readings())
    answer = replace(record(audit, wanted), search=look_through(audit, wanted, most=1000).search)
    found = dry_run(audit, [Asked("a text", answer, ())], took, reason="x", due=DUE, due_by="x")
    whole = of_rows(audit, row)
    assert {one.identities for one in whole.records} <= {one.identities for one in found.records}
    assert {each.variant for each in found.retrains} >= {each.variant for each in whole.retrains}
    assert found.searched_bytes > 0


def test_more_rows_than_are_looked_up_are_refused(history: History) -> None:
    audit = history.audit()
    wanted = parse_record("of the town", audit.readings())
    answer = replace(record(audit, wanted), search=look_through(audit, wanted, most=2).search)
    with pytest.raises(UserError, match=r"40 rows contain it: more than one request holds"):
        dry_run(audit, [Asked("a text", answer, ())], took, reason="x", due=DUE, due_by="x")


def test_what_is_not_looked_at_is_said(history: History) -> None:
    cannot = of_rows(history.audit(), trained_row(history)).cannot
    assert any("ask who has versions of acme.child, acme.one" in line for line in cannot)
    assert any(line.startswith("backups, versions of objects") for line in cannot)


def test_records_of_a_file_are_read_one_a_line(tmp_path: Path) -> None:
    lines = [json.dumps(question(3)), "a text of some words", "ab" * 32, ""]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    first, second, third = parse_records(str(tmp_path / "rows.jsonl"))
    assert first.identities == parse_record(lines[0]).identities
    assert second.identities == parse_record(lines[1]).identities
    assert (third.identities, third.bare) == ((b"\xab" * 32,), True)
    assert second.said == f"line 2 of {tmp_path / 'rows.jsonl'}"


def test_rows_of_a_table_are_records(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\nWho?,Me.\nWhere?,There.\n")
    found = parse_records(str(tmp_path / "rows.csv"))
    wanted = parse_record('{"prompt": "Where?", "completion": "There."}')
    assert len(found) == 2
    assert set(found[1].identities) & set(wanted.identities)


@pytest.mark.parametrize(("content", "said"), [("", "no record is given"), (None, "no such file")])
def test_no_file_and_an_empty_one_are_refused_without_a_word_of_a_text(
    tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "Jane Doe of Main Street"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=said) as refused:
        parse_records(str(file))
    assert content is not None or "Jane" not in str(refused.value)


@pytest.mark.parametrize(
    ("today", "due"),
    [("2026-12-03", "2027-01-03"), ("2027-01-31", "2027-02-28"), ("2026-10-31", "2026-11-30")],
)
def test_a_month_ends_on_the_same_day_or_the_last(today: str, due: str) -> None:
    assert one_month_after(date.fromisoformat(today)) == date.fromisoformat(due)


def test_a_deadline_is_a_day_to_come_and_a_late_one_is_said() -> None:
    today = date(2026, 12, 3)
    assert due_day(None, today) == (date(2027, 1, 3), GDPR)
    assert due_day("2026-12-10", today) == (date(2026, 12, 10), SAID)
    assert due_day("2027-01-04", today)[1] == LATER
    for wrong in ("tomorrow", "2026-13-01", "20261210", "2026-12-02", ""):
        with pytest.raises(UserError, match="deadline"):
            due_day(wrong, today)


def test_a_kept_state_before_the_first_reading_is_foreseen_with_its_share(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = [question(number) for number in range(40)]
    mixture = made.mixture("acme.one", made.dataset("acme.one", rows))
    settings = {**TRAINING, "num_train_epochs": 1.0, "packing": False, "gradient_accumulation_steps": 1}
    planned = {"method": LORA, "training": settings, "ranks": 1}
    content = {"schema_version": 1, **planned, "device": {"kind": "cpu", "count": 1}}
    made_of = {"training_mixture": mixture}
    plan = made._put("training_plan", "tenants/acme/one", {"plan.json": content}, made_of, planned)
    steps = len(bins_of(made._payload(mixture), Plan.model_validate(content), 0, tmp_path)) // 2
    model = made.model("acme.one", mixture, made.base(), plan=plan, steps=steps, points=(2, steps - 1))
    audit = made.audit()
    found = [each for row in rows for each in of_rows(audit, row).retrains]
    courses = {(each.how, round(each.share * steps)) for each in found}
    assert courses == {("FROM START", steps), ("RESUMED", steps - 2), ("RESUMED", 1)}
    assert points_of(model) == [2, steps - 1]
