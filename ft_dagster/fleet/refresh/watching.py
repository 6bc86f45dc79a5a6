"""Looks at the places that variants are trained on: each once for all who name it, so many at a time."""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.reasons import EXACT_STAMP, News, VariantState, next_look, not_dealt_with
from ft_dagster.fleet.refresh.from_store import DAMAGE, said_of
from ft_dagster.fleet.refresh.listing import (
    ListedFile,
    WatchedPlace,
    difference,
    digests_of,
    listing,
    listing_digest,
    may_list,
    may_see,
    named_places,
    unasked_places,
)
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.roots import OUTSIDE, Roots, outside
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, TASK_DATASET
from ft_dagster.stages.declaration import FILE
from ft_dagster.store import Store, read_head
from ft_dagster.store.heads import head_time
from ft_dagster.strict_json import loads

MOST_PLACES = 200  # that one look lists, one a minute
AT_ONCE = 10  # places that are put off before the first of them is listed
PORTION_BYTES, PORTION_FILES = 10**9, 200  # that are read at once
LOOK_SECONDS, COMPARE_SECONDS = 30.0, 20.0  # of a look; the rest is the next one's
_Frozen = Callable[[Store, VariantKey], tuple[list[Mapping[str, Any]], datetime] | None]


class Looked(NamedTuple):
    """Reports a look at places. `listed`: places; `changed`: variants of which another state was found;
    `errors`: place -> why it could not be listed, or variant -> why it could not be compared. `waiting`:
    places whose turn it still is; `asked`: for how many looks at places a minute all declarations ask
    together.
    """

    listed: int
    changed: tuple[str, ...]
    errors: dict[str, str]
    waiting: int = 0
    asked: float = 0.0

    @property
    def too_much(self) -> str | None:
        """Say in a sentence what does not fit into the looks; None where all does."""
        if self.asked <= MOST_PLACES:
            return None
        return (
            f"retrain.poll asks for looks at {self.asked:,.0f} places a minute, and {MOST_PLACES} are made: "
            f"each place is looked at {self.asked / MOST_PLACES:.1f} times less often. Declare longer ones"
        )


def places_of(spec: VariantSpec, project: Path, roots: Roots) -> list[WatchedPlace]:
    """Return what is looked at for a declaration, as far as its tenant may: its run says the rest. A place of
    this host is looked at for its freshness, whether the declaration asks for retrains by it or not.
    """
    unasked = unasked_places(spec, project)
    looked_at = [place for place in named_places(spec) if place not in unasked]
    return [place for place in looked_at if may_list(place, project, roots)]


def look(table: FleetTable, settings: Settings, now: datetime) -> Looked:
    """List what is due to be listed, and note for each variant what is other than its newest run found it.

    A place that cannot be listed, or whose listing never ends, is tried again at its next turn, and holds up
    no other; what was known of it stands. Variants that there is no time to compare are the next look's.
    """
    if len(hung := table.listing()) > 1:
        table.put_off(dict.fromkeys(hung, now))
    listings, errors, due = Listings(settings), dict[str, str](), table.places_due(now, MOST_PLACES)
    again = {text: now + timedelta(minutes=minutes) for text, minutes in due.items()}
    asked = table.asked_by(due)
    tenants = {text: sorted({key.partition(".")[0] for key in keys}) for text, keys in asked.items()}
    marks = _list(table, listings, tenants, again, errors)
    listed = len(marks) + len(errors)
    unseen = {text: {k for k, seen in asked[text].items() if seen != mark} for text, mark in marks.items()}
    compared = _compare(table, set().union(*unseen.values()), listings, now)
    changed = table.set_news(compared.news, lambda state: next_look(state, settings.fleet.orders, now))
    new = {text: (again[text], mark) for text, mark in marks.items() if unseen[text]}
    table.saw(new, [*compared.failed, *compared.left])  # at last: who is killed before has seen nothing
    table.put_off({text: now for text, keys in unseen.items() if keys & compared.left})
    return Looked(listed, tuple(changed), errors | compared.failed, *table.demand(now))


