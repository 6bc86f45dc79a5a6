"""Says which set of a test split is asked, and which are fresh, where it is dealt into sets
(`evaluation.reserve`).

A set is fresh if no row of it can have been asked before, however the rows were dealt then: the records of
tries name each asking, and the stored evaluations say whether rows of the test split were among the
questions, and which. Rows that were added since are not told apart from those that were there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ft_dagster.lineage.tries import ALONE, Dealt, Judged, Looks, Try, count, every_try, refuse_uncounted
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL
from ft_dagster.store.artifacts import Artifact
from ft_dagster.store.blobs import Store
from ft_dagster.store.committed import committed_in

ROWS = ("task.test", "task.others")  # of an evaluation's inputs: files of the test split's rows
WHOLE = Dealt()
_Name = tuple[str, int]  # of an evaluation: weights, and which try; tries of several counts may have one


class Reserve(NamedTuple):
    """Names a set of a test split that is dealt into `sets`. `part`: its number, from 1; `fresh`: whether
    none of its rows was asked before its first use; `left`: how many of the other sets are fresh; `joined`:
    see `joined_sets`.
    """

    sets: int
    part: int
    fresh: bool
    left: int
    joined: bool = False

    @property
    def dealt(self) -> Dealt:
        return Dealt(self.sets, self.part, self.joined)

    @property
    def words(self) -> dict[str, int | bool]:
        """Return it as documents name it."""
        return {"sets": self.sets, "set": self.part, "fresh": self.fresh, "left": self.left}


class _Asked(NamedTuple):
    """Says which rows a try asked, and when. `place`: see `Try.order`."""

    place: tuple[int, int]
    weights: str
    dealt: Dealt


def reserve_of(
    store: Store,
    prefix: str,
    weights: str | None,
    sets: int,
    asked_in: Callable[[Dealt], str] | None = None,
    *,
    judged: Judged = ALONE,
) -> Reserve:
    """Return the set of the test split that these weights (None: new ones) are judged by, or would be. All of
    a count have one; the next count has a fresh one, or without any that which was not asked for longest.
    `asked_in`: the digest of today's questions by the set that is asked; weights keep the set in which they
    were asked these. Raises UserError for a record that cannot be read or is gone.
    """
    if weights is not None:
        refuse_uncounted(store, prefix, weights)
    now, found = count(store, prefix), every_try(store, prefix)
    asked, joined = list(_asked(store, prefix, found)), _joined(found)
    parts = [Dealt(sets, part, joined) for part in range(1, sets + 1)]
    dealt, place = _of_count(now.after, asked, sets) or _next(asked, parts), (now.after, now.next)
    looks = None if weights is None or asked_in is None else Looks.of(store, prefix, weights, judged)
    for each in looks.mine if looks else ():
        kept = each.reserve
        if looks and kept is not None and kept.sets == sets and asked_in and asked_in(kept) == each.questions:
            look = looks.look(each.questions)
            dealt, place = kept, next((one.order for one in looks.mine if one.questions == look), place)
    before = [one for one in asked if one.place < place and (one.place[0] != place[0] or one.dealt != dealt)]
    others = (part for part in parts if part != dealt)
    left = sum(not any(one.dealt.meets(other) for one in asked) for other in others)
    return Reserve(sets, dealt.part, not any(one.dealt.meets(dealt) for one in before), left, dealt.joined)


def joined_sets(store: Store, prefix: str) -> bool:
    """Say whether the rows of one first turn are dealt into one set: not in a variant that was asked a set by
    an older version, whose sets stay what they were. Raises UserError for a record that cannot be read.
    """
    return _joined(every_try(store, prefix))


def _joined(found: Iterable[Try]) -> bool:
    return all(each.reserve.joined for each in found if each.reserve is not None)


def splits_asked(
    store: Store, prefix: str, weights: str, ordinal: int, dealt: Dealt
) -> set[tuple[str, Dealt]]:
    """Return which sets of which test splits, by the sha256 of the file with the rows, stored evaluations
    asked before this try, whose set is `dealt`; none of its own set in its own count. Raises UserError for a
    record that cannot be read.
    """
    found = defaultdict[_Name, list[Try]](list)
    for each in every_try(store, prefix):
        found[each.weights, each.ordinal].append(each)
    this = next((one for one in reversed(found[weights, ordinal]) if one.reserve == dealt), None)
    asked = set[tuple[str, Dealt]]()
    for name, made in _evaluations(store, prefix):
        for one in _tries_of(made, found[name]):
            own = this is not None and (one.after, one.reserve) == (this.after, this.reserve)
            if not own and (this is None or one.order < this.order):
                files = (made.inputs[name] for name in ROWS if name in made.inputs)
                asked |= {(file, one.reserve or WHOLE) for file in files}
    return asked


def _tries_of(made: Artifact, named: Sequence[Try]) -> list[Try]:
    """Return which of the tries of its name an evaluation may be: those whose set it asked."""
    part = made.spec.get("task.part")
    return [one for one in named if part == (None if one.reserve is None else one.reserve.part)]


def _of_count(after: int, asked: Sequence[_Asked], sets: int) -> Dealt | None:
    """Return the set of the tries since the last release; None where none was asked yet. Weights of an
    earlier count that are put to their set again choose none for the others.
    """
    earlier = {(one.weights, one.dealt) for one in asked if one.place[0] < after}
    found = [
        one.dealt
        for one in asked
        if one.place[0] == after and one.dealt.sets == sets and (one.weights, one.dealt) not in earlier
    ]
    return found[-1] if found else None


def _next(asked: Sequence[_Asked], parts: Sequence[Dealt]) -> Dealt:
    """Return a set that was never asked, else that which was not asked for longest; the first of several."""
    never = (-2, 0)
    return min(parts, key=lambda part: max((o.place for o in asked if o.dealt.meets(part)), default=never))


def _asked(store: Store, prefix: str, found: Sequence[Try]) -> Iterator[_Asked]:
    """Yield which rows of the test split each of these tries asked; nothing of one that asked none."""
    unlike = _of_other_tasks(store, prefix) if any(each.reserve is None for each in found) else set()
    named = Counter((each.weights, each.ordinal) for each in found)
    for each in found:
        name = (each.weights, each.ordinal)
        if each.reserve is not None:
            yield _Asked(each.order, each.weights, each.reserve)
        elif name not in unlike or named[name] > 1:
            yield _Asked(each.order, each.weights, WHOLE)


def _of_other_tasks(store: Store, prefix: str) -> set[_Name]:
    """Return the evaluations, by name, that asked no row of the test split: other tasks were declared. What
    was recorded and has no evaluation asked all, as far as anybody knows.
    """
    without, rows = set[_Name](), set[_Name]()
    for one, made in _evaluations(store, prefix):
        (rows if any(name in made.inputs for name in ROWS) else without).add(one)
    return without - rows


def _evaluations(store: Store, prefix: str) -> Iterator[tuple[_Name, Artifact]]:
    """Yield the stored evaluations, each with its name."""
    for each in committed_in(store, prefix, EVALUATION.name):
        if isinstance(each, Artifact) and "tries" in each.spec:
            yield (each.inputs.get(FINE_TUNED_MODEL.name, ""), int(each.spec["tries"])), each
