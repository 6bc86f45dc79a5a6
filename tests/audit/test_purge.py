"""A purge: what holds the records of a request goes, nothing else does, and whoever is killed goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.audit.erasure.requests import log_request
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli import app
from ft_dagster.lineage.erasures import read_erasures, states
from ft_dagster.lineage.release import history as entries_of
from ft_dagster.lineage.served import production_in
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import release
from tests.audit.histories import History, question
from tests.audit.taken import taken
from tests.erased import found_below, needles
from tests.releases import frozen
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow
ROW = question(1)
NAMES = ("one", "child")


def run(history: History, *args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, ["--project", str(history.folder), "erase", *args], input=text)


def asked(history: History, *rows: dict[str, Any], at_once: bool = False) -> str:
    """Ask for the erasure of rows, and return the id of the request."""
    (history.folder / "erase.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows or (ROW,)))
    words = ["request", str(history.folder / "erase.jsonl"), "--reason", "art. 17", "--json"]
    told = run(history, *words, *(["--at-once"] if at_once else []))
    assert told.exit_code == 0, told.output
    return str(json.loads(told.stdout)["request"])


def purge(history: History, request: str, *more: str) -> Result:
    return run(history, "purge", request, str(history.folder / "erase.jsonl"), *more)


def renew(history: History, *without: int) -> None:
    """Release versions of all variants that never had these rows."""
    base = history.base()
    rows = [question(number) for number in range(30) if number not in without]
    corpus = history.corpus([f"Document {n} of the town." for n in range(40)])
    mixture = history.mixture("acme.one", history.dataset("acme.one", rows), corpus)
    model = history.model("acme.one", mixture, base)
    export, _ = history.release("acme.one", model, base)
    derived = history.derived_base("acme.child", "acme.one", export, model, base)
    own = history.dataset("acme.child", [question(number) for number in range(100, 120)])
    child = history.model("acme.child", history.mixture("acme.child", own), derived, seed=1)
    history.release("acme.child", child, derived)


def left_of(history: History, *rows: dict[str, Any]) -> dict[str, set[str]]:
    """What a search finds in the store, work folder and caches."""
    return found_below([history.folder / ".ft_dagster"], sought(*rows or (ROW,)))


def sought(*rows: dict[str, Any]) -> dict[bytes, str]:
    names = {name for row in rows for name in parse_record(json.dumps(row)).identities}
    return needles({str(row[part]) for row in rows for part in ("prompt", "completion")}, names)


def proved(history: History, row: dict[str, Any]) -> dict[str, Any]:
    """By the tree of the first version of acme.one."""
    audit = history.audit()
    return prove(audit, parse_record(json.dumps(row)), audit.model("acme.one@1"))


@pytest.fixture(params=["trees", "identities"])
def made(request: pytest.FixtureRequest, history: History, tmp_path: Path) -> History:
    """The history, its evidence as it is written now, or with identities."""
    if request.param == "trees":
        return history
    found = History(tmp_path / "old", "identities")
    base, corpus = found.base(), found.corpus([f"Document {n} of the town." for n in range(40)])
    dataset = found.dataset("acme.one", [question(number) for number in range(30)])
    found.release("acme.one", found.model("acme.one", found.mixture("acme.one", dataset, corpus), base), base)
    return found


def test_all_that_holds_a_record_goes_and_others_are_proved_as_before(made: History) -> None:
    request = asked(made)
    assert left_of(made)
    renew(made, 1)
    other, old = question(9), made.audit().model("acme.one@1").digest
    before = proved(made, other)
    told = purge(made, request)
    assert told.exit_code == 0, told.output
    assert "nothing that was looked through holds a record" in told.stdout
    assert left_of(made) == {}
    found = verify(made.audit())
    assert found.problems == ()
    assert found.removed > 3
    after = made.audit()
    assert record(after, parse_record(json.dumps(ROW))).found == ()
    assert after.model("acme.one@1").digest == old
    assert proved(made, other)["tree"] == before["tree"]
    assert any(model.weights == old for model in record(after, parse_record(json.dumps(other))).models)
    [state] = states(read_erasures(made.store, "acme"))
    assert state.purged is not None
    assert state.said.startswith("purged on ")
    again = purge(made, request)
    assert again.exit_code == 0, again.output


def test_what_never_had_a_record_keeps_its_bytes(history: History) -> None:
    request = asked(history, question(26))  # globex.two has the first twenty
    renew(history, 26)
    store = history.folder / ".ft_dagster/store"
    kept = [file for part in ("tenants/globex", "shared") for file in (store / part).rglob("*")]
    before = {file: file.read_bytes() for file in kept if file.is_file()}
    assert purge(history, request).exit_code == 0
    assert {file: file.read_bytes() for file in before} == before
    assert left_of(history, question(26)) == {}


def test_a_version_in_production_that_learned_it_is_replaced_first(history: History) -> None:
    request = asked(history)
    told = purge(history, request)
    assert told.exit_code == 1
    assert "in production, and learned a record or was asked it: acme.child v1, acme.one v1" in _flat(told)
    assert left_of(history)


def test_at_once_what_never_had_it_is_served_again_else_nothing(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    base = made.base()
    for name in NAMES:
        frozen(made.store, f"acme.{name}")
    for number, numbers in enumerate((range(2, 30), range(30))):  # the first version never had it
        dataset = made.dataset("acme.one", [question(n) for n in numbers])
        model = made.model("acme.one", made.mixture("acme.one", dataset), base, seed=number)
        export, _ = made.release("acme.one", model, base)
    child = made.derived_base("acme.child", "acme.one", export, model, base)
    own = made.dataset("acme.child", [question(n) for n in range(100, 120)])
    made.release("acme.child", made.model("acme.child", made.mixture("acme.child", own), child), child)
    request = asked(made, at_once=True)
    before = left_of(made)
    foreseen = _flat(purge(made, request, "--dry-run"))
    assert (
        "acme.one v2 would be taken out of production; version 1 would be served again, if it may" in foreseen
    )
    assert "acme.child v1 would be taken out of production; none would be served" in foreseen
    assert left_of(made) == before
    assert [production_in(entries_of(made.store, f"tenants/acme/{name}")) for name in ("one", "child")] == [
        2,
        1,
    ]
    told = purge(made, request)
    assert told.exit_code == 0, told.output
    assert told.output.count("acme.one v2 was taken out of production; version 1 is served again") == 1
    assert told.output.count("acme.child v1 was taken out of production; none is served") == 1
    entries = [entries_of(made.store, f"tenants/acme/{name}")[-1] for name in NAMES]
    assert [(entry.action, entry.production) for entry in entries] == [("rollback", 1), ("rollback", None)]
    assert all(request in entry.reason for entry in entries)
    assert left_of(made) == {}
    assert verify(made.audit()).problems == ()
    assert purge(made, request).exit_code == 0


def test_past_its_day_a_request_waits_for_no_successor(history: History) -> None:
    entry, *_ = log_request(history.settings, taken(history, ROW, due="2020-01-31"), "ann", at_once=False)
    (history.folder / "erase.jsonl").write_text(f"{json.dumps(ROW)}\n")
    told = purge(history, entry.request, "--json")
    assert told.exit_code == 0, told.output
    out = json.loads(told.stdout)["out"]
    assert sorted(line.split()[0] for line in out) == ["acme.child", "acme.one"]
    assert all(line.endswith("none is served") for line in out)
    assert left_of(history) == {}


def test_the_same_purge_on_another_host_takes_out_what_that_host_has(
    tmp_path: Path, s3_server: S3Server
) -> None:
    hosts = [History(tmp_path / name) for name in ("one", "other")]
    settings = {
        "store": f"s3://{s3_server.bucket}/purged",
        "store_options": s3_server.options,
        "keys": str(tmp_path / "keys"),
    }
    for host in hosts:
        (host.folder / "ft_dagster.yaml").write_text(json.dumps(settings))
    one, other = hosts
    base = one.base()
    dataset = one.dataset("acme.one", [*(question(n) for n in range(30)), ROW])  # once more, and left out
    one.release("acme.one", one.model("acme.one", one.mixture("acme.one", dataset), base), base)
    kept = one.dataset("acme.two", [*(question(n) for n in range(40, 60))])
    one.release("acme.two", one.model("acme.two", one.mixture("acme.two", kept), base), base)
    request = asked(one, at_once=True)
    shutil.copy(one.folder / "erase.jsonl", other.folder)
    before = proved(other, question(9))
    assert record(other.audit(), parse_record(json.dumps(ROW))).found
    dataset.folder(other.store, other.settings.cache_folder)  # as a run there has it
    release(other.settings.cache_folder, dataset.digest, str(dataset.predicate["attempt"]))
    assert left_of(other)
    assert purge(one, request).exit_code == 0
    assert left_of(one) == {}
    assert found_below([s3_server.folder / "purged"], sought(ROW)) == {}
    assert left_of(other)
    one.store.remove(["writer.json"])  # this server knows no conditional writes
    told = purge(other, request)
    assert told.exit_code == 0, told.output
    assert left_of(other) == {}
    for host in hosts:
        assert verify(host.audit()).problems == ()
        assert proved(host, question(9))["tree"] == before["tree"]


def test_a_dry_run_removes_nothing(history: History) -> None:
    request = asked(history)
    renew(history, 1)
    before = left_of(history)
    told = purge(history, request, "--dry-run")
    assert "would be removed" in told.stdout
    assert "nothing was removed" in told.stdout
    assert left_of(history) == before


@pytest.mark.parametrize(
    ("after", "at_once"), [*((2 * n, False) for n in range(9)), *((n, True) for n in range(8))]
)
def test_who_is_killed_goes_on(
    history: History, monkeypatch: pytest.MonkeyPatch, after: int, at_once: bool
) -> None:
    """Between any two writes and removals of a purge, and of what it takes out of production before."""
    request = asked(history, at_once=at_once)
    if not at_once:
        renew(history, 1)
    left = [after]

    def dies(name: str) -> Any:
        whole = getattr(Store, name)

        def some(self: Store, *args: Any, **named: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return whole(self, *args, **named)

        return some

    with monkeypatch.context() as patched:
        for name in ("upload", "remove", "write", "create_exclusively"):
            patched.setattr(Store, name, dies(name))
        purge(history, request)
    told = purge(history, request)
    assert told.exit_code == 0, told.output
    assert left_of(history) == {}
    assert verify(history.audit()).problems == ()


def test_a_record_that_is_none_of_the_request_is_refused(history: History) -> None:
    request = asked(history)
    renew(history, 1, 2)
    (history.folder / "erase.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(question(2))}\n")
    told = purge(history, request)
    assert told.exit_code == 1
    assert "line 2 of" in _flat(told)
    assert f"is no record of request {request}" in _flat(told)
    assert "What is item 2?" not in told.output


def test_a_request_that_names_more_than_is_given_is_not_purged(history: History) -> None:
    request = asked(history, ROW, question(2))
    renew(history, 1, 2)
    (history.folder / "erase.jsonl").write_text(f"{json.dumps(ROW)}\n")
    told = purge(history, request)
    assert told.exit_code == 1
    assert "of the request not among those given" in _flat(told)
    assert all(state.purged is None for state in states(read_erasures(history.store, "acme")))


@pytest.mark.parametrize("held", [True, False])
def test_a_hold_stops_a_purge(history: History, held: bool) -> None:
    request = asked(history)
    renew(history, 1)
    if held:
        run(history, "hold", request, "--reason", "kept for the trial")
    else:
        (history.folder / "ft_dagster.yaml").write_text("retention: {hold: true}\n")
    told = purge(history, request)
    assert told.exit_code == 1
    assert ("holds this request" if held else "a legal hold keeps all of") in _flat(told)
    assert left_of(history)


def test_rows_that_nobody_asked_to_erase_are_found_missing(history: History) -> None:
    """Who writes the store takes them out as a purge does, and deletes the request."""
    request = asked(history)
    renew(history, 1)
    assert purge(history, request).exit_code == 0
    for file in (history.folder / ".ft_dagster/store/erasures/acme").iterdir():
        file.unlink()
    problems = verify(history.audit()).problems
    assert any("no request for an erasure asked for that" in line for line in problems)


def _flat(told: Result) -> str:
    return " ".join(f"{told.output} {told.exception or ''}".split())
