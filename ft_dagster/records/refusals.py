"""Knows the records that were erased on request, by HMACs alone, so that none comes back.

The refusal key of a tenant is its own, in the keys' folder and never in the store: who has the store cannot
try a guessed text. Each record is compared exactly; one that is nearly it is another.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import read_erasures, states
from ft_dagster.records.record_keys import (
    BACKUP,
    REFUSALS,
    RESTORE,
    OwnerKeys,
    RecordKey,
    keys_of,
    owners,
    restore,
)
from ft_dagster.store import Store


def refusal_key(keys: Path, owner: str) -> RecordKey:
    """Return the refusal key of an owner, made on first use. Raises UserError as `keys_of`."""
    return _keys(keys, owner).current


def _keys(keys: Path, owner: str) -> OwnerKeys:
    """Return the refusal keys of an owner, in a pod those of its backup: it makes none."""
    backup = os.environ.get(BACKUP)
    if backup and owner not in owners(keys / REFUSALS):
        restore(keys, Path(backup))
        if owner not in owners(keys / REFUSALS):
            named = f"--tenant {owner}" if owner else "--shared"
            fix = f"Make the pod's Secret anew of what `ft-dagster audit key backup keys.json {named}` writes"
            problem = f"no refusal key of {owner or 'what all share'}, of whom an erasure was asked"
            raise UserError(problem, file=Path(backup), fix=fix)
    return keys_of(keys / REFUSALS, owner)


def refusals(key: RecordKey, identities: Iterable[bytes]) -> tuple[str, ...]:
    """Return what a request keeps of records: the HMAC-SHA256 of each identity, in order, hex."""
    return tuple(sorted({each.hex() for each in key.lookups(identities)}))


@dataclass(frozen=True)
class Refused:
    """Holds what is refused of an owner: by key, HMAC -> the day on which it was asked for."""

    by_key: tuple[tuple[RecordKey, Mapping[bytes, str]], ...] = ()

    def since(self, identity: bytes) -> str | None:
        """Return the day on which the erasure of a record was asked for; None of one that may be used."""
        found = (days.get(key.lookup(identity)) for key, days in self.by_key)
        return next((day for day in found if day is not None), None)


def refused_of(store: Store, keys: Path, owner: str, request: str | None = None) -> Refused:
    """Return what is refused of an owner, by one `request` or by all; nothing is read of the keys where
    nothing is. Raises UserError where the log cannot be read, and where a key is lost that it names: nothing
    could be compared.
    """
    days = defaultdict[str, dict[bytes, str]](dict)
    for state in states(read_erasures(store, owner)):
        if state.acts and request in (None, state.asked.request):
            asked = state.asked
            days[asked.key] |= {bytes.fromhex(one): asked.at[:10] for one in asked.refusals}
    if not days:
        return Refused()
    owned, found = _keys(keys, owner), []
    for name, by_hmac in days.items():
        key = owned.of_id(name)
        if key is None:
            problem = f"the refusal key {name} of {owner or 'what is shared'} is not here"
            fix = f"{RESTORE}: without it an erased record could come back"
            raise UserError(problem, file=keys / REFUSALS, fix=fix)
        found.append((key, by_hmac))
    return Refused(tuple(found))
