"""Of two runs on two hosts that would train the same, one trains, and one commits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.store import Store, find_artifact
from ft_dagster.store.make import work_id
from ft_dagster.store.numbered import highest_number, numbered, numbers
from ft_dagster.store.training_claim import FOLDER, Holder, TrainingClaim, claimed
from tests.conditional_s3 import Proxy, serving
from tests.long import mostly_long
from tests.s3_server import S3Server
from tests.store.programs.claims import RECIPE

KEY = RECIPE.place.path
ROW = f"{KEY}/{FOLDER}"
EXPIRY = 4.0  # seconds
ON_S3 = 8.0  # whose clock has whole ones
PROGRAM = Path(__file__).with_name("programs") / "claims.py"


@dataclass(frozen=True)
class Site:
    """A store that many hosts see. Each process has a work folder of its own, as on another host."""

    store: Store
    options: dict[str, Any]
    folder: Path

    @property
    def expiry(self) -> float:
        """In seconds, of a claim."""
        return ON_S3 if self.options else EXPIRY


@pytest.fixture(params=["folder", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        url, options = str(tmp_path / "store"), {}
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            proxied, _ = stack.enter_context(serving(Proxy(server), server))
            url, options = f"s3://{server.bucket}/{tmp_path.name}", proxied.options
        yield Site(Store(url, options), options, tmp_path)


# What processes do is on S3 as on a folder, and takes longer there.
mostly_on_a_folder = pytest.mark.parametrize("site", mostly_long(["folder", "s3"], ["folder"]), indirect=True)


class Run:
    """A process that trains for so many seconds."""

    def __init__(self, site: Site, name: str, seconds: float = 1.0, work: str = "") -> None:
        self.work = site.folder / (work or f"work-{name}")
        self._file = site.folder / f"{name}.txt"
        command = [
            sys.executable, str(PROGRAM), site.store.url, json.dumps(site.options), str(self.work), name,
            str(seconds), str(site.expiry),
        ]  # fmt: skip
        with self._file.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._file.read_text()

    def wait_for(self, words: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        with suppress(ProcessLookupError):
            run.process.send_signal(signal.SIGCONT)
            run.process.kill()
            run.process.wait()


def committed_by(site: Site) -> str:
    """The run whose files are those of the artifact."""
    artifact = find_artifact(site.store, RECIPE.place)
    assert artifact is not None
    return artifact.read(site.store, "payload/weights").decode()


@pytest.mark.long
@mostly_on_a_folder
def test_a_run_that_was_stopped_past_its_expiry_ends_and_commits_nothing(site: Site, runs: list[Run]) -> None:
    runs.append(stopped := Run(site, "stopped", seconds=600.0))
    stopped.wait_for("holds")
    runs.append(other := Run(site, "other"))
    other.wait_for("run stopped on")
    stopped.process.send_signal(signal.SIGSTOP)
    assert other.end() == 0, other.said
    assert "committed" in other.said

    stopped.process.send_signal(signal.SIGCONT)
    assert stopped.end() == 3, stopped.said
    assert "run other on" in stopped.said
    assert "took this training over" in stopped.said
    assert committed_by(site) == "other"
    assert site.store.files_below(f"{KEY}/divergences") == {}


@pytest.mark.slow
@mostly_on_a_folder
def test_a_run_stopped_between_its_last_look_and_its_next_number_has_lost_too(
    site: Site, runs: list[Run]
) -> None:
    """What it creates then is below the highest, which nobody removes."""
    late = TrainingClaim(site.store, KEY, Holder("late", "its-work"), 0.0)
    late.take(lambda run: False, print)
    taken = TrainingClaim(site.store, KEY, Holder("taken", "other-work"), site.expiry)
    time.sleep(2.1 if site.options else 0.1)  # S3's clock has whole seconds
    taken.take(lambda run: False, print)
    for _ in range(3):
        taken.renew()
    taken.give_up()
    assert numbers(site.store, ROW) == [6]  # the numbers below were removed
    assert late._create(late._number + 1, "trains")  # it never saw them
    late._number += 1
    assert not late.holds()
    with pytest.raises(UserError, match="run taken on"):
        late.check()


@pytest.mark.slow
@mostly_on_a_folder
def test_a_run_that_was_killed_is_taken_over_after_its_expiry(site: Site, runs: list[Run]) -> None:
    runs.append(killed := Run(site, "killed", seconds=600.0))
    killed.wait_for("holds")
    runs.append(other := Run(site, "other"))
    other.wait_for("run killed on")
    time.sleep(site.expiry * 1.5)  # as long as it renews its claim it is waited for
    assert "holds" not in other.said
    killed.process.kill()
    killed.process.wait()
    began = time.monotonic()
    assert other.end() == 0, other.said
    assert time.monotonic() - began > site.expiry / 2
    assert committed_by(site) == "other"


@pytest.mark.long
@mostly_on_a_folder
def test_a_run_that_is_said_to_have_ended_is_waited_for_while_it_gives_signs_of_life(
    site: Site, runs: list[Run]
) -> None:
    """As one whose pod is evicted, which saves what the next one goes on from."""
    runs.append(evicted := Run(site, "known-to-have-ended", seconds=600.0))
    evicted.wait_for("holds")
    runs.append(other := Run(site, "next"))
    other.wait_for(f"given no sign for {site.expiry / 2:.0f} s")
    time.sleep(site.expiry)
    assert "holds" not in other.said
    evicted.process.kill()
    evicted.process.wait()
    began = time.monotonic()
    assert other.end() == 0, other.said
    assert time.monotonic() - began > site.expiry / 4
    assert committed_by(site) == "next"


@pytest.mark.slow
@mostly_on_a_folder
def test_a_killed_run_of_the_same_work_folder_is_not_waited_for(site: Site, runs: list[Run]) -> None:
    """By the lock of the folder that it built in."""
    runs.append(killed := Run(site, "killed", seconds=600.0, work="work-next"))
    killed.wait_for("holds")
    killed.process.kill()
    killed.process.wait()
    runs.append(other := Run(site, "next"))
    assert other.end() == 0, other.said
    assert "waited for" not in other.said
    assert committed_by(site) == "next"


@pytest.mark.slow
@mostly_on_a_folder
def test_a_run_that_waited_for_one_that_committed_takes_what_that_made(site: Site, runs: list[Run]) -> None:
    runs.append(first := Run(site, "first", seconds=600.0))
    first.wait_for("holds")
    runs.append(second := Run(site, "second"))
    second.wait_for("waited for")
    (first.work / "finish").touch()
    assert [first.end(), second.end()] == [0, 0], first.said + second.said
    assert "reused" in second.said
    assert "holds" not in second.said
    assert committed_by(site) == "first"


def test_a_copied_work_folder_is_another(tmp_path: Path) -> None:
    """Else a run in the copy would take the claim of one that trains."""
    name = work_id(tmp_path / "work")
    assert work_id(shutil.copytree(tmp_path / "work", tmp_path / "copy")) != name
    assert work_id(tmp_path / "work") == name


def test_the_storages_clock_says_how_old_a_claim_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    TrainingClaim(store, KEY, Holder("before", "w"), EXPIRY).take(lambda run: False, print)
    said: list[str] = []

    def age_it(seconds: float) -> None:
        """In place of waiting."""
        monkeypatch.undo()
        said.append("looked")
        at = time.time() - EXPIRY - 1
        os.utime(store.path(numbered(ROW, 1)), (at, at))

    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10 * EXPIRY)  # this host's clock is wrong
    monkeypatch.setattr(time, "sleep", age_it)
    after = TrainingClaim(store, KEY, Holder("after", "v"), EXPIRY)
    after.take(lambda run: False, said.append)
    assert [line[:3] for line in said] == ["run", "loo"]
    assert after.holds()


def test_a_claim_that_was_given_up_is_taken_at_once(any_store: Store) -> None:
    for name in ("first", "second"):
        with claimed(
            any_store, KEY, Holder(name, name), has_ended=lambda run: False, say=pytest.fail
        ) as claim:
            assert claim.holds()
            claim.renew()
            assert claim.holds()
    assert numbers(any_store, ROW) == [6]
    assert any_store.files_below(KEY) == {
        f"{FOLDER}/000006.json": any_store.files_below(KEY)[f"{FOLDER}/000006.json"]
    }


@pytest.mark.slow
def test_a_claim_that_nobody_can_read_expires_as_any(any_store: Store) -> None:
    any_store.write(numbered(ROW, 7), b"{")
    said: list[str] = []
    with claimed(
        any_store, KEY, Holder("next", "w"), has_ended=lambda run: False, say=said.append, expiry=1.0
    ) as claim:
        assert claim.holds()
    assert said == ["another run trains this: it is waited for, until it ends, or has given no sign for 1 s"]
    assert highest_number(any_store, ROW) >= 9
