"""Who decides on what keeps a version from being served, and by which log, whoever writes or dies then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage import release as release_log
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.log import read_log
from ft_dagster.lineage.release import ReleaseRequest, history, promote, record_release, rollback
from ft_dagster.lineage.served import rollbacks
from ft_dagster.lineage.serving import Finding, Unserved, accepted, of_log
from ft_dagster.store import Store
from tests.lineage.releases import PREFIX, judged, put, released, served, why

PARENT = "tenants/acme/parent"
POLICY = Finding("policy", "gates.alpha", "the policy demands at most 0.1", "Serve another version")
BYTES = Finding("bytes", "certificate", "the certificate is of another payload", "Restore it")


def of_parent(store: Store) -> Callable[[Sequence[ReleaseEntry], ReleaseEntry], list[Finding]]:
    """Asks the log of the parent, as it is by then."""

    def asks(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> list[Finding]:
        back = rollbacks(history(store, PARENT)).values()
        known = accepted(past, entry, ("ann", "bob"))
        found = [Finding("parent", str(each.entry), f"its parent was {each.reason}", "") for each in back]
        return [*of_log(past, entry), *(each for each in found if each.what not in known)]

    return asks


def against(*versions: int, finding: Finding = POLICY) -> Callable[..., list[Finding]]:
    """Finds this against these versions."""
    return lambda past, entry: [*of_log(past, entry), *([finding] if entry.version in versions else [])]


def with_parent(store: Store) -> None:
    """Its parent has two versions, and it two that wait for ann or bob."""
    for content in ("p1", "p2"):
        candidate = judged(store, content)
        asked = ReleaseRequest("made", "ann")
        record_release(store, PARENT, candidate, asked, variant="acme.parent", run_id=None)
    released(store, "one", "two", approvers=("ann", "bob"))


def asked(store: Store, by: str, **more: Any) -> ReleaseRequest:
    return ReleaseRequest("read it", by, ("ann", "bob"), asks=of_parent(store), **more)


def take_back(store: Store) -> None:
    rollback(store, PARENT, why("rolled back"))


def test_a_promotion_that_another_host_was_faster_than_asks_again_about_the_log_it_is_to_stand_in(
    store: Store,
) -> None:
    """Between its decision and its entry ann's host promotes version 1, and the parent is rolled back."""
    with_parent(store)
    request, times = asked(store, "bob"), list[int]()

    def asks(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> Sequence[Finding]:
        found = request.asks(past, entry)
        times.append(len(past))
        if len(times) == 1:
            promote(store, PREFIX, 1, asked(store, "ann"))
            take_back(store)
        return found

    with pytest.raises(Unserved, match="its parent was rolled back"):
        promote(store, PREFIX, 2, replace(request, asks=asks))
    assert times == [2, 3]
    assert served(store) == 1
    assert [each.by for each in history(store, PREFIX)] == ["ann", "ann", "ann"]


def test_two_hosts_that_promote_while_the_parent_is_rolled_back_leave_a_log_that_says_who_was_first(
    store: Store,
) -> None:
    with_parent(store)

    def ask(by: str, version: int) -> bool:
        try:
            promote(store, PREFIX, version, asked(store, by))
        except Unserved:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        hosts = [pool.submit(ask, "ann", 1), pool.submit(ask, "bob", 2)]
        pool.submit(take_back, store).result()
        done = [host.result() for host in hosts]
    log = read_log(store, PREFIX)
    assert len(log.entries) == 2 + sum(done)
    assert log.uncounted == ()
    for version in (1, 2):  # whoever comes after it is refused, the one who was first is named
        found = of_parent(store)(log.entries, log.entries[version - 1])
        assert "parent" in [each.rule for each in found]
        assert not ask("ann", version)


@pytest.mark.parametrize("killed", ["create", "_mark"])
def test_who_was_killed_between_decision_and_entry_decided_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    """Before its file was there, or before the head counted it."""
    with_parent(store)

    def dies(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if killed == "create":
            patched.setattr(release_log, "append", dies)
        else:
            patched.setattr("ft_dagster.lineage.log._mark", dies)
        with pytest.raises(KeyboardInterrupt):
            promote(store, PREFIX, 1, asked(store, "ann"))
    assert served(store) is None
    take_back(store)
    with pytest.raises(Unserved, match="its parent was rolled back"):
        promote(store, PREFIX, 1, asked(store, "ann"))
    assert served(store) is None


def test_a_rolled_back_parent_is_overruled_by_force_with_a_reason_of_a_named_approver_alone(
    store: Store,
) -> None:
    with_parent(store)
    take_back(store)
    nobody = replace(asked(store, "ann"), approvers=())
    silent = replace(asked(store, "ann"), reason="")
    for request, force in ((asked(store, "ann"), False), (nobody, True), (silent, True)):
        with pytest.raises(Unserved, match="its parent was rolled back"):
            promote(store, PREFIX, 1, request, force=force)
    with pytest.raises(UserError, match="eve may not approve version 1"):
        promote(store, PREFIX, 1, asked(store, "eve"), force=True)
    entry = promote(store, PREFIX, 1, asked(store, "bob"), force=True)
    (back,) = rollbacks(history(store, PARENT)).values()
    assert (entry.accepted, entry.forced) == ((back.entry,), True)
    assert history(store, PREFIX)[-1] == entry
    assert promote(store, PREFIX, 1, asked(store, "ann")) == entry  # decided once
    promote(store, PARENT, 2, why("it was not"), force=True)
    take_back(store)  # for another reason: nobody decided on that
    with pytest.raises(Unserved, match="its parent was rolled back"):
        promote(store, PREFIX, 1, asked(store, "ann"))


@pytest.mark.parametrize("finding", [POLICY, BYTES])
def test_force_serves_nothing_that_the_policy_does_not_allow_or_of_other_bytes(
    store: Store, finding: Finding
) -> None:
    released(store, "one", approvers=("ann",))
    request = ReleaseRequest("mine", "ann", ("ann",), ("ann",), against(1, finding=finding))
    with pytest.raises(Unserved, match=finding.words):
        promote(store, PREFIX, 1, request, force=True)
    assert served(store) is None


def test_a_rollback_is_kept_from_what_would_be_worse_than_what_is_served(store: Store) -> None:
    released(store, "one", "two", "three")
    request = ReleaseRequest("worse", "eve", asks=against(1, 2))
    with pytest.raises(Unserved, match="the policy demands"):
        rollback(store, PREFIX, request)
    as_bad = ReleaseRequest("worse", "eve", asks=against(1, 2, 3))
    assert rollback(store, PREFIX, as_bad).production == 2
    assert rollback(store, PREFIX, replace(request, asks=against(2))).production == 1


def test_other_bytes_are_gone_back_to_by_nobody(store: Store) -> None:
    released(store, "one", "two")
    request = ReleaseRequest("x", "ann", ("ann",), ("ann",), against(1, 2, finding=BYTES))
    with pytest.raises(Unserved, match="the certificate is of another payload"):
        rollback(store, PREFIX, request, force=True)
    assert served(store) == 2


def test_a_rollback_needs_no_record_of_the_verdict_and_no_approval(store: Store) -> None:
    released(store, "one", "two")
    gone = Finding("verdict", "evaluation", "its evaluation is gone", "Restore it")
    waits = Finding("approval", "release.approvers", "it waits", "Approve it")
    request = ReleaseRequest("worse", "eve", ("ann",), asks=lambda past, entry: [gone, waits])
    assert rollback(store, PREFIX, request).production == 1


def test_only_an_approver_of_the_policy_goes_back_past_it(store: Store) -> None:
    released(store, "one", "two")
    request = ReleaseRequest("worse", "ann", ("ann", "bob"), ("bob",), against(1))
    for by, force in (("ann", True), ("bob", False)):
        with pytest.raises(Unserved, match="the policy demands") as refused:
            rollback(store, PREFIX, replace(request, by=by), force=force)
        assert refused.value.fix.endswith("or have bob go back to it by --force")
    assert rollback(store, PREFIX, replace(request, by="bob"), force=True).forced


def test_what_is_damaged_is_taken_back_though_it_cannot_be_asked_of(store: Store) -> None:
    released(store, "one", "two")

    def asks(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> list[Finding]:
        if entry.version == 2:
            raise UserError("its manifest is damaged", fix="Restore it")
        return []

    assert rollback(store, PREFIX, ReleaseRequest("worse", asks=asks)).production == 1


def test_a_release_that_may_not_be_served_enters_no_log(store: Store) -> None:
    with pytest.raises(Unserved, match="the policy demands"):
        put(store, judged(store), approvers=("ann",), asks=against(1))
    assert history(store, PREFIX) == []
