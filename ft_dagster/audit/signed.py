"""Says of artifacts whether whom the platform trusts signed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.follow import MALFORMED
from ft_dagster.audit.index.index import Indexed
from ft_dagster.errors import UserError
from ft_dagster.lineage.statements import beside_artifacts, is_signed
from ft_dagster.provenance.signing import TRUST_FILE
from ft_dagster.report.figures import counted
from ft_dagster.store.signatures import of_statement, signers

BESIDE = "entry of a log or amendment", "entries of logs and amendments"


def signed_words(audit: Audit, wanted: Sequence[Indexed], *, logs: bool = False) -> str:
    """Say whose signatures count, and how many manifests bear none of them; with `logs` also of what stands
    beside them: entries of logs, amendments.
    """
    trust = audit.store.trust
    if trust is None:
        return "nothing is signed: there is no trust.yaml, so whoever may write the store may have made it"
    signed = 0
    for each in wanted:
        with suppress(*MALFORMED):  # of one that cannot be read: it bears none
            content = audit.store.read(each.place.manifest_of(each.generation))
            kind, at = of_statement(content)
            signed += bool(signers(audit.store, each.place.prefix, content, kind, at))
    beside = list(_beside(audit)) if logs else []
    kinds = [(len(wanted), signed, "manifest", ""), (len(beside), sum(beside), *BESIDE)]
    lacking = [f"{all_ - with_:,} of {counted(all_, *name)}" for all_, with_, *name in kinds if all_ > with_]
    if lacking:
        lists = "(`ft-dagster trust unsigned` lists them)"
        return f"without a signature that counts: {' and '.join(lacking)} {lists}"
    whole = " and ".join(counted(all_, *name) for all_, _, *name in kinds if all_ or name[0] == "manifest")
    return f"{whole} signed by whom version {trust.version} of {TRUST_FILE} trusts"


def _beside(audit: Audit) -> Iterator[bool]:
    """Yield whether each statement that is no artifact's is signed; nothing of a log or an amendment that
    cannot be read, of which another check tells.
    """
    files = list(audit.store.walk())
    for part in beside_artifacts(audit.store, files, audit.tenant):
        with suppress(UserError, *MALFORMED):
            yield from [is_signed(audit.store, one) for one in part]
