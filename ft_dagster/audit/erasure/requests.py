"""Puts a request for an erasure into the log of each tenant that holds the records."""

from __future__ import annotations

from ft_dagster.audit.erasure.dry_run import ErasureDryRun
from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import (
    AT_ONCE_QUARANTINE,
    REQUEST,
    WHEN_REPLACED,
    ErasureEntry,
    append,
    new_request_id,
)
from ft_dagster.records.refusals import refusal_key, refusals
from ft_dagster.settings import Settings


def log_request(settings: Settings, found: ErasureDryRun, by: str, *, at_once: bool) -> list[ErasureEntry]:
    """Log the request for what a dry run found, and return its entry of each owner. `at_once`: no version
    that learned a record is served from then on. Raises UserError where nothing holds the records.
    """
    if not found.owners:
        fix = "`ft-dagster audit record` says what it was compared with"
        raise UserError("nothing here holds these records", field="FILE", fix=fix)
    identities = [bytes.fromhex(each) for one in found.records if one.places for each in one.exact]
    named, store, policies = new_request_id(), settings.open_store(), settings.policies()
    entries = []
    for owner in found.owners:
        key = refusal_key(settings.keys_folder, owner)
        asked = ErasureEntry(
            REQUEST,
            named,
            owner,
            by,
            found.reason,
            due=found.due,
            key=key.id,
            refusals=refusals(key, identities),
            records=sum(bool(one.places) for one in found.records),
            holders=len(found.held_by(owner)),
            retrains=tuple(each.variant for each in found.retrains if each.variant.startswith(f"{owner}.")),
            approvers=policies.of(owner).approvers,
            learned=found.learned_by(owner),
            served=tuple(each.weights for each in found.models if each.production and each.learned),
            quarantine=AT_ONCE_QUARANTINE if at_once else WHEN_REPLACED,
        )
        entries.append(append(store, owner, lambda _, asked=asked: asked))  # type: ignore[misc]
    return entries
