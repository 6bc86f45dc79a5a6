"""Changed sources and bases, told by their listing: each place once for all who name it."""

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ft_dagster.data.sources.fingerprint import fingerprint_sources
from ft_dagster.errors import UserError
from ft_dagster.fleet.due.reasons import News
from ft_dagster.fleet.refresh import watching
from ft_dagster.fleet.refresh.listing import ListedFile, WatchedPlace, difference, listing
from ft_dagster.fleet.refresh.sync_declarations import notice
from ft_dagster.fleet.refresh.watching import look, places_of
from ft_dagster.fleet.table.database import SharedDatabase
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import Watched
from ft_dagster.roots import OUTSIDE, Roots
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.store import Attempt, write_head
from ft_dagster.store.heads import head_path
from ft_dagster.store.make import Recipe, make_artifact
from tests.fleet.tables import row_of
from tests.present import present
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC) + timedelta(days=1)  # after all that these tests write, however late they run
MINUTE = timedelta(minutes=1)
LONG_AGO = 1_700_000_000


def old(file: Path, text: str) -> None:
    """A file that changed long before any run, as far as its time of writing says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    os.utime(file, (LONG_AGO, LONG_AGO))


class Fleet:
    """A project whose variants ran, and the table that is kept of it."""

    def __init__(self, project: Path, database: str) -> None:
        self.settings: Settings = load_settings(project)
        self.project, self.table = project, FleetTable(database)

    def ran(self, *keys: str, at: datetime | None = None) -> None:
        """What a run leaves of the declaration, and what the tick then asks to be looked at. `at`: when it
        read its sources; None: now."""
        store, declarations = self.settings.open_store(), Declarations(self.project)
        self.table.put(notice(self.table, declarations, NOW).rows)
        for key in map(VariantKey.parse, keys):
            spec = declarations.declared(key).spec
            roots = self.settings.roots(key.tenant)
            sources = fingerprint_sources(spec.data.sources, self.project, roots=roots)
            recipe = Recipe("declaration", key.prefix, {}, {"sources": sources})
            made = make_artifact(store, self.settings.work_folder, recipe, partial(_frozen, sources))
            write_head(store, key.prefix, made, None)
            head = head_path(
                key.prefix, "declaration"
            )  # told to the second: what is of that second is another
            later = (at or datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds")
            store.write_json(head, {**store.read_json(head), "at": later})
            places = places_of(spec, self.project, self.settings.roots(key.tenant))
            asked = Watched([*map(str, places)], spec.retrain.poll)
            self.table.put([row_of(self.table, str(key))], {str(key): asked})

    def look(self, minutes: float = 0) -> dict[str, str]:
        """Errors by place or variant."""
        return look(self.table, self.settings, NOW + minutes * MINUTE).errors

    def news(self, key: str) -> News | None:
        state = row_of(self.table, key).state
        return state.news[0] if state.news else None


def _frozen(sources: Any, attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "declaration.json").write_text(json.dumps({"sources": sources}), "utf-8")
    return {}


@pytest.fixture
def fleet(tmp_path: Path, database: str) -> Fleet:
    for name, polls in (("acme.often", 5), ("acme.seldom", 500), ("globex.one", 5)):
        declare(tmp_path, name, polls)
    for part in ("a", "b"):
        old(tmp_path / "data" / f"{part}.jsonl", '{"text": "x"}\n' * 10)
    return Fleet(tmp_path, database)


def declare(project: Path, key: str, polls: float, path: str = "data") -> None:
    file = project / "tenants" / key.split(".", maxsplit=1)[0] / f"{key.split('.')[1]}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "description": "x", "owners": ["a"], "base_model": "models/x", "data": {"sources": [path]},
        "retrain": {"on_new_data": True, "poll": polls},
    }  # fmt: skip
    file.write_text(json.dumps(content), "utf-8")


def test_a_place_of_any_length_is_looked_at(fleet: Fleet) -> None:
    path = "data/" + "/".join(f"a-folder-of-a-long-name-{number}" for number in range(60))
    declare(fleet.project, "acme.often", 5, path)
    old(fleet.project / path / "a.jsonl", '{"text": "x"}\n')
    fleet.ran("acme.often")
    old(fleet.project / path / "a.jsonl", '{"text": "longer"}\n')
    assert fleet.look() == {}
    assert fleet.news("acme.often") is not None


def restored(file: Path, days: int = 1) -> None:
    """Its bytes, written after all that a run read."""
    file.write_bytes(file.read_bytes())
    later = (NOW + timedelta(days=days)).timestamp()
    os.utime(file, (later, later))


def test_a_restored_source_is_no_news_and_one_of_other_bytes_is(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    file = fleet.project / "data/a.jsonl"
    restored(file)
    assert fleet.look() == {}
    assert fleet.news("acme.often") is None
    file.write_text(file.read_text().replace("x", "y"))
    restored(file, days=2)
    fleet.look(minutes=6)
    assert present(fleet.news("acme.often")).words == "data/a.jsonl changed"


def test_a_restored_base_is_the_same_and_one_of_other_bytes_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "models/x"
    old(folder / "config.json", "{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    frozen, at = [{"path": "config.json", "size": 2, "sha256": digest}], datetime.now(UTC)
    restored(folder / "config.json")
    assert difference(frozen, listing(WatchedPlace("base", "models/x"), tmp_path, None), at) is None
    (folder / "config.json").write_text("[]")
    restored(folder / "config.json")
    assert difference(frozen, listing(WatchedPlace("base", "models/x"), tmp_path, None), at) is not None


def test_what_was_restored_is_read_for_so_long_and_the_next_look_goes_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is remembered; the change is in the file that is read last."""
    fleet.ran("acme.often")
    file = fleet.project / "data/b.jsonl"
    file.write_text(file.read_text().replace("x", "y"))
    for each in ("a", "b"):
        restored(fleet.project / f"data/{each}.jsonl")
    monkeypatch.setattr(watching, "PORTION_FILES", 1)
    monkeypatch.setattr(watching, "COMPARE_SECONDS", 0.0)
    assert fleet.look() == {}
    assert fleet.news("acme.often") is None
    monkeypatch.setattr(watching, "COMPARE_SECONDS", 20.0)
    fleet.look()
    assert present(fleet.news("acme.often")).words == "data/b.jsonl changed"