def _list(
    table: FleetTable,
    listings: Listings,
    tenants: Mapping[str, Sequence[str]],
    again: Mapping[str, datetime],
    errors: dict[str, str],
) -> dict[str, str]:
    """Return place -> digest of its listing; `errors` gets why a place has none. Those that there is no time
    for keep their turn, and those that were put off with one whose listing never ended get it back.
    """
    end, marks, turns, hung = time.monotonic() + LOOK_SECONDS, dict[str, str](), list(again), table.listing()
    at_once = 1 if hung else AT_ONCE  # to find out which it is
    for at in range(0, len(turns), at_once):
        part = turns[at : at + at_once]
        table.put_off({text: again[text] for text in part}, to_list=True)  # it is not the first again
        for text in part:
            place = WatchedPlace.parse(text)
            try:
                marks[text] = listing_digest(listings.of_any(place, tenants[text]))
            except Exception as error:  # also what nobody foresaw is of this place alone
                errors[place.path] = _said(error)
        if time.monotonic() > end:
            break
    table.set_listed()
    return marks


class _Compared(NamedTuple):
    """Holds by variant what was found, why it could not be; and those that there was no time for."""

    news: dict[str, tuple[News, ...]]
    failed: dict[str, str]
    left: set[str]


def _compare(table: FleetTable, keys: Collection[str], listings: Listings, now: datetime) -> _Compared:
    end = listings.until = time.monotonic() + COMPARE_SECONDS
    found, places = _Compared({}, {}, set()), table.places(keys)
    for number, row in enumerate(table.named(keys)):
        if number and time.monotonic() > end:
            found.left.add(row.key)
            continue
        try:
            found.news[row.key] = news_of(row, places.get(row.key, ()), listings, listings.settings, now)
        except NoTimeLeft:
            found.left.add(row.key)
        except (UserError, *DAMAGE) as error:
            found.failed[row.key] = said_of(error)
    return found


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class NoTimeLeft(Exception):
    """Reports that no time is left to read what changed; what was read is remembered, so that the next look
    goes on from there.
    """


