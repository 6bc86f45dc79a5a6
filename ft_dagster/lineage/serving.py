"""Says why a version may not be served: the findings of `stages.judging.may_serve`, and who decides on them.

Each act that puts a version before users asks for them, and is refused by what nobody there may decide:

    bytes, policy         nobody: other bytes than were judged, or below a floor of today's policy
    verdict               nobody, but a rollback takes the log's word: its evaluation is gone
    erasure               nobody: it learned a record whose erasure was asked for
    parent                a named approver, by force with a reason: what it was made on was rolled back
    rolled_back           by force with a reason: it was rolled back itself
    unmeasured, approval  a named approver, by approving it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import PROMOTE, ReleaseEntry
from ft_dagster.lineage.served import rolled_back, versions_in

ServingRule = Literal[
    "bytes", "verdict", "policy", "erasure", "parent", "rolled_back", "unmeasured", "approval"
]
APPROVED: tuple[ServingRule, ...] = ("parent", "unmeasured", "approval")  # what an approver may decide on
ROLLED_BACK_FIX = "Release other weights, or promote it by force with a reason"


class Finding(NamedTuple):
    """Says why a version may not be served today. `what`: the field of the policy, the part of the proof, the
    rollback of a release that it was made on; `words`: a sentence; `fix`: the way out; `field`, `value`: what
    a person declared or named.
    """

    rule: ServingRule
    what: str
    words: str
    fix: str
    field: str | None = None
    value: Any = None

    def to_json(self) -> dict[str, str]:
        """Return what a person is told."""
        return {"rule": self.rule, "what": self.what, "words": self.words, "fix": self.fix}


class Standing(NamedTuple):
    """Names a version in production that may no longer be served, with the `findings`. `withheld`: the policy
    has catalogue, registry and `release` refuse it.
    """

    variant: str
    version: int
    findings: tuple[Finding, ...]
    withheld: bool

    @property
    def said(self) -> str:
        rules = ", ".join(dict.fromkeys(each.rule for each in self.findings))
        more = "; it is withheld from catalogue and registry" if self.withheld else ""
        return (
            f"{self.variant} v{self.version} is in production and may no longer be served ({rules}): "
            f"{said(self.findings)}{more}"
        )

    def to_json(self) -> dict[str, object]:
        findings = [each.to_json() for each in self.findings]
        return {**self._asdict(), "findings": findings}


class Unserved(UserError):
    """Refuses to serve a version. `findings`: all that keep it from being served, at least one."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        super().__init__(
            said(self.findings),
            fix="; ".join(dict.fromkeys(each.fix for each in self.findings)),
            field=first.field,
            value=first.value,
        )

    def __reduce__(self) -> Any:
        return Unserved, (self.findings,)


Asks = Callable[[Sequence[ReleaseEntry], ReleaseEntry], Sequence[Finding]]  # of a log and a version in it


def said(findings: Iterable[Finding]) -> str:
    """Return what was found, in one sentence without its full stop."""
    return "; ".join(each.words for each in findings)


def may_serve_words(findings: Sequence[Finding]) -> str:
    """Return "yes", or "no" with each rule and why."""
    return f"no: {'; '.join(f'{each.rule}: {each.words}' for each in findings)}" if findings else "yes"


def refuse(findings: Iterable[Finding]) -> None:
    """Raises Unserved for findings, where there are any."""
    found = tuple(findings)
    if found:
        raise Unserved(found)


def of_log(past: Sequence[ReleaseEntry], entry: ReleaseEntry, approvers: Sequence[str] = ()) -> list[Finding]:
    """Return what a log itself says against a version of it. `approvers`: who may approve it today; none:
    anyone.
    """
    return [*_of_rollback(past, entry), *_of_approval(past, entry, approvers)]


def accepted(past: Sequence[ReleaseEntry], entry: ReleaseEntry, approvers: Sequence[str]) -> set[str]:
    """Return the rollbacks of parents in spite of which an approver of today put a version into
    production.
    """
    return {
        what
        for each in past
        if each.version == entry.version and each.by in approvers and not each.by_name_alone
        for what in each.accepted
    }


def _of_rollback(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> Iterator[Finding]:
    why = rolled_back(past).get(entry.version)
    if why is not None:
        words = f"version {entry.version} was rolled back: {why}"
        yield Finding("rolled_back", "version", words, ROLLED_BACK_FIX, "version", entry.version)


def _of_approval(
    past: Sequence[ReleaseEntry], entry: ReleaseEntry, approvers: Sequence[str]
) -> Iterator[Finding]:
    if _is_approved(past, entry, approvers):
        return
    number, who = entry.version, " or ".join(approvers)
    fix = f"`ft-dagster release {entry.variant} --version {number}` by {who} approves it"
    if doubt := versions_in(past)[number].doubt:
        name = "Mend what it says, or name in release.approvers who decides: it then waits for them"
        yield Finding("unmeasured", "version", doubt, fix if approvers else name, "release.approvers")
    if approvers:
        before = [*dict.fromkeys(each.by for each in past if each.production == number)]
        words = f"version {number} waits for approval by {who}"
        if before:
            put = f"{', '.join(before)} put version {number} into production"
            words = f"{put}, and {who} may approve it today"
        yield Finding("approval", "release.approvers", words, fix, "release.approvers", before or None)


def _is_approved(past: Sequence[ReleaseEntry], entry: ReleaseEntry, approvers: Sequence[str]) -> bool:
    """Say whether one of those who may approve a version today promoted it; none named: whether anyone
    did.
    """
    promoted = [each for each in past if each.action == PROMOTE and each.version == entry.version]
    return any(not approvers or (each.by in approvers and not each.by_name_alone) for each in promoted)
