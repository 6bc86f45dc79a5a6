"""A Job from its start to its end: why it waits, what its pods print, how it ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_kubernetes.api import ApiServerSilent, Json, KubernetesApi
from ft_dagster.launch.on_kubernetes.pods import (
    BROKEN,
    NEVER,
    UNPLACED,
    Waits,
    disrupted,
    ended,
    made_at,
    waits,
)

POLL_SECONDS = 2.0
SAID_AGAIN = 600.0  # seconds after which why it waits is said again, though nothing changed
CHANGED_SAID = 60.0  # and at the least where something did
OVERLAP = 5.0  # seconds of a log that are read again, for what was on its way
SETTLING = 20.0  # seconds that a pod may not be placed, or have no image, without a word: most soon have
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
Say = Callable[[str], None]
Moment = tuple[datetime, int]  # to the second in UTC, and nanoseconds


class JobPatience(NamedTuple):
    """Seconds that a Job may wait: for a node, and for what a broken pod needs (an image, a Secret)."""

    unplaced: float
    broken: float


class JobFollower:
    """Follows one Job of a namespace by polling; what it says it says once."""

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        patience: JobPatience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self.namespace, self.name = api, namespace, name
        self._patience, self._clock = patience, clock
        self._waits: Waits | None = None
        self._since = self._said_at = 0.0
        self._logs: dict[str, LogLines] = {}
        self._read_out: set[str] = set()
        self._disrupted: set[str] = set()
        self._silent_since: float | None = None

    def poll(self, say: Say, out: Callable[[str], None]) -> int | None:
        """One look: its exit code once it has ended. `say` is told what people should know, `out` every
        line that its pods print. Raises ProgramFailed, and UserError where the API server refuses.
        """
        try:
            code = self._look(say, out)
        except ApiServerSilent as silent:
            self._say_silence(str(silent), say)
            return None
        if self._silent_since is not None:
            say(f"the API server answers again, after {self._clock() - self._silent_since:.0f} s")
            self._silent_since = None
        return code

    def _look(self, say: Say, out: Callable[[str], None]) -> int | None:
        job = self._api.job(self.namespace, self.name)
        if job is None:
            raise ProgramFailed(
                f"its Job {self.name} was deleted by somebody",
                "Run it again: it goes on from the newest complete checkpoint in the store",
                mendable=True,
            )
        pods = self._api.pods(self.namespace, self.name)
        end = ended(job, pods)
        self._say_disruptions(pods, say)
        for pod in sorted(pods, key=made_at):
            self._pass_on(pod, say, out)
        if isinstance(end, ProgramFailed):
            raise end
        if end is None:
            events = [] if pods else self._api.events(self.namespace, self.name)
            self._wait(waits(job, pods, events), say)
        return end

    def _wait(self, found: Waits | None, say: Say) -> None:
        """Say why it waits as soon as that is no passing state; raises ProgramFailed once it is too long."""
        now = self._clock()
        if found is None:
            self._waits = None
            return
        if self._waits is None or self._waits.patience != found.patience:
            self._since, self._said_at = now, -SAID_AGAIN
        waited, changed = now - self._since, self._waits is not None and self._waits.why != found.why
        self._waits = found
        limit = {UNPLACED: self._patience.unplaced, BROKEN: self._patience.broken, NEVER: 0.0}.get(
            found.patience
        )
        if limit is not None and waited >= limit:
            raise _never_started(found, waited)
        silent = now - self._said_at
        if waited >= SETTLING and silent >= (CHANGED_SAID if changed else SAID_AGAIN):
            self._said_at = now
            say(f"waits for {waited:.0f} s: {found.why}")

    def _say_disruptions(self, pods: list[Json], say: Say) -> None:
        for pod in pods:
            name, why = pod["metadata"]["name"], disrupted(pod)
            if why is not None and name not in self._disrupted:
                self._disrupted.add(name)
                say(f"Kubernetes takes pod {name} away ({why}) and starts it again where there is room")

    def _pass_on(self, pod: Json, say: Say, out: Callable[[str], None]) -> None:
        """The new lines of a pod, until it has ended and all were read."""
        name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase")
        if phase == "Pending" or name in self._read_out:
            return
        if name not in self._logs:
            node = pod.get("spec", {}).get("nodeName")
            say(f"pod {name} runs" + (f" on {node}" if node else ""))
            self._logs[name] = LogLines()
        log, now = self._logs[name], self._clock()
        since = None if log.read_at is None else now - log.read_at + OVERLAP
        lines = self._api.log(self.namespace, name, since)
        if lines is None:
            return
        for line in log.new(lines):
            out(line)
        log.read_at = now
        if phase in ("Succeeded", "Failed"):
            self._read_out.add(name)

    def _say_silence(self, why: str, say: Say) -> None:
        if self._silent_since is None:
            self._silent_since = self._clock()
            say(f"{why}; the Job {self.name} goes on without us, asked again every {POLL_SECONDS:.0f} s")


class LogLines:
    """Of one pod: which lines were passed on already, by their times."""

    def __init__(self) -> None:
        self.read_at: float | None = None
        self._last: Moment = (datetime.min.replace(tzinfo=UTC), 0)
        self._at_last = 0  # lines of that very time
        self._word = ""  # of its node, in place of a log: such a line has no time

    def new(self, lines: list[str]) -> list[str]:
        """Those not seen before, without their times."""
        found, seen, passed = [], 0, False
        for number, line in enumerate(lines):
            stamp, _, text = line.partition(" ")
            moment = _moment(stamp)
            if moment is None:  # goes with the line before it, which had a carriage return
                text = line
                if number == 0:
                    passed, self._word = line != self._word, line
            elif moment == self._last:
                seen += 1
                passed, self._at_last = seen > self._at_last, max(seen, self._at_last)
            elif passed := moment > self._last:
                self._last, self._at_last, seen = moment, 1, 1
            if passed:
                found.append(text)
        return found


def _moment(stamp: str) -> Moment | None:
    """When a line was printed: nodes write their local time, whose clocks go back once a year."""
    parts = _STAMP.fullmatch(stamp)
    if parts is None:
        return None
    second, fraction, offset = parts.groups()
    try:
        at = datetime.fromisoformat(second + offset).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at, int((fraction or "").ljust(9, "0"))


def _never_started(found: Waits, waited: float) -> ProgramFailed:
    """It waits for what a person has to mend."""
    if found.patience == UNPLACED:
        fix = "Ask for less in `resources`, add nodes or quota, or raise kubernetes.pending_minutes"
        return ProgramFailed(
            f"no node took its pod in {waited / 60:.0f} min: {found.why}", fix, mendable=False
        )
    fix = "Mend kubernetes.image, its pull secrets or the profile's Secret in ft_dagster.yaml and the cluster"
    return ProgramFailed(f"its pod cannot start: {found.why}", fix, mendable=False)
