"""What is asked of a real S3 server does not grow with what was made of a variant before."""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.from_store import known_version
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.lineage.log import read_log
from ft_dagster.lineage.release import history
from ft_dagster.lineage.tries import record_try, try_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store, exclusive, recall, write_head
from ft_dagster.versions.summary import variant_summary
from tests.e2e.project import write_yaml
from tests.fleet.fleets import NOON, variant
from tests.lineage.releases import PREFIX, judged, put, released
from tests.long import mostly_long
from tests.s3_server import S3Server, serve_s3
from tests.troubled_s3 import Troubles, trouble

pytestmark = pytest.mark.slow
LENGTHS = (1, 20)
LISTED = 1_000  # bytes that a version adds to the listings of a variant's folders
ONCE = Counter(GET=1)  # of the head
KEY = VariantKey.parse("acme.support")
ROW = FleetRow(variant(str(KEY)), "", NOON)


def a_version(store: Store, name: str) -> None:
    """Released, with its try and heads, as a run leaves it."""
    given = judged(store, name)
    record_try(store, PREFIX, given.certificate.judged, "questions", 1)
    for made in (given.evaluation, given.export):
        write_head(store, PREFIX, made, None)
    put(store, given)


class Site(NamedTuple):
    """A server with a store for each length of history, and what is asked of it."""

    server: S3Server
    troubles: Troubles


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("s3")
    for length in LENGTHS:
        store = Store(str(folder / "artifacts" / f"of-{length}"))
        for number in range(length):
            a_version(store, f"version {number}")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(exclusive, "SETTLE_SECONDS", 0.0)
        server, troubles = stack.enter_context(trouble(stack.enter_context(serve_s3(folder))))
        for name, value in server.environment.items():
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(name, value)
        yield Site(server, troubles)


class Host:
    """A host with a project of its own on a store of the server."""

    def __init__(self, site: Site, name: str, folder: Path) -> None:
        self.troubles = site.troubles
        (folder / "tenants").mkdir(parents=True)
        options = {"endpoint_url": site.server.endpoint}
        write_yaml(folder / "ft_dagster.yaml", {"store": f"s3://artifacts/{name}", "store_options": options})
        self.settings = load_settings(folder)
        self.store = self.settings.open_store()

    def asked(self, work: Callable[[Store], object]) -> tuple[Counter[str], int]:
        """What it does asks for: requests by method, and the bytes that it got."""
        self.troubles.log.clear()
        work(self.store)
        asked = list(self.troubles.log)
        return Counter(one.method for one in asked), sum(one.got for one in asked)

    def tick(self, store: Store) -> None:
        known = known_version(SharedState(self.settings), ROW, None)
        assert known is not None
        assert known.unread == ""


def evaluated(store: Store) -> None:
    """New weights are put to questions."""
    weights = "f" * 64
    record_try(store, PREFIX, weights, "questions", try_of(store, PREFIX, weights, "questions"))


@pytest.mark.long
def test_what_a_run_asks_for_does_not_grow_with_history(site: Site, tmp_path: Path) -> None:
    """Of a host that looked at the variant before, after another host released a version."""
    asked: dict[str, dict[int, tuple[Counter[str], int]]] = {}
    for length in LENGTHS:
        host = Host(site, f"of-{length}", tmp_path / str(length))
        host.tick(host.store)
        a_version(Store(host.store.url, site.server.options, host.settings.dagster_home), "another")
        candidate = judged(host.store, "new")
        does: dict[str, Callable[[Store], object]] = {
            "tick": host.tick,
            "status": lambda store: variant_summary(store, KEY),
            "evaluation": evaluated,
            "release": partial(put, candidate=candidate),
            "history": lambda store: history(store, PREFIX),
        }
        for name, work in does.items():
            asked.setdefault(name, {})[length] = host.asked(work)
    for name, by_length in asked.items():
        first, *others = [requests for requests, _ in by_length.values()]
        assert others == [first] * len(others), name
    for name in ("status", "release", "history"):
        few, *_, many = [got for _, got in asked[name].values()]
        assert many == pytest.approx(few, abs=100), name  # numbers of two digits
    for name in ("tick", "evaluation"):  # names of what was made before are listed
        few, *_, many = [got for _, got in asked[name].values()]
        assert many - few < LISTED * (LENGTHS[-1] - LENGTHS[0]), name


@pytest.fixture
def host(site: Site, tmp_path: Path) -> Host:
    """On a store of two versions, whose log it read."""
    host = Host(site, tmp_path.name, tmp_path)
    made = released(Store(host.store.url, site.server.options, host.settings.dagster_home), "one", "two")
    assert history(host.store, PREFIX) == made
    return host


def entry(number: int) -> str:
    return f"{PREFIX}/releases/{number:06d}.json"


def test_an_entry_that_was_changed_is_not_used_and_is_named_by_who_reads_all(host: Host, site: Site) -> None:
    before = history(host.store, PREFIX)
    host.store.write_json(entry(1), {**host.store.read_json(entry(1)), "weights": "d" * 64})
    assert history(host.store, PREFIX) == before
    newer = put(host.store, judged(host.store, "three"))
    assert history(host.store, PREFIX) == [*before, newer]
    with pytest.raises(UserError, match="entry 1 of this release log is not what entry 2 was written after"):
        read_log(host.store, PREFIX)
    with pytest.raises(UserError, match="entry 1 of this release log is not what entry 2 was written after"):
        history(Store(host.store.url, site.server.options), PREFIX)


@pytest.mark.parametrize("length", mostly_long([1, 2, 3], [1]))
def test_a_log_that_is_another_by_now_is_read_as_it_stands(host: Host, length: int, tmp_path: Path) -> None:
    """Restored from elsewhere: shorter, as long, longer."""
    other = Store(str(tmp_path / "other"))
    now = released(other, *["four", "five", "six"][:length])
    host.store.remove([entry(1), entry(2)])
    for number in range(1, length + 1):
        host.store.write(entry(number), other.read(entry(number)))
    host.store.write(f"{PREFIX}/releases/head.json", other.read(f"{PREFIX}/releases/head.json"))
    assert history(host.store, PREFIX) == now
    assert host.asked(lambda store: history(store, PREFIX))[0] == ONCE


@pytest.mark.long
def test_entries_that_the_head_does_not_know_of_do_not_count(host: Host) -> None:
    before, head = history(host.store, PREFIX), host.store.read(f"{PREFIX}/releases/head.json")
    made = put(host.store, judged(host.store, "three"))
    host.store.write(f"{PREFIX}/releases/head.json", head)
    assert history(host.store, PREFIX) == read_log(host.store, PREFIX).entries == before
    assert put(host.store, judged(host.store, "three")) == made
    assert history(host.store, PREFIX) == [*before, made]


def test_a_memory_that_was_changed_is_not_believed(host: Host) -> None:
    before = history(host.store, PREFIX)
    file = host.settings.cache_folder / recall.FILE
    with sqlite3.connect(file) as db:
        db.execute("UPDATE files SET content = ?", (zlib.compress(b'{"schema_version": 3}'),))
    assert history(host.store, PREFIX) == before
    assert host.asked(lambda store: history(store, PREFIX))[0] == ONCE  # and it learned anew
    file.write_bytes(b"no database" * 100)
    assert history(host.store, PREFIX) == before
