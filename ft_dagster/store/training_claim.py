"""Claims the right to train under a key, so that of two runs on two hosts one trains, and one commits.

`KEY/claims/training/000001.json`, `000002.json`, ...: who takes the claim creates the next number
exclusively, and again every quarter of an expiry as long as it holds it. The highest number counts: a run
that finds a higher one than its own has lost the claim, and can never get it back. The holder removes the
numbers below its own; the highest stays for ever, and says `ended` once its run gave the claim up.

How old a claim is, the storage's own clock says: the time of its file against that of one just written. A
claim that was not renewed for an expiry is taken over; for half of one where its run is said to have ended,
since the process of a run that is evicted still saves then; at once in the same work folder.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from threading import Event, Lock, Thread
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.numbered import highest_number, numbered, numbers
from ft_dagster.store.transfer import persist

log = logging.getLogger(__name__)
EXPIRY = 120.0  # seconds without a renewal, after which another run takes a claim over
RENEWALS = 4  # in an expiry: two that fail lose nothing
LOOKS = 24  # at the claim of another run, in an expiry
TRAINS, ENDED = "trains", "ended"
FOLDER = "claims/training"  # below a key


@dataclass(frozen=True)
class Holder:
    """Names who claims. `run_id`: its run. `work`: the id of its work folder, in which one process at a time
    builds under a key: what another process of that folder claimed before has ended.
    """

    run_id: str
    work: str
    host: str = field(default_factory=lambda: os.uname().nodename)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class TrainingClaim:
    """Is the claim of one run under one key, renewed by a thread of its own from `claimed` on."""

    def __init__(self, store: Store, key: str, holder: Holder, expiry: float) -> None:
        self._store, self._folder, self._holder = store, f"{key}/{FOLDER}", holder
        self._expiry = expiry
        self._number = 0
        self._lost: UserError | None = None
        self._turn = Lock()

    def refuse_lost(self) -> None:
        """Raises UserError once a renewal found that another run took over; does not ask the store."""
        if self._lost is not None:
            raise self._lost

    def check(self) -> None:
        """Ask the store. Raises UserError where another run took over."""
        with self._turn:
            self._look()
        self.refuse_lost()

    def holds(self) -> bool:
        """Ask the store, and say whether no other run took over."""
        with suppress(UserError):
            self.check()
        return self._lost is None

    def take(self, has_ended: Callable[[str], bool], say: Callable[[str], None]) -> None:
        """Wait until no other run holds the claim, and take it. `has_ended`: whether a run is known to have
        ended, by its id.
        """
        waits = False
        while True:
            number, other = persist(self._highest)
            if number == 0 or self._is_over(number, other, has_ended):
                if self._create(number + 1, TRAINS) and self._highest()[0] == number + 1:
                    self._number = number + 1
                    return
                continue
            if not waits:
                silence = self._silence(other, has_ended)
                say(
                    f"{_named(other)} trains this: it is waited for, until it ends, or has given no sign for "
                    f"{silence:.0f} s"
                )
            waits = True
            time.sleep(self._expiry / LOOKS)

    def renew(self) -> None:
        """Create the next number; what it stands on is seen before and after, and lost where that is not the
        highest.
        """
        with self._turn:
            below = self._look()
            if self._lost is None and not self._create(self._number + 1, TRAINS):
                self._lose()
            if self._lost is not None:
                return
            self._number += 1
            self._look()
            if self._lost is None:
                with suppress(PermissionError):  # a store in which nothing may be deleted keeps them
                    self._store.remove(numbered(self._folder, each) for each in below)

    def give_up(self) -> None:
        """Say that the run has ended, where it still holds the claim: the next one need not wait."""
        with self._turn:
            self._look()
            if self._lost is None and self._create(self._number + 1, ENDED):
                self._number += 1
                with suppress(PermissionError):
                    self._store.remove([numbered(self._folder, self._number - 1)])

    def _look(self) -> list[int]:
        """Return the numbers that there are; lost where the highest is not this run's."""
        there = numbers(self._store, self._folder)
        if self._lost is None and there[-1:] != [self._number]:
            self._lose()
        return there

    def _lose(self) -> None:
        number, other = self._highest()
        self._lost = UserError(
            f"{_named(other)} took this training over while this run gave no sign of life; what this run "
            "made since is not kept",
            file=self._store.uri(numbered(self._folder, number)),
            fix="Wait for that run; then run the variant again: it takes what was made",
        )

    def _is_over(self, number: int, other: dict[str, Any], has_ended: Callable[[str], bool]) -> bool:
        if other.get("claim") == ENDED or other.get("work") == self._holder.work:
            return True
        return self._age(number) > self._silence(other, has_ended)

    def _silence(self, other: dict[str, Any], has_ended: Callable[[str], bool]) -> float:
        """Return the seconds without a renewal after which another run's claim is taken over."""
        said = other.get("expiry_seconds")
        expiry = float(said) if isinstance(said, int | float) else self._expiry
        return expiry / 2 if has_ended(str(other.get("run_id"))) else expiry

    def _age(self, number: int) -> float:
        """Return the seconds since a number was created, by the storage's clock."""
        probe = f"{self._folder}/.clock.{uuid.uuid4().hex}"
        try:
            self._store.write(probe, b"")
            now = self._store.modified(probe)
            return now - self._store.modified(numbered(self._folder, number))
        except FileNotFoundError:  # renewed meanwhile, and removed
            return 0.0
        finally:
            with suppress(PermissionError):
                self._store.remove([probe])

    def _highest(self) -> tuple[int, dict[str, Any]]:
        """Return the highest number, and what its file says; {} where there is none, or it cannot be read."""
        number = highest_number(self._store, self._folder)
        try:
            said = self._store.read_json(numbered(self._folder, number)) if number else {}
        except (FileNotFoundError, ValueError):
            said = {}
        return number, said if isinstance(said, dict) else {}

    def _create(self, number: int, claim: str) -> bool:
        said = {"schema_version": 1, "claim": claim, "expiry_seconds": self._expiry, **asdict(self._holder)}
        return self._store.create_exclusively(numbered(self._folder, number), as_stored(said))


@contextmanager
def claimed(
    store: Store,
    key: str,
    holder: Holder,
    *,
    has_ended: Callable[[str], bool],
    say: Callable[[str], None],
    expiry: float | None = None,
) -> Iterator[TrainingClaim]:
    """Hold the claim to train under a key until this ends; waits for a run that holds it. `expiry`: seconds;
    None: EXPIRY.
    """
    claim = TrainingClaim(store, key, holder, EXPIRY if expiry is None else expiry)
    claim.take(has_ended, say)
    ended = Event()
    thread = Thread(target=_renew, args=(claim, claim._expiry / RENEWALS, ended), daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        ended.set()
        thread.join()
        try:
            claim.give_up()
        except Exception as error:  # it expires; what led here is told
            log.warning("%s: the claim to train could not be given up, and expires: %s", key, error)


def _renew(claim: TrainingClaim, seconds: float, ended: Event) -> None:
    while not ended.wait(seconds):
        try:
            claim.renew()
        except Exception as error:  # an outage of the store fails no training
            log.warning("the claim to train could not be renewed, and is tried again: %s", error)


def _named(other: dict[str, Any]) -> str:
    run, host = other.get("run_id"), other.get("host")
    return f"run {str(run)[:8]} on {host}" if run else "another run"
