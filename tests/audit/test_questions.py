"""From a model to what made it, at a date, from a source, by tenant; and every input that is none."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.answers import Compute, ModelAnswer, Transformed
from ft_dagster.audit.audit import open_audit
from ft_dagster.audit.models import at, diff, model
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import TRAINED, record
from ft_dagster.audit.sought_record import SoughtRecord, parse_record
from ft_dagster.audit.traces import source, tenant
from ft_dagster.audit.trained import training_records
from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli.audit.shown import model_parts, print_parts
from ft_dagster.cli.common import out
from ft_dagster.data.rows.content import identity_of, normal_text
from ft_dagster.errors import UserError
from ft_dagster.lineage.release import ReleaseRequest, take_out
from ft_dagster.settings import Settings
from ft_dagster.stages.judging.export_lineage import made_of
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question, this_moment
from tests.audit.proved import proof
from tests.present import present

pytestmark = pytest.mark.slow

STORE = ".ft_dagster/store"


def test_a_model_names_all_that_made_it(history: History) -> None:
    found = model(history.audit(), "acme.one")
    stages = [part.stage for part in found.parts]
    assert {"base_model", "general_corpus", "task_dataset", "training_mixture", "model_export"} <= set(stages)
    assert not any(part.gone for part in found.parts)
    assert found.base["reference"] == "models/x"
    assert found.releases[0]["version"] == 1
    assert len(found.children) == 1
    assert found.mixture["records"]["size"] > 20
    assert found.compute == Compute(10, 10.0, "models/x")
    child = model(history.audit(), "acme.child")
    assert child.parent is not None
    assert (child.parent["weights"], child.parent["gone"]) == (found.weights, False)


def says(history: History, settings: dict[str, Any]) -> History:
    (history.folder / "ft_dagster.yaml").write_text(json.dumps(settings), "utf-8")
    return history


def test_what_was_trained_is_held_against_what_its_base_took(history: History) -> None:
    """With what was trained before it was started from."""
    audit = says(history, {"base_training_flops": {"models/x": 50}}).audit()
    assert model(audit, "acme.one").compute == Compute(10, 10.0, "models/x", 50, 0.2, False)
    child = model(audit, "acme.child")
    assert child.compute == Compute(10, 20.0, "models/x", 50, 0.4, True)
    said = shown(child)
    assert "40.00% of the 50 FLOPs that models/x took: more than a third" in said
    assert "not more than a third" in shown(model(audit, "acme.one"))
    assert "nothing is signed" in shown(model(audit, "acme.one"))


def shown(answer: ModelAnswer) -> str:
    with out.capture() as captured:
        print_parts(model_parts(answer))
    return " ".join(captured.get().split())


def test_a_base_is_named_by_its_revision_before_all_revisions(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = made.dataset("acme.one", [question(number) for number in range(9)])
    made.model("acme.one", made.mixture("acme.one", rows), made.base("org/x", "c0ffee"))
    assert model(made.audit(), "acme.one").compute == Compute(10, 10.0, "org/x@c0ffee")
    assert "does not say what org/x@c0ffee took" in shown(model(made.audit(), "acme.one"))
    of_all = says(made, {"base_training_flops": {"org/x": "1e3"}}).audit()
    assert model(of_all, "acme.one").compute.base_flops == 1000
    of_one = says(made, {"base_training_flops": {"org/x": 1000, "org/x@c0ffee": 20}}).audit()
    assert model(of_one, "acme.one").compute == Compute(10, 10.0, "org/x@c0ffee", 20, 0.5, True)


def test_a_third_is_not_known_where_the_parent_is_gone(history: History) -> None:
    weights = history.audit().model("acme.one")
    shutil.rmtree(history.folder / STORE / weights.place.path)
    audit = says(history, {"base_training_flops": {"models/x": 50}}).audit(again=True)
    child = model(audit, "acme.child")
    assert child.compute == Compute(10)
    assert "not known: what it starts from is gone" in shown(child)


@pytest.mark.parametrize("flops", [0, -1, "many", None, "inf", 1e33])
def test_what_no_base_took_is_refused(history: History, flops: Any) -> None:
    with pytest.raises(UserError, match="base_training_flops"):
        says(history, {"base_training_flops": {"models/x": flops}}).audit()


@pytest.mark.parametrize(
    "named", ["acme.one", "acme.one@1", "acme.one@v1", "weights", "export", "weights in part"]
)
def test_a_model_is_named_by_variant_version_or_digest(history: History, named: str) -> None:
    audit = history.audit()
    weights = audit.model("acme.one")
    [export] = audit.index.made_of(weights, "model_export")
    names = {"weights": weights.digest, "export": export.digest, "weights in part": weights.digest[:10]}
    assert audit.model(names.get(named, named)) == weights


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("acme.nobody", "no model of this variant"),
        ("acme.one@7", "Released are 1"),
        ("0" * 64, "no artifact has this digest"),
        ("abc", "neither a variant nor a digest"),
        ("../../etc", "neither a variant nor a digest"),
        ("", "neither a variant nor a digest"),
    ],
)
def test_what_names_no_model_is_refused(history: History, named: str, said: str) -> None:
    audit = history.audit()
    with pytest.raises(UserError, match=said):
        audit.model(named)


def test_an_ambiguous_beginning_of_a_digest_is_refused(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.audit.audit.SHORTEST", 0)
    audit = history.audit()
    digests = [each.digest for each in audit.index.all()]
    start = next(d[0] for d in digests if len({o for o in digests if o[0] == d[0]}) > 1)
    with pytest.raises(UserError, match="several digests begin so"):
        audit.by_digest(start)


def test_the_training_records_of_a_model_are_what_its_ledger_counts(history: History) -> None:
    audit = history.audit()
    weights = audit.model("acme.one")
    found = list(training_records(audit, weights))
    for one in found:
        answer = record(audit, SoughtRecord((bytes.fromhex(present(one.identity)),), "identity"))
        assert any(each.weights == weights.digest and each.times == one.times for each in answer.models)
        assert one.content is not None
        kind = "text" if "text" in one.content else "prompt_completion"
        parts = [(role, normal_text(text)) for role, text in one.content.items()]
        assert identity_of(kind, parts).hex() == one.identity
    trained = [n for n in range(30) if any(
        each.how == TRAINED and each.weights == weights.digest
        for each in record(audit, parse_record(json.dumps(question(n)))).models
    )]  # fmt: skip
    assert len(trained) + 5 == len(found)  # five documents of the corpus


def test_what_was_in_production_is_told_by_the_log(history: History) -> None:
    audit = history.audit()
    found = at(audit, "acme.one", this_moment())
    assert (found.entry["version"], found.model.weights) == (1, audit.model("acme.one").digest)
    assert found.records == len(list(training_records(audit, audit.model("acme.one"))))


def test_at_says_when_a_version_was_taken_out_of_production(history: History) -> None:
    gone = take_out(history.store, "tenants/acme/one", ReleaseRequest("names in answers", "ann"))
    with pytest.raises(UserError, match=f"version 1 was taken out of it at {re.escape(gone.at)}"):
        at(history.audit(), "acme.one", this_moment())


@pytest.mark.parametrize(
    ("variant", "date", "said"),
    [
        ("acme.one", "2001-01-01", "its first release was at"),
        ("globex.two", "2026-01-01", "it was never released"),
        ("acme.one", "9999-01-01", "in the future, which nobody knows .* up to today"),
        ("acme.one", "9998-W01", "in the future"),
        ("acme.one", "9999-01-01T00:00:00", "in the future"),
        ("acme.one", "yesterday", "no date"),
        ("acme.one", "2099-W60", "no date"),
        ("acme.one", "0001-01-01T00:00:00+14:00", "outside of the calendar"),
        ("acme", "2026-01-01", "not a variant key"),
        ("acme.../..", "2026-01-01", "not a variant key"),
    ],
)
def test_a_date_with_no_answer_is_refused(history: History, variant: str, date: str, said: str) -> None:
    audit = history.audit()
    with pytest.raises(UserError, match=said):
        at(audit, variant, date)


CENTURY = datetime(2100, 1, 1, tzinfo=UTC)  # a day from which those of the questions below are looked back at


@pytest.mark.parametrize("date", ["2099-11-26", "20991126", "2099-W48-4", "2099W484"])
def test_a_date_means_its_end_however_it_is_written(history: History, date: str) -> None:
    found = at(history.audit(), "acme.one", date, now=CENTURY)
    assert (found.at, found.note) == ("2099-11-26T23:59:59+00:00", "as of its end in UTC")


@pytest.mark.parametrize("week", ["2099-W48", "2099W48"])
def test_a_week_means_the_end_of_its_sunday(history: History, week: str) -> None:
    assert at(history.audit(), "acme.one", week, now=CENTURY).at == "2099-11-29T23:59:59+00:00"


def test_a_moment_means_itself(history: History) -> None:
    found = at(history.audit(), "acme.one", "2099-11-26T14+01:00", now=CENTURY)
    assert (found.at, found.note) == ("2099-11-26T13:00:00+00:00", "")


def test_a_moment_without_a_zone_is_said_to_be_read_as_utc(history: History) -> None:
    found = at(history.audit(), "acme.one", "2099-11-26T14:00", now=CENTURY)
    assert (found.at, found.note) == ("2099-11-26T14:00:00+00:00", "no time zone was given: read as UTC")


@pytest.mark.parametrize("asked", ["2099-11-26", "2099-W48"])
def test_a_day_that_has_not_ended_means_now(history: History, asked: str) -> None:
    now = datetime(2099, 11, 26, 3, tzinfo=UTC)
    found = at(history.audit(), "acme.one", asked, now=now)
    assert (found.at, found.note) == (now.isoformat(), "as of now, since it has not ended in UTC")


@pytest.mark.parametrize(
    "asked", ["2099-11-27", "2099-W49", "2099-11-26T03:00:01+00:00", "2099-11-26T23:00-05:00"]
)
def test_what_begins_later_than_now_is_refused(history: History, asked: str) -> None:
    with pytest.raises(UserError, match=r"in the future, which nobody knows .*which is 2099-11-26 in UTC"):
        at(history.audit(), "acme.one", asked, now=datetime(2099, 11, 26, 3, tzinfo=UTC))


def test_an_auditor_of_another_tenant_is_told_nothing_of_a_date(history: History) -> None:
    audit = history.audit(tenant="globex")
    with pytest.raises(UserError, match="may be asked about"):
        at(audit, "acme.one", this_moment())


def test_an_earlier_date_gives_the_version_of_then(old: Settings) -> None:
    audit = open_audit(old)
    versions = {
        at(audit, "acme.places", moment).entry["version"]
        for moment in ("2026-11-26T01:10:20+00:00", "2026-11-26T01:11:00+00:00", "2026-11-26")
    }
    assert 3 in versions
    assert len(versions) > 1


def test_a_diff_counts_records_and_names_settings(history: History) -> None:
    base = history.base()
    dataset = history.dataset("acme.one", [question(number) for number in range(10, 40)])
    later = history.model("acme.one", history.mixture("acme.one", dataset), base, times=2)
    found = diff(history.audit(), "acme.one", later.digest)
    assert found.added > 0
    assert found.removed > 0
    assert {one["line"] for one in found.examples["added"]} <= set(range(1, 31))
    assert any(name.startswith("declared.task_dataset") for name in found.changed)
    same = diff(history.audit(), later.digest, later.digest)
    assert (same.added, same.removed, same.changed) == (0, 0, {})


def test_all_that_came_of_a_source_is_found(old: Settings) -> None:
    audit = open_audit(old)
    found = source(audit, "data/places.jsonl")
    assert {one.variant for one in found.models} == {
        "acme.places", "acme.colours", "globex.places", "globex.strict",
    }  # fmt: skip
    again = source(audit, found.files[0]["sha256"])
    assert {part.digest for part in again.artifacts} == {part.digest for part in found.artifacts}
    with pytest.raises(UserError, match="nothing was made of such a source"):
        source(audit, "data/nowhere.jsonl")
    seen = source(open_audit(old, tenant="globex"), "data/places.jsonl")
    assert {one.variant for one in seen.models} == {"globex.places", "globex.strict"}


def test_a_version_and_its_audit_name_the_same_files(old: Settings) -> None:
    audit = open_audit(old)
    for prefix in ("tenants/acme/places", "tenants/globex/places"):
        export = audit.index.of_stage("model_export", prefix)[-1]
        named = made_of(audit.store, prefix, audit.artifact(export)).files
        told = model(audit, export.digest)
        assert [one.digest for one in named]
        assert [one.digest for one in named] == [
            file["sha256"]
            for each in told.sources
            for file in each.files
            if not each.path.startswith("general:")
        ]
        for one in named:
            assert told.weights in {each.weights for each in source(audit, one.digest).models}


def test_a_tenant_is_told_what_it_owns_and_was_given(history: History) -> None:
    found = tenant(history.audit(), "acme")
    assert set(found.owns) == {"acme.one", "acme.child"}
    assert {part.stage for part in found.given} == {"general_corpus", "base_model"}
    assert found.records == 50
    audit = history.audit(tenant="globex")
    with pytest.raises(UserError, match="may be asked about"):
        tenant(audit, "acme")
    with pytest.raises(UserError, match="has nothing"):
        tenant(history.audit(), "nobody")


def test_a_parent_whose_artifacts_are_gone_is_said_to_be(history: History) -> None:
    weights = history.audit().model("acme.one")
    shutil.rmtree(history.folder / STORE / weights.place.path)
    found = model(history.audit(again=True), "acme.child")
    assert found.parent is not None
    assert found.parent["gone"]
    assert [part.stage for part in found.parts if part.gone] == ["fine_tuned_model"]


@pytest.mark.long
def test_ten_tenants_with_one_record_are_all_found(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    base, rows = made.base(), [question(number) for number in range(10)]
    for number in range(10):
        variant = f"tenant-{number}.one"
        made.model(variant, made.mixture(variant, made.dataset(variant, rows)), base, seed=number)
    audit = made.audit()
    found = record(audit, parse_record(json.dumps(question(1))))
    assert len({one.variant for one in found.found}) == 10
    assert len(found.models) == 10


def test_an_old_store_is_answered_by_its_rows(old: Settings) -> None:
    """What version 0.1 made has no tree: leaves in its mixtures, texts in its payloads."""
    audit = open_audit(old)
    first = (old.project / "data/places.jsonl").read_text().splitlines()[2]
    found = record(audit, parse_record(first))
    assert audit.followed.problems == ()
    trained = [one for one in found.models if one.how == TRAINED]
    assert len(trained) == 5
    ledgers = {one.weights: one.times for one in trained}  # one of two tenants has the same weights
    for weights, times in ledgers.items():
        [place] = {each.place for each in audit.index.with_digest(weights)[:1]}
        [ledger] = Path(audit.store.uri(place.path)).glob("*/evidence/ledger.json")
        assert times in json.loads(ledger.read_text())["times_exported"]


def wrong_file(kind: str, folder: Path) -> Path:
    file = folder / "asked"
    if kind == "a folder":
        file.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(file)
    elif kind == "binary":
        file.write_bytes(bytes(range(256)) * 10)
    elif kind == "invalid UTF-8":
        file.write_bytes(b'{"text": "\xff"}')
    elif kind == "two rows":
        file = folder / "asked.jsonl"
        file.write_text('{"text": "a"}\n{"text": "b"}\n')
    else:
        with file.open("wb") as out:
            out.truncate(17_000_000)
    return file


WRONG = ["a folder", "a FIFO", "binary", "invalid UTF-8", "two rows", "too large"]


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_holds_no_record_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError):
        parse_record(str(wrong_file(kind, tmp_path)))


def test_a_record_of_a_megabyte_is_asked_for(history: History) -> None:
    text = "The whale rose slowly. " * 45_000
    rows = [{"text": text}, *({"text": f"{n} whales"} for n in range(9))]
    made = history.dataset("acme.long", rows, splits={"validation": 0, "test": 0, "minimum": 1})
    [found] = [one for one in record(history.audit(), parse_record(text)).found if one.digest == made.digest]
    assert found.facts["line"] == 1


@pytest.mark.parametrize("given", ["{", "[1]", "\0", "🐋" * 3, "a" * 5000, "../../etc/nothing"])
def test_a_strange_text_is_a_text(history: History, given: str) -> None:
    assert not record(history.audit(), parse_record(given)).equal


@pytest.mark.parametrize("given", ['{"nothing": "known"}', '{"text": 5}'])
def test_json_that_is_no_row_is_looked_for_as_a_text(history: History, given: str) -> None:
    found = record(history.audit(), parse_record(given))
    assert found.equal is False
    assert f"compared, as a text alone (it is no row: {found.no_row}), with" in sought(found)
    assert found.no_row


@pytest.mark.parametrize("given", ["\ud800", "", " \n", '{"nothing": "\ud800"}'])
def test_what_is_no_text_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"Unicode|no record"):
        parse_record(given)


def test_text_of_the_base_is_general_text_to_every_question(history: History) -> None:
    """What a base wrote stands in the place of a corpus."""
    base = history.base()
    text = history.base_text(base)
    dataset = history.dataset("globex.sampled", [question(number) for number in range(20)])
    weights = history.model("globex.sampled", history.mixture("globex.sampled", dataset, text), base)
    history.release("globex.sampled", weights, base)
    audit = history.audit()
    rows = list(training_records(audit, audit.model("globex.sampled")))
    written = [one.content["text"] for one in rows if one.content and "text" in one.content]
    assert len(written) == 5
    found = record(audit, parse_record(written[0]))
    assert {one.stage for one in found.found} == {"base_text", "training_mixture"}
    assert [one.how for one in found.models] == [TRAINED]
    assert at(audit, "globex.sampled", this_moment()).records == len(rows)
    told = model(audit, "globex.sampled")
    assert told.sources[-1].rows == {"kept": 40}
    assert "base_text" in {part.stage for part in told.parts}
    assert diff(audit, "globex.sampled", "acme.one").removed
    proof = prove(audit, parse_record(written[0]), audit.model("globex.sampled"))
    assert (proof["kind"], proof["times"]) == (PRESENCE, 1)
    assert verify(audit).problems == ()


def test_a_row_is_found_as_its_source_read_it(history: History) -> None:
    """With columns of other names, and a system prompt of the declaration."""
    sources: list[Any] = [
        {"path": "rows.jsonl", "format": "chat", "system": "Be brief.", "fields": {"messages": "talk"}}
    ]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"talk": [{**turns[0], "content": f"q{n}"}, turns[1]]} for n in range(10)]
    made = history.dataset("acme.read", rows, sources=sources)
    audit = history.audit()
    asked = parse_record(json.dumps(rows[4]), audit.readings())
    assert {one.digest for one in record(audit, asked).found} == {made.digest}


def test_a_row_whose_fields_were_left_out_when_it_was_read_is_found_as_it_was_given(history: History) -> None:
    """Such a row is refused by now; a store may hold what an older version made of it."""
    turns = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}] for n in range(10)]
    made = history.dataset("acme.old", [{"messages": each} for each in turns])
    given = [turns[4][0], {**turns[4][1], "reasoning_content": "b", "weight": 0}]
    asked = parse_record(json.dumps({"messages": given, "tools": [{"name": "c"}]}))
    assert {one.digest for one in record(history.audit(), asked).found} == {made.digest}


def learned(history: History, rows: list[str]) -> str:
    """The first of these that the one model was trained on; empty where it was on none."""
    audit = history.audit()
    asked = ((row, record(audit, parse_record(row, audit.readings()))) for row in rows)
    return next((row for row, found in asked if any(one.how == TRAINED for one in found.models)), "")


def test_a_row_of_general_text_is_found_as_its_corpus_read_it(tmp_path: Path) -> None:
    """With the text in a column of another name, beside one that is called text."""
    made = History(tmp_path / "project")
    rows = [{"text": f"Teaser {n}.", "body": f"The body of {n} tells of the town."} for n in range(40)]
    corpus = made.corpus(rows, fields={"text": "body"})
    dataset = made.dataset("acme.one", [question(n) for n in range(20)])
    made.model("acme.one", made.mixture("acme.one", dataset, corpus, general=20), made.base(), times=2)
    row = learned(made, [dumps(one) for one in rows])
    assert (proof(made, row)["kind"], proof(made, row)["times"]) == (PRESENCE, 2)
    bare = dumps({"body": json.loads(row)["body"]})
    assert learned(made, [bare]) == bare
    assert (proof(made, bare)["kind"], proof(made, dumps(rows[0] | {"body": "?"}))["kind"]) == (
        PRESENCE, ABSENCE,
    )  # fmt: skip


def test_a_row_is_read_in_the_format_of_its_sources_first_row(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = [question(0), *(question(n, messages=None) for n in range(1, 20))]
    made.dataset("acme.one", rows)
    audit = made.audit()
    assert record(audit, parse_record(json.dumps(rows[7]), audit.readings())).found


def test_nothing_shows_that_a_row_of_a_source_with_a_transformation_is_absent(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    (made.folder / "hooks.py").write_text(
        "def cut(row):\n    return {**row, 'completion': row['completion'][:4]}\n", "utf-8"
    )
    rows, source = [question(n) for n in range(20)], {"path": "rows.jsonl", "transform": "hooks.py:cut"}
    dataset = made.dataset("acme.one", rows, sources=[source])
    made.model("acme.one", made.mixture("acme.one", dataset), made.base(), times=2)
    audit = made.audit()
    source_of = Transformed("acme.one", "rows.jsonl", "hooks.py:cut")
    said = "rows of rows.jsonl (acme.one) were transformed by hooks.py:cut: give what it returns"
    assert str(source_of) == said
    made.dataset("acme.plain", [question(40)], splits={"validation": 0, "test": 0, "minimum": 1})
    for given in (dumps(rows[3]), "no row of it"):
        found = record(audit, parse_record(given, audit.readings()))
        assert (found.equal, found.transformed) == (None, (source_of,))
        said = "no record equals this, and the rows of 1 source were transformed; not searched: compared with"
        assert sought(found).startswith(said)
        with pytest.raises(UserError, match="nothing proves that it is absent: rows of rows"):
            proof(made, given)
    returned = learned(made, [dumps(row | {"completion": row["completion"][:4]}) for row in rows])
    assert proof(made, returned)["times"] == 2
    assert record(audit, parse_record(returned)).transformed == ()
    elsewhere = record(made.audit(), parse_record(dumps(question(40))))
    assert (elsewhere.equal, elsewhere.transformed) == (True, (source_of,))
    assert sought(elsewhere) == (
        "in 1 artifact; 0 models learned from it; others were not searched for it; "
        "the rows of 1 source were transformed"
    )
    assert record(made.audit(tenant="globex"), parse_record("no row of it")).equal is False
    assert record(audit, parse_record("0" * 64)).equal is False
    assert proof(made, "0" * 64)["kind"] == ABSENCE  # an identity is of what a function returned


def test_a_row_that_one_version_read_as_it_stands_may_be_in_another_that_transformed_it(
    tmp_path: Path,
) -> None:
    made = History(tmp_path / "project")
    (made.folder / "hooks.py").write_text("def cut(row):\n    return {**row, 'completion': 'x'}\n", "utf-8")
    rows = [question(n) for n in range(20)]
    made.dataset("acme.one", rows, sources=[{"path": "rows.jsonl"}])
    made.dataset("acme.one", rows, sources=[{"path": "rows.jsonl", "transform": "hooks.py:cut"}])
    audit = made.audit()
    found = record(audit, parse_record(dumps(rows[3]), audit.readings()))
    assert (found.equal, len(found.transformed)) == (True, 1)


def test_a_document_that_is_json_is_found_as_the_text_that_it_is(tmp_path: Path) -> None:
    """Whether it could be a row too or not."""
    made = History(tmp_path / "project")
    documents = [dumps({"name": f"package {n}", **({"text": "read me"} if n % 2 else {})}) for n in range(80)]
    dataset = made.dataset("acme.one", [question(n) for n in range(20)])
    mixture = made.mixture("acme.one", dataset, made.corpus(documents), general=40)
    made.model("acme.one", mixture, made.base(), times=2)
    for several in (documents[::2], documents[1::2]):
        proved = proof(made, learned(made, several))
        assert (proved["kind"], proved["times"], proved["reading"]) == (PRESENCE, 2, {"as": "text"})
    never = dumps({"name": "no package", "text": "read me"})
    absent = proof(made, never)
    assert [absent["reading"], *(one["reading"] for one in absent["read_otherwise"])] == [{}, {"as": "text"}]


def test_an_older_proof_of_absence_still_holds(history: History, tmp_path: Path) -> None:
    """It says nothing of a document that is the row, and what checks it says so."""
    audit, file = history.audit(), tmp_path / "proof.json"
    asked = parse_record(dumps(question(999)))
    made = prove(audit, asked, audit.model("acme.one"))
    file.write_text(dumps({**made, "schema_version": 1, "read_otherwise": []}), "utf-8")
    assert "that no document is this very text" in " ".join(check(file, asked).unchecked)
    file.write_text(dumps({**made, "read_otherwise": []}), "utf-8")
    with pytest.raises(UserError, match="another record"):
        check(file, asked)
