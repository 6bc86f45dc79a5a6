"""A check of all names what is wrong with an erasure log, in the words of a release log, and no log that is
good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli import app
from ft_dagster.lineage.erasures import HOLD, LIFT, REQUEST, ErasureEntry, append, folder_of
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.provenance.signing import Trust
from ft_dagster.store.blobs import as_stored
from tests.audit.histories import History
from tests.store.signing_keys import trust

pytestmark = pytest.mark.slow
Fault = Callable[[Path], object]


def asked(history: History, owner: str = "acme", *, by: Trust | None = None) -> Path:
    """Three entries in the log of an owner."""
    store = history.store
    store.trust = by
    append(store, owner, lambda _: ErasureEntry(REQUEST, "r1", owner, "ann", "art. 17", due="2099-12-31"))
    append(store, owner, lambda _: ErasureEntry(HOLD, "r1", owner, "law", "a trial"))
    append(store, owner, lambda _: ErasureEntry(LIFT, "r1", owner, "law", "it ended"))
    return history.folder / ".ft_dagster/store" / folder_of(owner)


def problems(history: History, tenant: str | None = None, *, by: Trust | None = None) -> tuple[str, ...]:
    audit = history.audit(tenant=tenant)
    audit.store.trust = by
    found = verify(audit).problems
    audit.index.close()
    return found


def entry(number: int) -> str:
    return f"{number:06d}.json"


def edited(number: int, **fields: object) -> Fault:
    """An entry is another, of the form that entries have."""

    def fault(log: Path) -> None:
        file = log / entry(number)
        file.write_bytes(as_stored({**json.loads(file.read_text()), **fields}))

    return fault


def gone(name: str) -> Fault:
    return lambda log: (log / name).unlink()


def cut(log: Path) -> None:
    """The newest entry is gone, and the head that would tell of it."""
    for name in (entry(3), "head.json"):
        (log / name).unlink()


def numbered_anew(log: Path) -> None:
    """The entry in the middle is gone, and the one after it has its number."""
    (log / entry(3)).replace(log / entry(2))
    head = json.loads((log / "head.json").read_text())
    (log / "head.json").write_text(json.dumps({**head, "entries": 2}))


FAULTS: dict[str, tuple[Fault, str]] = {
    "the first was changed": (
        edited(1, due="2999-01-01"),
        "000002.json: entry 1 of this erasure log is not what entry 2 was written after",
    ),
    "the last was changed": (
        edited(3, by="eve"),
        "000003.json: this entry of an erasure log is not the one that head.json was written after",
    ),
    "the last is gone, and the head counts it": (
        gone(entry(3)),
        "000003.json: this entry of an erasure log is missing",
    ),
    "one in the middle is gone": (gone(entry(2)), "000002.json: this entry of an erasure log is missing"),
    "one in the middle is gone, and numbered anew": (
        numbered_anew,
        "000002.json: entry 1 of this erasure log is not what entry 2 was written after",
    ),
    "the head is gone": (gone("head.json"), "erasures/acme: head.json of this erasure log is missing"),
    "the last and the head are gone": (cut, "erasures/acme: head.json of this erasure log is missing"),
    "a head that is none": (
        lambda log: (log / "head.json").write_text("[]"),
        "head.json: not the head of an erasure log",
    ),
    "a newer schema": (
        edited(3, schema_version=99),
        "000003.json: schema_version: written by a newer ft-dagster",
    ),
    "no entry": (
        lambda log: (log / entry(1)).write_text("{"),
        "000001.json: not an entry of an erasure log",
    ),
    "another owner's": (edited(1, owner="globex"), "000001.json: an entry of another owner's erasure log"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_on_a_host_that_never_looked_before(history: History, fault: str) -> None:
    make, words = FAULTS[fault]
    make(asked(history))
    [line] = problems(history)
    assert words in line
    assert ("Upgrade ft-dagster" if "newer" in words else "Restore the log's folder from a backup") in line


def test_good_logs_are_no_problem(history: History) -> None:
    for owner in ("acme", "globex", ""):
        asked(history, owner)
    assert problems(history) == problems(history) == ()


def of_erasures(lines: tuple[str, ...]) -> Iterator[str]:
    """What is said of erasure logs; manifests are not signed here."""
    return (line for line in lines if "/erasures/" in line)


def test_where_signatures_are_asked_for_an_entry_without_one_is_named(history: History) -> None:
    log = asked(history, by=trust())
    asked(history, "", by=trust())
    assert list(of_erasures(problems(history, by=trust(None)))) == []
    for envelope in (log / "signatures").iterdir():
        if envelope.name.startswith(sha256_file(log / entry(2))):
            envelope.unlink()
    [line] = of_erasures(problems(history, by=trust(None)))
    assert "acme/000002.json: nobody" in line
    assert list(of_erasures(problems(history, by=trust(None, unsigned="accepted")))) == []


def test_a_tenants_check_looks_at_its_own_log_and_that_of_what_all_share(history: History) -> None:
    logs = {owner: asked(history, owner) for owner in ("acme", "globex", "")}
    for log in logs.values():
        (log / entry(2)).unlink()
    named = {
        tenant: {
            owner for line in problems(history, tenant) for owner, log in logs.items() if str(log) in line
        }
        for tenant in (None, "acme", "globex")
    }
    assert named == {None: {"acme", "globex", ""}, "acme": {"acme", ""}, "globex": {"globex", ""}}


def test_the_command_counts_it_in_words_and_as_json(history: History) -> None:
    (asked(history) / entry(2)).unlink()

    def typed(*words: str) -> str:
        ran = CliRunner().invoke(app, ["--project", str(history.folder), "audit", "verify", "--all", *words])
        assert ran.exit_code == 1
        return ran.stdout

    said, printed = typed(), json.loads(typed("--json"))
    assert "000002.json: this entry of an erasure log is missing" in said
    assert ": 1 problem\n" in said
    assert not printed["holds"]
    [line] = printed["problems"]
    assert line in said
