"""Counts the tries of a variant: how often any of its weights were put to questions since its last release.

Each evaluation is another chance to pass what should not: the gate gives try k a smaller share of its level.
A release of new weights closes the count. What counts stands in the store under the variant's name, whatever
becomes of its declaration and its artifacts; records are never changed or removed.

    tries/lineage/<after>/000001.json   the tries after so many releases of new weights, in order
    tries/<weights>/000001.json         the sets of questions that weights were put to, each with its ordinal

The first names each try once, and is created exclusively: of two evaluations at once one is refused. The
second keeps the ordinal of the same weights on the same questions for ever. Its ordinal is its place in the
count, but for weights that an earlier count tried and did not release: on other questions they come after all
tries since that count began, so that a release gives a model that lost no first try. By what else the answers
are judged, such as their metric, stands there too: what is new of it makes another try. So does, for weights
of an earlier count, another version in production. Records of schema 1 counted by weights alone: their
evaluations keep that ordinal, and those since the last release are tries of the variant.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import gcd
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.log import recalled_log
from ft_dagster.lineage.served import served_in
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL
from ft_dagster.store.artifacts import Artifact
from ft_dagster.store.blobs import Store
from ft_dagster.store.committed import committed_in

LINEAGE = "lineage"  # beside folders of weights, which are named by sha256
NOTHING: Mapping[str, str] = {}
AGAINST = "against"  # by what answers are judged, too: the weights in production, "": none
RESTORE = "Restore the folder from a backup"


class Dealt(NamedTuple):
    """Names a set of the test split that was dealt into `sets`, by its number from 1; by default all rows.
    `joined`: see `splits.sets_of`.
    """

    sets: int = 1
    part: int = 1
    joined: bool = False

    def meets(self, other: Dealt) -> bool:
        """Say whether a row can be in both: it is dealt by a number of its own, modulo `sets`."""
        return self.joined != other.joined or (self.part - other.part) % gcd(self.sets, other.sets) == 0


class Try(NamedTuple):
    """Names what was put to which questions, as which try. `after`: so many releases of new weights; None of
    a record by weights alone. `at`: ISO 8601. `reserve`: the set of the test split that was asked, None where
    that was not dealt. `older`: of so many tries by weights alone it is one that a count begins with, so that
    none is forgotten where a run was killed between them. `place`: its number in the count. `of`: the digest
    of the questions alone, where the answers were judged by something else first; `judged`: by what, by name,
    as far as the questions of these weights were for the first time. Both of records by weights.
    """

    weights: str
    questions: str
    ordinal: int
    at: str
    after: int | None
    reserve: Dealt | None = None
    older: int = 0
    place: int = 0
    of: str = ""
    judged: Mapping[str, str] = NOTHING

    @property
    def order(self) -> tuple[int, int]:
        """Return where it stands among all tries of the variant; of an older store, before all counts."""
        return (-1 if self.after is None else self.after), self.place


class Count(NamedTuple):
    """Holds the tries of a variant since its last release, in order. `after`: how many weights were released
    before, the last of them `since`, ISO 8601. `recorded`: so many of the tries are in this count; the others
    are of an older store.
    """

    after: int
    since: str
    tries: tuple[Try, ...]
    recorded: int

    @property
    def next(self) -> int:
        """Return which try new weights would be."""
        return len(self.tries) + 1


class Judged(NamedTuple):
    """Says by what answers are judged, by name: what is other than it was first makes another try. `once`:
    the same of a try whose record does not say it, as far as it is known.
    """

    by: Mapping[str, str] = NOTHING
    once: Callable[[Try], Mapping[str, str]] = lambda _: NOTHING


ALONE = Judged()  # by the answers alone


class Looks(NamedTuple):
    """Holds the tries of weights, `mine`, what judges them now, and what was `released` before they were."""

    mine: Sequence[Try]
    by: Mapping[str, str]
    once: Callable[[Try], Mapping[str, str]]
    released: Sequence[ReleaseEntry]

    @classmethod
    def of(cls, store: Store, prefix: str, weights: str, judged: Judged) -> Looks:
        """Raises UserError for a record that cannot be read."""
        released = _firsts(_before_release(store, prefix, weights))
        return cls(tries(store, prefix, weights), judged.by, judged.once, released)

    def look(self, questions: str) -> str:
        """Return the digest by which their tries name questions (by theirs) whose answers are judged so: that
        of the questions, unless something else was first.
        """
        first = self.first(questions)
        others = {name: by for name, by in self.by.items() if first.get(name, by) != by}
        return sha256_json({"questions": questions, **others}) if others else questions

    def first(self, questions: str) -> dict[str, str]:
        """Return by what the answers to these questions were judged first, by name."""
        found = _noted(self.mine, questions)
        original = next((each for each in self.mine if each.of == questions), None)
        if original is None:
            return found
        if _count_in(original, self.released) < len(self.released):
            found[AGAINST] = "an earlier version"
        says = original.judged.keys() - {AGAINST}
        return found if says else {**found, **self.once(original)}


def try_of(store: Store, prefix: str, weights: str, questions: str, judged: Judged = ALONE) -> int:
    """Return the ordinal, from 1, that these questions (by their digest) have for these weights (by theirs),
    or would have as the variant's next try. Raises UserError for a record that cannot be read.
    """
    looks = Looks.of(store, prefix, weights, judged)
    look = looks.look(questions)
    ordinal = next((each.ordinal for each in looks.mine if each.questions == look), None)
    return _this(store, prefix, count(store, prefix), weights, look).ordinal if ordinal is None else ordinal


def count(store: Store, prefix: str) -> Count:
    """Return the tries since the last release. Raises UserError, also where one is missing before another."""
    released = _firsts(recalled_log(store, prefix).entries)
    after, since = len(released), released[-1].at if released else ""
    recorded = tuple(_counted(store, prefix, after))
    whole = len(recorded) >= recorded[0].older if recorded else bool(store.names(_lineage(prefix)))
    if whole:
        return Count(after, since, recorded, len(recorded))
    known = {*_pairs(recorded)}
    others = [
        each for each in _by_weights(store, prefix, since) if (each.weights, each.questions) not in known
    ]
    number = len(recorded) + len(others)
    older = (
        each._replace(ordinal=n, after=after, older=number, place=n)
        for n, each in enumerate(others, len(recorded) + 1)
    )
    return Count(after, since, (*recorded, *older), len(recorded))


def every_try(store: Store, prefix: str) -> list[Try]:
    """Return all tries of a variant, in order: those of an older store, which counted by weights, then count
    after count. Raises UserError for a record that cannot be read.
    """
    counts = sorted(int(name) for name in store.names(_lineage(prefix)))
    return [*_by_weights(store, prefix, ""), *(one for n in counts for one in _counted(store, prefix, n))]


def record_try(  # noqa: PLR0917
    store: Store,
    prefix: str,
    weights: str,
    questions: str,
    ordinal: int,
    reserve: Dealt | None = None,
    judged: Judged = ALONE,
) -> None:
    """Record that the weights are put to these questions, before they are. `reserve`: see `Try`. Raises
    UserError where the ordinal is another try's, and where a record is gone: of the try itself, or of a
    stored evaluation.
    """
    refuse_uncounted(store, prefix, weights)
    now = count(store, prefix)
    _refuse_gone(store, prefix, weights, now)
    looks = Looks.of(store, prefix, weights, judged)
    look = looks.look(questions)
    this = next((one for one in looks.mine if (one.questions, one.ordinal) == (look, ordinal)), None)
    if this is None:
        this = _this(store, prefix, now, weights, look)
        if this.ordinal != ordinal:
            raise _meanwhile(store, _count_of(prefix, now.after), this.place)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        this = this._replace(at=at, reserve=reserve)
        for each in (*now.tries[now.recorded :], *([this] if this.place == now.next else [])):
            _create(store, prefix, each)
    _note(store, prefix, this._replace(of=questions, judged=looks.by))
    if Looks.of(store, prefix, weights, judged).look(questions) != look:
        raise _meanwhile(store, _folder(prefix, weights), 1)


def _note(store: Store, prefix: str, this: Try) -> None:
    """Write a try beside the others of the same weights, unless all of it stands there."""
    record = {"questions": this.questions, "ordinal": this.ordinal, "after": this.after, "at": this.at}
    record |= {} if this.of == this.questions else {"of": this.of}
    record |= {} if this.place == this.ordinal else {"place": this.place}
    record |= {**_dealt(this.reserve), **({"judged": dict(this.judged)} if this.judged else {})}
    names = {*this.judged} - ({AGAINST} if this.questions != this.of else {*()})
    known = tries(store, prefix, this.weights)
    while this.questions not in {each.questions for each in known} or names - {*_noted(known, this.of)}:
        store.create_exclusively(_numbered(_folder(prefix, this.weights), len(known) + 1), _text(record))
        known = tries(store, prefix, this.weights)


def _noted(mine: Sequence[Try], questions: str) -> dict[str, str]:
    """Return by what records of these weights say that the answers to these questions were judged first, by
    name; what they were held against, by those of the first look at them alone.
    """
    found = dict[str, str]()
    for each in mine:
        if each.of == questions:
            other = each.questions != questions
            judged = {name: by for name, by in each.judged.items() if not (other and name == AGAINST)}
            found = {**judged, **found}
    return found


def tries(store: Store, prefix: str, weights: str) -> list[Try]:
    """Return the sets of questions that these weights were put to, in order. Raises UserError, also where one
    is missing before another.
    """
    found = list[Try]()
    for number, one in enumerate(_records(store, _folder(prefix, weights)), 1):
        ordinal, after = int(one.get("ordinal", number)), one.get("after")
        questions, place = str(one["questions"]), int(one.get("place", ordinal))
        made = Try(weights, questions, ordinal, str(one["at"]), after, _reserve_in(one), place=place)
        of, judged = str(one.get("of", questions)), dict(one.get("judged", {}))
        found.append(made._replace(of=of, judged=judged))
    return found


def refuse_unrecorded(store: Store, prefix: str, evaluated: Mapping[str, Iterable[int]]) -> None:
    """Raises UserError where evaluations say by their ordinals (by the digest of the weights) that these were
    put to questions, and that is not recorded.
    """
    for weights, ordinals in evaluated.items():
        known = tries(store, prefix, weights)
        gone = {*ordinals} - {each.ordinal for each in known}
        if gone:
            _refuse(store, _folder(prefix, weights), weights, min(gone))


def refuse_uncounted(store: Store, prefix: str, weights: str) -> None:
    """Raises UserError where weights were put to questions as a try of the variant that its count does not
    name.
    """
    for each in tries(store, prefix, weights):
        if each.after is not None:
            folder = _count_of(prefix, each.after)
            named = _records(store, folder)[each.place - 1 : each.place]
            if [(one["weights"], one["questions"]) for one in named] != [(weights, each.questions)]:
                _refuse(store, folder, weights, each.ordinal)


def records_of(store: Store, prefix: str, weights: str) -> list[str]:
    """Return the paths of the records that tell of these weights."""
    counts = {
        _count_of(prefix, each.after) for each in tries(store, prefix, weights) if each.after is not None
    }
    folders = (_folder(prefix, weights), *sorted(counts))
    return [f"{folder}/{name}" for folder in folders for name in store.names(folder)]


def folders_of_tries(store: Store, prefix: str) -> Iterator[str]:
    """Yield the folders of records of a variant, below its part of the store."""
    for name in store.names(f"{prefix}/tries"):
        if name == LINEAGE:
            yield from (f"tries/{LINEAGE}/{after}" for after in store.names(_lineage(prefix)))
        else:
            yield f"tries/{name}"


def read_folder(store: Store, prefix: str, folder: str) -> None:
    """Raises UserError where records of a folder cannot be read, or one is missing before another."""
    _records(store, f"{prefix}/{folder}")


def ordinals_of(made: Iterable[Artifact]) -> dict[str, set[int]]:
    """Return the ordinals that evaluations had, by the digest of their weights; those of an experiment have
    none.
    """
    found = defaultdict[str, set[int]](set)
    for each in made:
        if "tries" in each.spec:
            found[each.inputs.get(FINE_TUNED_MODEL.name, "")].add(int(each.spec["tries"]))
    return found


def _dealt(reserve: Dealt | None) -> dict[str, object]:
    """Return it as a record has it."""
    if reserve is None:
        return {}
    joined = {"joined": True} if reserve.joined else {}
    return {"reserve": {"sets": reserve.sets, "part": reserve.part, **joined}}


def _reserve_in(record: Mapping[str, Any]) -> Dealt | None:
    dealt = record.get("reserve")
    if dealt is None:
        return None
    sets = int(dealt["sets"])
    part = int(dealt["part"] if "part" in dealt else dealt["turn"] % sets + 1)
    return Dealt(sets, part, bool(dealt.get("joined")))


def _this(store: Store, prefix: str, now: Count, weights: str, questions: str) -> Try:
    """Return the try that it is in this count, the next where it is not among its tries."""
    pairs = _pairs(now.tries)
    if (weights, questions) in pairs:
        return now.tries[pairs.index((weights, questions))]
    ordinal = 1 + _before(store, prefix, now, weights)
    return Try(weights, questions, ordinal, "", now.after, place=now.next)


def _before(store: Store, prefix: str, now: Count, weights: str) -> int:
    """Count the tries before another one of these weights: those of this count; of weights that an earlier
    one tried and that were not released, all since that one began.
    """
    mine = tries(store, prefix, weights)
    released = _firsts(recalled_log(store, prefix).entries) if mine else []
    first = _count_in(mine[0], released) if mine else now.after
    if first == now.after or weights in {entry.weights for entry in released}:
        return len(now.tries)
    since = [each for each in every_try(store, prefix) if _count_in(each, released) >= first]
    return len({*_pairs(since), *_pairs(now.tries)})


def _count_in(one: Try, released: Sequence[ReleaseEntry]) -> int:
    """Return after how many releases of new weights a try came; of an older store, by its time."""
    return sum(_later(one.at, entry.at) for entry in released) if one.after is None else one.after


def _pairs(found: Iterable[Try]) -> list[tuple[str, str]]:
    return [(each.weights, each.questions) for each in found]


def _refuse_gone(store: Store, prefix: str, weights: str, now: Count) -> None:
    """Raises UserError where an evaluation of these weights, or of any since the last release, is not
    recorded.
    """
    known = {each.weights for each in now.tries} - {weights}
    made = (each for each in committed_in(store, prefix, EVALUATION.name) if isinstance(each, Artifact))
    doubtful = [
        each
        for each in made
        if (name := each.inputs.get(FINE_TUNED_MODEL.name)) == weights
        or (name not in known and _later(str(each.predicate["created"]), now.since))
    ]
    evaluated = ordinals_of(doubtful)
    refuse_unrecorded(store, prefix, evaluated)
    for each in evaluated:
        refuse_uncounted(store, prefix, each)


def _by_weights(store: Store, prefix: str, since: str) -> list[Try]:
    """Return what an older version recorded by weights alone, later than `since`, in the order of time."""
    found = dict[tuple[str, str], Try]()
    for name in store.names(f"{prefix}/tries"):
        for each in tries(store, prefix, name) if name != LINEAGE else ():
            if each.after is None and _later(each.at, since):
                found.setdefault((name, each.questions), each)
    return sorted(found.values(), key=lambda each: (_time(each.at), each.weights, each.ordinal))


def held_against(store: Store, prefix: str, weights: str) -> dict[str, str]:
    """Return what weights that an earlier count tried and did not release are held against, or were when they
    were released, as a part of `Judged.by`; nothing of others.
    """
    entries, mine = _before_release(store, prefix, weights), tries(store, prefix, weights)
    released = _firsts(entries)
    if not mine or _count_in(mine[0], released) >= len(released):
        return {}
    served = served_in(entries)
    return {AGAINST: "" if served is None else served.weights}


def _before_release(store: Store, prefix: str, weights: str) -> list[ReleaseEntry]:
    """Return the entries of the log before the release of these weights; all where they were not released."""
    entries = recalled_log(store, prefix).entries
    firsts = (n for n, entry in enumerate(entries) if entry.action == RELEASE and entry.weights == weights)
    return entries[: next(firsts, len(entries))]


def _firsts(entries: Iterable[ReleaseEntry]) -> list[ReleaseEntry]:
    """Return the first release of all weights that were released: another export of the same closes no
    count.
    """
    firsts = dict[str, ReleaseEntry]()
    for entry in entries:
        if entry.action == RELEASE:
            firsts.setdefault(entry.weights, entry)
    return list(firsts.values())


def _create(store: Store, prefix: str, one: Try) -> None:
    """Write a try into its count. Raises UserError where another is there."""
    folder = _count_of(prefix, one.after)
    record = {"weights": one.weights, "questions": one.questions, "at": one.at, **_dealt(one.reserve)}
    record |= {"older": one.older} if one.older else {}
    record |= {} if one.place == one.ordinal else {"ordinal": one.ordinal}
    store.create_exclusively(_numbered(folder, one.place), _text(record))
    written = _records(store, folder)[one.place - 1 : one.place]
    if [(each["weights"], each["questions"]) for each in written] != [(one.weights, one.questions)]:
        raise _meanwhile(store, folder, one.place)


def _counted(store: Store, prefix: str, after: int) -> Iterator[Try]:
    """Yield the recorded tries after so many releases of new weights."""
    for number, one in enumerate(_records(store, _count_of(prefix, after)), 1):
        dealt, older, ordinal = _reserve_in(one), int(one.get("older", 0)), int(one.get("ordinal", number))
        names = str(one["weights"]), str(one["questions"])
        yield Try(*names, ordinal, str(one["at"]), after, dealt, older, number)


def _meanwhile(store: Store, folder: str, number: int) -> UserError:
    return UserError(
        "another evaluation of the variant, or a release, came meanwhile",
        file=store.uri(_numbered(folder, number)),
        fix="Run it again",
    )


def _refuse(store: Store, folder: str, weights: str, ordinal: int) -> None:
    raise UserError(
        f"the weights {weights[:12]} were put to questions as try {ordinal}, and that is not recorded",
        file=store.uri(folder),
        fix=RESTORE,
    )


def _records(store: Store, folder: str) -> list[dict[str, Any]]:
    """Return the records of a folder, in order."""
    found: list[dict[str, Any]] = []
    while True:
        path = _numbered(folder, len(found) + 1)
        try:
            one = store.read_json(path)
            found.append({**one, "questions": one["questions"], "at": one["at"]})
        except FileNotFoundError:
            break
        except (ValueError, KeyError, TypeError):
            fix = "Restore the file from a backup"
            raise UserError("not a record of an evaluation", file=store.uri(path), fix=fix) from None
    if any(name > PurePosixPath(path).name for name in store.names(folder)):
        raise UserError("a record of an evaluation is missing", file=store.uri(path), fix=RESTORE)
    return found


def _text(record: Mapping[str, object]) -> bytes:
    return json.dumps({"schema_version": 2, **record}, indent=1).encode()


def _later(at: str, since: str) -> bool:
    return not since or _time(at) > _time(since)


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _lineage(prefix: str) -> str:
    return f"{prefix}/tries/{LINEAGE}"


def _count_of(prefix: str, after: int | None) -> str:
    return f"{_lineage(prefix)}/{after or 0:06d}"


def _folder(prefix: str, weights: str) -> str:
    return f"{prefix}/tries/{weights}"


def _numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"