class Listings:
    """Lists each place once for all tenants who may read what lies there; what a tenant may is asked anew,
    since it may have become a link since it was learnt.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.until = math.inf  # by the monotonic clock: no file is begun to be read after that
        self._roots: dict[str, Roots] = {}
        self._shared: dict[WatchedPlace, list[ListedFile]] = {}
        self._known: dict[tuple[WatchedPlace, str], list[ListedFile] | Exception] = {}

    def of(self, place: WatchedPlace, tenant: str) -> list[ListedFile]:
        """Raises UserError, OSError, ValueError, and what it raised again when it is asked again."""
        if (place, tenant) not in self._known:
            try:
                self._known[place, tenant] = self._listed(place, tenant)
            except Exception as error:
                self._known[place, tenant] = error
        known = self._known[place, tenant]
        if isinstance(known, Exception):
            raise known
        return known

    def digests(self, files: Sequence[ListedFile]) -> list[str]:
        """Return the sha256 of files that changed, remembered. Raises NoTimeLeft, OSError."""
        found = list[str]()
        for portion in _portions(files):
            if time.monotonic() > self.until:
                raise NoTimeLeft
            found += digests_of(portion, self.settings.cache_folder)
        return found

    def of_any(self, place: WatchedPlace, tenants: Sequence[str]) -> list[ListedFile]:
        """List it for the first of them who may; a glob, which names other files to each, for all of them."""
        refused, found = outside(place.path), dict[str, ListedFile]()
        for tenant in tenants:
            try:
                files = self.of(place, tenant)
            except UserError as error:
                if error.problem != OUTSIDE and not glob.has_magic(place.path):
                    raise
                refused = error
                continue
            if not glob.has_magic(place.path):
                return files
            found |= {file.path: file for file in files}
        if found:
            return [found[path] for path in sorted(found)]
        raise refused

    def _listed(self, place: WatchedPlace, tenant: str) -> list[ListedFile]:
        project = self.settings.project
        if tenant not in self._roots:
            self._roots[tenant] = self.settings.roots(tenant)
        roots, shared = self._roots[tenant], self._shared.get(place)
        if shared is not None and may_list(place, project, roots) and may_see(shared, place, project, roots):
            return shared
        files = listing(place, project, roots)
        if not glob.has_magic(place.path):
            self._shared.setdefault(place, files)
        return files


def _portions(files: Sequence[ListedFile]) -> Iterator[list[ListedFile]]:
    """Yield so many, or so many bytes, as are read before the time is looked at again."""
    portion, size = list[ListedFile](), 0
    for file in files:
        portion, size = [*portion, file], size + file.size
        if size > PORTION_BYTES or len(portion) == PORTION_FILES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def news_of(
    row: FleetRow, places: Sequence[str], listings: Listings, settings: Settings, now: datetime
) -> tuple[News, ...]:
    """Return the news of a row's sources and base as they are listed now. Raises UserError, OSError,
    ValueError, NoTimeLeft.
    """
    store, known = settings.open_store(), [WatchedPlace.parse(text) for text in places]
    news = list[News]()
    kinds: tuple[tuple[Literal["data", "base"], _Frozen], ...] = (
        ("data", _frozen_sources),
        ("base", _frozen_base),
    )
    for kind, frozen in kinds:
        of_kind = [place for place in known if place.kind == kind]
        then = frozen(store, row.state.key) if of_kind else None
        if then is None:
            continue
        files = [file for place in of_kind for file in listings.of(place, row.state.key.tenant)]
        if kind == "base":  # beside the files that are loaded lie others
            named = {str(entry.get("path", entry.get("repo"))) for entry in then[0]}
            files = [file for file in files if file.path in named]
        other = difference(then[0], files, then[1], listings.digests)
        if other is None:
            news += not_dealt_with((each for each in row.state.news if each.kind == kind), row.state)
        else:
            rows = _rows_of(store, row.state.key) if kind == "data" else None
            changed = None if rows is None else round(other.share * rows)
            mark, words = sha256_json(listing_digest(files))[:8], f"{other.first} changed"
            found = News(kind, mark, now, now, words, other.share, changed)
            news.append(_told(found, row.state, then[1]))
    return tuple(news)


def _told(found: News, state: VariantState, frozen: datetime) -> News:
    """Return what was found (its stamp: a mark of the listing), as it was told before where nothing moved
    since. What was told before a run read its sources (`frozen`) is told no more: what differs now moved
    after it. What moves after a failed run is news of its own too: it may be what mends it.
    """
    told = (each for each in state.news if each.kind == found.kind and each.since > frozen)
    before = next(told, None)
    if before is not None and before.stamp.endswith(found.stamp):
        return before._replace(share=found.share, rows=found.rows)
    again = state.failed_at is not None and before is not None and before.since <= state.failed_at
    since = found.since if before is None or again else before.since
    return found._replace(stamp=f"{found.kind}-{since:{EXACT_STAMP}}-{found.stamp}", since=since)


def _frozen_sources(store: Store, key: VariantKey) -> tuple[list[Mapping[str, Any]], datetime] | None:
    """Return the fingerprints of all sources at the newest run, and when they were taken; None before any."""
    head, at = read_head(store, key.prefix, DECLARATION.name), head_time(store, key.prefix, DECLARATION.name)
    if head is None or at is None:
        return None
    content = loads(head.read(store, f"payload/{FILE}"))
    return [entry for source in content["sources"] for entry in source], at


def _frozen_base(store: Store, key: VariantKey) -> tuple[list[Mapping[str, Any]], datetime] | None:
    """Return the files of the named base at the newest run, or its commit."""
    head, at = read_head(store, key.prefix, BASE_MODEL.name), head_time(store, key.prefix, BASE_MODEL.name)
    if head is not None and BASE_MODEL.name in head.inputs:  # made of it, with tokens of its own
        head = input_of(StoredGraph(store), head, BASE_MODEL.name)
    if head is None or at is None:
        return None
    base = BaseRecord.stored(store, head)
    if base.revision:
        return [{"repo": base.reference, "revision": base.revision}], at
    return [file._asdict() for file in base.files], at


def _rows_of(store: Store, key: VariantKey) -> int | None:
    """Return how many rows the newest data set was made from."""
    made = read_head(store, key.prefix, TASK_DATASET.name)
    if made is None:
        return None
    return sum(made.figures["rows"].values()) + sum(made.figures["dropped"].values())