def test_what_lies_as_it_was_is_no_news(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    assert fleet.look() == {}
    assert fleet.news("acme.often") is None


def test_a_changed_file_is_news_for_all_who_name_its_folder_by_one_listing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ran("acme.often", "acme.seldom", "globex.one")
    fleet.look()
    (fleet.project / "data" / "b.jsonl").write_text('{"text": "y"}\n' * 30)
    listed: list[WatchedPlace] = []

    def counts(place: WatchedPlace, project: Path, roots: Roots | None) -> list[ListedFile]:
        listed.append(place)
        return listing(place, project, roots)

    monkeypatch.setattr("ft_dagster.fleet.refresh.watching.listing", counts)
    fleet.look(minutes=4)
    assert listed == []  # not yet its turn
    fleet.look(minutes=6)
    assert len(listed) == 1
    for key in ("acme.often", "acme.seldom", "globex.one"):
        news = present(fleet.news(key))
        assert (news.kind, news.words) == ("data", "data/b.jsonl changed")
        assert news.share == pytest.approx(0.75)
        assert (news.since, news.moved) == (NOW + 6 * MINUTE, NOW + 6 * MINUTE)


def test_news_that_move_on_keep_when_they_were_first_seen_and_are_gone_after_a_run(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')
    fleet.look()
    first = present(fleet.news("acme.often"))
    fleet.look(minutes=6)
    assert fleet.news("acme.often") == first
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n' * 2)
    fleet.look(minutes=12)
    moved = present(fleet.news("acme.often"))
    assert (moved.since, moved.moved) == (first.since, NOW + 12 * MINUTE)
    assert moved.stamp != first.stamp
    fleet.ran("acme.often")
    fleet.look(minutes=12)
    assert fleet.news("acme.often") is None


def test_what_moves_after_a_failed_run_is_another_thing_to_try(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')
    fleet.look()
    row = row_of(fleet.table, "acme.often")
    fleet.table.put([row.known(failures=3, failed_at=NOW + 3 * MINUTE)])
    fleet.look(minutes=6)
    assert present(fleet.news("acme.often")).since == NOW
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "z"}\n' * 2)
    fleet.look(minutes=12)
    assert present(fleet.news("acme.often")).since == NOW + 12 * MINUTE


def test_what_moves_while_the_run_that_it_caused_is_in_progress_is_news_of_its_own(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    rows = fleet.project / "data" / "c.jsonl"
    rows.write_text('{"text": "y"}\n')
    fleet.look()
    first = present(fleet.news("acme.often"))
    fleet.ran("acme.often", at=NOW + 11 * MINUTE)
    rows.write_text('{"text": "y"}\n' * 2)
    os.utime(rows, (LONG_AGO, (NOW + 15 * MINUTE).timestamp()))
    fleet.look(minutes=20)
    row = row_of(fleet.table, "acme.often")
    fleet.table.put([row.known(served=NOW + 10 * MINUTE)])
    second = present(fleet.news("acme.often"))
    assert second.since == NOW + 20 * MINUTE
    assert second.stamp != first.stamp
    rows.write_text('{"text": "y"}\n' * 3)
    fleet.look(minutes=600)
    assert present(fleet.news("acme.often")).since == NOW + 20 * MINUTE


def test_news_that_a_run_took_up_which_failed_are_tried_again(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')
    fleet.look()
    first = present(fleet.news("acme.often"))
    fleet.ran("acme.often", at=NOW + 2 * MINUTE)
    row = row_of(fleet.table, "acme.often")
    fleet.table.put([row.known(failures=1, failed_at=NOW + 3 * MINUTE)])
    fleet.look(minutes=6)
    assert fleet.news("acme.often") == first


@pytest.mark.parametrize("known", [{"running": True}, {"asked": ("{stamp}",)}, {"asked": ("{stamp}.try2",)}])
def test_news_that_a_run_took_up_stand_until_it_came_to_a_verdict(
    fleet: Fleet, known: dict[str, Any]
) -> None:
    fleet.ran("acme.often")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')
    fleet.look()
    first = present(fleet.news("acme.often"))
    known = {**known, "asked": tuple(each.format(stamp=first.stamp) for each in known.get("asked", ()))}
    fleet.ran("acme.often", at=NOW + 2 * MINUTE)
    fleet.table.put([row_of(fleet.table, "acme.often").known(**known)])
    fleet.look(minutes=6)
    assert fleet.news("acme.often") == first  # it fails later
    fleet.table.put([row_of(fleet.table, "acme.often").known(running=False, served=NOW + 1 * MINUTE)])
    fleet.ran("acme.often", at=NOW + 2 * MINUTE)
    fleet.look(minutes=12)
    assert fleet.news("acme.often") is None


def read_elsewhere(fleet: Fleet) -> None:
    """acme.often reads another folder than globex.one does; both ran."""
    declare(fleet.project, "acme.often", 5, "elsewhere")
    old(fleet.project / "elsewhere" / "x.jsonl", '{"text": "x"}\n')
    fleet.ran("acme.often", "globex.one")


def test_a_link_to_nothing_is_said_and_holds_up_no_other(fleet: Fleet) -> None:
    read_elsewhere(fleet)
    fleet.look()
    (fleet.project / "elsewhere" / "gone.jsonl").symlink_to("/nowhere")
    (fleet.project / "data" / "a.jsonl").unlink()
    assert list(fleet.look(minutes=6)) == ["elsewhere"]
    assert present(fleet.news("globex.one")).words == "data/a.jsonl changed"


def test_a_place_whose_listing_never_ends_is_not_the_first_again_and_those_beside_it_are_looked_at(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of places that were put off together, the next look puts off each by itself."""
    read_elsewhere(fleet)
    listed: list[str] = []

    def hangs(place: WatchedPlace, project: Path, roots: Roots | None) -> list[ListedFile]:
        listed.append(place.path)
        if place.path == listed[0]:
            raise KeyboardInterrupt  # as the daemon ends it
        return listing(place, project, roots)

    monkeypatch.setattr("ft_dagster.fleet.refresh.watching.listing", hangs)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fleet.look()
    fleet.look()
    assert listed[0] == listed[1]
    assert {listed[0], listed[2]} == {"data", "elsewhere"}
    for minutes in (6, 12):  # it hangs again, and once more by itself
        with pytest.raises(KeyboardInterrupt):
            fleet.look(minutes)
        assert listed[-1] == listed[0]


def test_a_glob_that_tries_all_ways_to_fit_holds_up_no_other(fleet: Fleet) -> None:
    fleet.ran("globex.one")
    declare(fleet.project, "acme.often", 5, "elsewhere/a*.jsonl")
    old(fleet.project / "elsewhere" / "a.jsonl", '{"text": "x"}\n')
    fleet.ran("acme.often")
    declare(fleet.project, "acme.often", 5, f"elsewhere/{'*a' * 6}*b.jsonl")
    spec = Declarations(fleet.project).declared(VariantKey("acme", "often")).spec
    (place,) = places_of(spec, fleet.project, fleet.settings.roots("acme"))[:1]
    fleet.table.put([row_of(fleet.table, "acme.often")], {"acme.often": Watched([str(place)], 5)})
    old(fleet.project / "elsewhere" / f"{'a' * 60}.jsonl", '{"text": "x"}\n')
    (fleet.project / "data" / "a.jsonl").unlink()
    before = time.process_time()
    assert list(fleet.look()) == [place.path]
    assert time.process_time() - before < 1
    assert present(fleet.news("globex.one")).words == "data/a.jsonl changed"


def test_a_place_of_which_nobody_foresaw_what_it_raises_holds_up_no_other(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_elsewhere(fleet)
    (fleet.project / "data" / "a.jsonl").unlink()

    def fails(place: WatchedPlace, project: Path, roots: Roots | None) -> list[ListedFile]:
        if place.path == "elsewhere":
            raise RecursionError("maximum recursion depth exceeded")
        return listing(place, project, roots)

    monkeypatch.setattr("ft_dagster.fleet.refresh.watching.listing", fails)
    assert fleet.look() == {"elsewhere": "RecursionError: maximum recursion depth exceeded"}
    assert present(fleet.news("globex.one")).words == "data/a.jsonl changed"


def test_of_a_base_nothing_is_listed_that_loading_it_does_not_read(tmp_path: Path) -> None:
    for name in ("models/config.json", "models/additional_chat_templates/tool.jinja", "theirs.jinja"):
        old(tmp_path / name, "{}")
    deeper = tmp_path / "models/additional_chat_templates/deeper"
    deeper.mkdir()
    (deeper / "theirs.jinja").symlink_to(tmp_path / "theirs.jinja")
    found = listing(WatchedPlace("base", "models"), tmp_path, None)
    assert [file.path for file in found] == ["additional_chat_templates/tool.jinja", "config.json"]


def test_a_tick_and_a_look_at_once_lose_no_news(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    fleet.look()
    before = row_of(fleet.table, "acme.often")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')
    fleet.look(minutes=6)
    found = present(fleet.news("acme.often"))
    parent = News("parent", "acme.base-v2", NOW, NOW, "parent acme.base v2")
    fleet.table.put([before.known(news=(parent,))])  # by a tick that read the row before the look
    after = row_of(fleet.table, "acme.often")
    assert after.state.news == (parent, found)
    assert after.next_look is not None
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n' * 2)
    fleet.look(minutes=12)
    assert [each.kind for each in row_of(fleet.table, "acme.often").state.news] == ["parent", "data"]


def test_what_a_run_read_anew_while_a_look_was_on_is_looked_at_again(fleet: Fleet) -> None:
    fleet.ran("acme.often")
    (place,) = fleet.table.places(["acme.often"])["acme.often"]
    fleet.table.put_off({place: NOW})
    fleet.ran("acme.often")  # between a look's listing and its end
    fleet.table.saw({place: (NOW, "as it was listed")})
    assert fleet.table.asked_by([place]) == {place: {"acme.often": None}}


def test_a_source_that_cannot_be_listed_is_said_and_holds_up_no_other(fleet: Fleet) -> None:
    read_elsewhere(fleet)
    fleet.look()
    (fleet.project / "elsewhere" / "x.jsonl").unlink()
    (fleet.project / "data" / "a.jsonl").unlink()
    errors = fleet.look(minutes=6)
    assert list(errors) == ["elsewhere"]
    assert "no data file there" in errors["elsewhere"]
    assert present(fleet.news("globex.one")).words == "data/a.jsonl changed"
    assert list(fleet.look(minutes=12)) == ["elsewhere"]


def test_a_variant_whose_stored_sources_are_damaged_is_said_and_holds_up_no_other(fleet: Fleet) -> None:
    fleet.ran("acme.often", "globex.one")
    store, recipe = fleet.settings.open_store(), Recipe("declaration", "tenants/acme/often", {})

    def without_sources(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "declaration.json").write_text("{}")
        return {}

    made = make_artifact(store, fleet.settings.work_folder, recipe, without_sources)
    write_head(store, recipe.prefix, made, None)
    (fleet.project / "data" / "a.jsonl").unlink()
    assert fleet.look() == {"acme.often": "the store cannot be read: KeyError('sources')"}
    assert present(fleet.news("globex.one")).words == "data/a.jsonl changed"


def test_a_look_compares_for_so_long_and_the_next_goes_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ran("acme.often", "acme.seldom", "globex.one")
    (fleet.project / "data" / "a.jsonl").unlink()
    monkeypatch.setattr("ft_dagster.fleet.refresh.watching.COMPARE_SECONDS", 0.0)
    for told in (1, 2, 3):
        assert fleet.look() == {}
        known = [fleet.news(key) for key in ("acme.often", "acme.seldom", "globex.one")]
        assert [each is not None for each in known] == [True] * told + [False] * (3 - told)


def test_nothing_is_looked_at_that_its_tenant_may_not_read(fleet: Fleet, tmp_path: Path) -> None:
    declare(fleet.project, "acme.often", 5, "/etc")
    spec = Declarations(fleet.project).declared(VariantKey("acme", "often")).spec
    assert places_of(spec, fleet.project, fleet.settings.roots("acme")) == []


@pytest.mark.parametrize("path", ["data/" + "b" * 300, "b" * 300, "b/" * 3000])
def test_a_name_too_long_for_a_file_is_a_place_as_any(fleet: Fleet, path: str) -> None:
    declare(fleet.project, "acme.often", 5, path)
    file = fleet.project / "tenants/acme/often.yaml"
    file.write_text(file.read_text().replace("models/x", path))
    spec = Declarations(fleet.project).declared(VariantKey("acme", "often")).spec
    places = places_of(spec, fleet.project, fleet.settings.roots("acme"))
    assert [place.path for place in places if place.kind == "data"] == [path]


@pytest.mark.parametrize("kind", ["a link", "a folder with a link in it"])
def test_a_place_that_leads_to_another_tenants_since_it_was_learnt_is_listed_by_nobody(
    fleet: Fleet, kind: str
) -> None:
    box, secret = fleet.project / "data/acme/box", fleet.project / "data/globex/merger-with-initech.jsonl"
    old(box / "rows.jsonl", '{"text": "x"}\n')
    old(secret, '{"text": "x"}\n')
    path = "data/acme/box/rows.jsonl" if kind == "a link" else "data/acme/box"
    declare(fleet.project, "acme.often", 5, path)
    fleet.ran("acme.often")
    (box / "rows.jsonl").unlink()
    if kind == "a link":
        box.rmdir()
        box.symlink_to("../globex")
    else:
        (box / "rows.jsonl").symlink_to(secret)
    (error,) = fleet.look().values()
    assert OUTSIDE in error
    assert "initech" not in error
    assert fleet.news("acme.often") is None


def test_what_one_tenant_may_list_is_not_told_to_another_who_may_not(fleet: Fleet) -> None:
    shared = fleet.project / "shared"
    old(shared / "rows.jsonl", '{"text": "x"}\n')
    for key in ("acme.often", "globex.one"):
        declare(fleet.project, key, 5, "shared")
    fleet.ran("acme.often", "globex.one")
    (shared / "more.jsonl").symlink_to("../data/globex/rows.jsonl")
    old(fleet.project / "data/globex/rows.jsonl", '{"text": "y"}\n')
    errors = fleet.look()
    assert list(errors) == ["acme.often"]
    assert OUTSIDE in errors["acme.often"]
    assert present(fleet.news("globex.one")).words == "shared/more.jsonl changed"
    assert fleet.news("acme.often") is None


def test_a_glob_that_names_other_files_to_each_tenant_is_listed_for_each(fleet: Fleet) -> None:
    """Acme's file is read by nobody else, and what both may read is not all that globex may."""
    old(fleet.project / "data/shared/rows.jsonl", '{"text": "x"}\n')
    for tenant in ("acme", "globex"):
        old(fleet.project / f"data/{tenant}/more.jsonl", '{"text": "x"}\n')
    declare(fleet.project, "acme.often", 5, "data/*/rows.jsonl")
    declare(fleet.project, "acme.seldom", 5, "data/*/*.jsonl")
    declare(fleet.project, "globex.one", 5, "data/*/*.jsonl")
    fleet.ran("acme.often", "acme.seldom", "globex.one")
    assert fleet.look() == {}
    assert fleet.news("globex.one") is None
    old(fleet.project / "data/globex/more.jsonl", '{"text": "longer"}\n')
    assert fleet.look(minutes=6) == {}
    assert present(fleet.news("globex.one")).words == "data/globex/more.jsonl changed"
    assert fleet.news("acme.seldom") is None


def test_a_base_that_leads_elsewhere_since_it_was_learnt_is_listed_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "tenants/globex").mkdir(parents=True)
    old(tmp_path / "models/x/config.json", "{}")
    old(tmp_path / "data/globex/secret.json", "{}")
    place, roots = WatchedPlace("base", "models/x"), load_settings(tmp_path).roots("acme")
    assert [file.path for file in listing(place, tmp_path, roots)] == ["config.json"]
    (tmp_path / "models/x/tokenizer.json").symlink_to(tmp_path / "data/globex/secret.json")
    with pytest.raises(UserError, match=OUTSIDE):
        listing(place, tmp_path, roots)


def test_a_look_that_is_killed_before_it_told_all_is_made_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ran("acme.often", "globex.one")
    (fleet.project / "data" / "c.jsonl").write_text('{"text": "y"}\n')

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    for number, method in enumerate(("set_news", "saw")):
        with monkeypatch.context() as patched:
            patched.setattr(FleetTable, method, dies)
            with pytest.raises(KeyboardInterrupt):
                fleet.look(minutes=6 * number)
    fleet.look(minutes=12)
    assert fleet.news("globex.one") is not None


def test_a_look_asks_the_database_no_question_for_each_place(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one for some at a time, whether it is the first look at them or nothing changed."""
    for number in range(30):
        old(fleet.project / f"data-{number}" / "rows.jsonl", '{"text": "x"}\n')
        declare(fleet.project, f"acme.v{number}", 5, f"data-{number}")
    fleet.ran(*(f"acme.v{number}" for number in range(30)))
    asked, reading = list[None](), SharedDatabase.reading

    def counts(database: SharedDatabase) -> Any:
        asked.append(None)
        return reading(database)

    monkeypatch.setattr(SharedDatabase, "reading", counts)
    for minutes in (0, 6):
        asked.clear()
        assert look(fleet.table, fleet.settings, NOW + minutes * MINUTE).listed == 30
        assert len(asked) <= 30 / watching.AT_ONCE + 12


def test_places_that_there_is_no_time_to_list_keep_their_turn(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AT_ONCE", 1)
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.0)
    for number in range(3):
        old(fleet.project / f"data-{number}" / "rows.jsonl", '{"text": "x"}\n')
        declare(fleet.project, f"acme.v{number}", 5, f"data-{number}")
    fleet.ran(*(f"acme.v{number}" for number in range(3)))
    looks = [look(fleet.table, fleet.settings, NOW) for _ in range(4)]
    assert [(each.listed, each.waiting) for each in looks] == [(1, 2), (1, 1), (1, 0), (0, 0)]


def test_what_does_not_fit_into_the_looks_is_said(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        old(fleet.project / f"data-{number}" / "rows.jsonl", '{"text": "x"}\n')
        declare(fleet.project, f"acme.v{number}", 1, f"data-{number}")
    fleet.ran(*(f"acme.v{number}" for number in range(4)))
    whole = look(fleet.table, fleet.settings, NOW)
    assert (whole.listed, whole.waiting, whole.asked, whole.too_much) == (4, 0, 4.0, None)
    monkeypatch.setattr(watching, "MOST_PLACES", 2)
    part = look(fleet.table, fleet.settings, NOW + 2 * MINUTE)
    assert (part.listed, part.waiting) == (2, 2)
    assert present(part.too_much) == (
        "retrain.poll asks for looks at 4 places a minute, and 2 are made: each place is looked at 2.0 times "
        "less often. Declare longer ones"
    )


def test_a_bucket_is_told_by_its_etags(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = fsspec.filesystem("s3", **s3_server.options)
    for name, content in (("a", '{"text": "x"}\n'), ("b", '{"text": "x"}\n'), (".hidden", "{}")):
        bucket.pipe_file(f"{s3_server.bucket}/watched/{name}.jsonl", content.encode())
    place = WatchedPlace("data", f"s3://{s3_server.bucket}/watched")
    frozen = fingerprint_sources([place.source], tmp_path)[0]
    at = datetime.now(UTC)
    assert difference(frozen, listing(place, tmp_path, None), at) is None
    bucket.pipe_file(f"{s3_server.bucket}/watched/b.jsonl", b'{"text": "z"}\n')
    found = present(difference(frozen, listing(place, tmp_path, None), at))
    assert (found.first, found.share) == (f"s3://{s3_server.bucket}/watched/b.jsonl", 0.5)
    with pytest.raises(UserError, match="no such object"):
        listing(WatchedPlace("data", f"s3://{s3_server.bucket}/nothing"), tmp_path, None)


def test_a_hub_repository_is_told_by_its_commit() -> None:
    frozen = [{"repo": "org/rows", "revision": "a" * 40}]
    at = datetime.now(UTC)
    assert difference(frozen, [ListedFile("org/rows", 0, "a" * 40, None)], at) is None
    assert present(difference(frozen, [ListedFile("org/rows", 0, "b" * 40, None)], at)).share == 1.0


def test_a_base_is_told_by_its_files(tmp_path: Path) -> None:
    old(tmp_path / "models" / "x" / "config.json", "{}")
    at = datetime.now(UTC)
    place = WatchedPlace("base", "models/x")
    frozen = [{"path": "config.json", "size": 2, "sha256": "0" * 64}]
    assert difference(frozen, listing(place, tmp_path, None), at) is None
    (tmp_path / "models" / "x" / "config.json").write_text("{ }")
    assert present(difference(frozen, listing(place, tmp_path, None), at)).first == "config.json"
