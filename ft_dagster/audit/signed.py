"""Says of artifacts whether whom the platform trusts signed them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.follow import MALFORMED
from ft_dagster.audit.index.index import Indexed
from ft_dagster.provenance.signing import TRUST_FILE
from ft_dagster.report.figures import counted
from ft_dagster.store.signatures import of_statement, signers


def signed_words(audit: Audit, wanted: Sequence[Indexed]) -> str:
    """Say whose signatures count, and how many manifests bear none of them."""
    trust = audit.store.trust
    if trust is None:
        return "nothing is signed: there is no trust.yaml, so whoever may write the store may have made it"
    signed = 0
    for each in wanted:
        with suppress(*MALFORMED):  # of one that cannot be read: it bears none
            content = audit.store.read(each.place.manifest_of(each.generation))
            kind, at = of_statement(content)
            signed += bool(signers(audit.store, each.place.prefix, content, kind, at))
    if without := len(wanted) - signed:
        of = f"without a signature that counts: {without:,} of {counted(len(wanted), 'manifest')}"
        return f"{of} (`ft-dagster trust unsigned` lists them)"
    return f"{counted(len(wanted), 'manifest')} signed by whom version {trust.version} of {TRUST_FILE} trusts"
