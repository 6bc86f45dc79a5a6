"""Removes what nothing needs (`store gc`), beside whoever commits, reuses and releases meanwhile.

What was made from others goes before them: who keeps an artifact (see `store.removal`) so keeps all that it
was made from. Killed at any point, the next call goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import inputs_first
from ft_dagster.lineage.reachable import Unreached, is_litter
from ft_dagster.lineage.retention import Rules
from ft_dagster.store.artifacts import Place
from ft_dagster.store.blobs import Store
from ft_dagster.store.remote_errors import outage, unreachable
from ft_dagster.store.removal import claim_removal, finish_removal


@dataclass(frozen=True)
class Outcome:
    """Reports what came of an artifact. `removed`: else it was taken into use since it was listed, or could
    not be removed (`error`), or that is so of something that was made from it.
    """

    of: Unreached
    removed: bool
    error: str | None = None


def collect(
    store: Store, found: Sequence[Unreached], being_made: Callable[[Place], bool], rules: Rules
) -> Iterator[Outcome]:
    """Remove what `unreached` found by the same rules. Raises UserError where the storage is out of reach."""
    kept: set[Place] = set()
    for one in _dependents_first(found):
        outcome = Outcome(one, removed=False)
        if one.place not in kept and not being_made(one.place):
            outcome = _remove(store, one, rules)
        if not outcome.removed:
            kept.update(one.above)  # these come later, and so keep theirs
        yield outcome


def _remove(store: Store, one: Unreached, rules: Rules) -> Outcome:
    try:
        if not _claimed(store, one, rules):
            return Outcome(one, removed=False)
        if one.artifact is not None:
            finish_removal(store, one.artifact, one.files)
        else:
            store.remove(f"{one.place.path}/{name}" for name in one.files)
            store.remove_empty(f"{one.place.path}/{one.attempt}")
    except Exception as error:
        if unreachable(error):
            fix = "Run it again: it goes on where it was"
            raise UserError(outage(error).problem, file=store.url, fix=fix) from error
        if not isinstance(error, OSError | UserError):
            raise
        return Outcome(one, removed=False, error=str(error))
    return Outcome(one, removed=True)


def _claimed(store: Store, one: Unreached, rules: Rules) -> bool:
    if one.artifact is None:
        return is_litter(store, one) and not _written_since(store, one)
    rule = rules.for_path(one.place.path)
    versions = "all versions" if rule.releases is None else f"the last {rule.releases} versions"
    why = f"nothing needed it, and retention is {rule.days:g} days and {versions}"
    return claim_removal(store, one.artifact, why, rules.before(one.place.path))


def _written_since(store: Store, one: Unreached) -> bool:
    """Say whether somebody goes on there since it was listed: another host's training, from old
    checkpoints.
    """
    return any(file.modified > one.written for file in store.walk(f"{one.place.path}/{one.attempt}"))


def _dependents_first(found: Sequence[Unreached]) -> list[Unreached]:
    """Order each artifact before those that it was made from; attempts that are none at the end."""
    at = defaultdict[Place, list[int]](list)
    for number, one in enumerate(found):
        at[one.place].append(number)

    def above(number: int) -> Iterator[int]:
        return (each for place in found[number].above for each in at.get(place, ()))

    ordered = [found[number] for number in inputs_first(range(len(found)), above)]
    return [one for one in reversed(ordered) if one.committed] + [one for one in ordered if not one.committed]
