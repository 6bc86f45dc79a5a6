"""Checkpoints of a training in the store, while it runs: whole or absent, and all that one goes on from."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.store import Store
from ft_dagster.store.checkpoint_mirror import CheckpointMirror, Mirrored, forget, newest_in_store
from ft_dagster.training import checkpoints
from ft_dagster.training.checkpoints import MANIFEST, commit, complete, folder_of, unusable
from tests.s3_server import S3Server, free_port, start_s3
from tests.store.signing_keys import trust
from tests.troubled_s3 import Trouble, trouble

PLACE = "tenants/acme/support/fine_tuned_model/" + "0" * 64 + "/nodes/evidence"
FILES = Mirrored(PLACE, "output/checkpoints", MANIFEST, ("output/evidence", "run.json"))


class Host:
    """A host's folder of one training, and its mirror."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder, self.root = folder, folder / "output" / "checkpoints"
        self.root.mkdir(parents=True)
        self.said: list[str] = []
        self.holds = True
        self.mirror = CheckpointMirror(store, FILES, folder, lambda: self.holds, self.said.append, unusable)

    def save(self, step: int, weights: str = "weights") -> None:
        """As the trainer saves a checkpoint, and logs."""
        folder = folder_of(self.root, step)
        checkpoints.discard(folder)
        (folder / "states").mkdir(parents=True)
        (folder / "weights").write_text(f"{weights} {step}")
        (folder / "states" / "rng").write_bytes(b"%d" % step)
        commit(folder, step, "recipe", None)
        (self.folder / "output" / "evidence").mkdir(exist_ok=True)
        with (self.folder / "output" / "evidence" / "log.jsonl").open("a") as log:
            log.write(f"{step}\n")
        (self.folder / "run.json").write_text("{}")

    def drop(self, step: int) -> None:
        checkpoints.discard(folder_of(self.root, step))

    @property
    def steps(self) -> list[int]:
        found = complete(self.root)
        assert all(checkpoints.damage(each) is None for each in found)
        return [each.step for each in found]


def on(store: Store, folder: Path) -> Host:
    """Another host, with what it finds in the store."""
    host = Host(store, folder)
    host.mirror.fetch()
    return host


def whole(store: Store) -> list[int]:
    """The steps whose checkpoints are there with all their files, and nothing of others."""
    found = store.files_below(f"{PLACE}/{FILES.checkpoints}")
    names = {path.split("/")[0] for path in found}
    parts = ("weights", "states/rng", MANIFEST)
    assert {f"{name}/{part}" for name in names for part in parts} == set(found)
    return sorted(int(name.rpartition("-")[2]) for name in names)


def test_a_training_goes_on_elsewhere_from_all_that_was_kept(any_store: Store, tmp_path: Path) -> None:
    first = Host(any_store, tmp_path / "first")
    for step in (50, 100):
        first.save(step)
    assert first.mirror.keep()
    first.save(150)
    first.drop(50)
    assert first.mirror.keep()
    assert whole(any_store) == [100, 150]
    assert newest_in_store(any_store, FILES) == f"{PLACE}/{FILES.checkpoints}/checkpoint-150"

    second = on(any_store, tmp_path / "second")
    assert second.steps == [100, 150]
    assert (second.folder / "output/evidence/log.jsonl").read_text() == "50\n100\n150\n"
    assert (second.folder / "run.json").exists()
    assert "checkpoint-150 is brought here" in second.said[0]
    second.save(200)
    second.drop(100)
    assert second.mirror.keep()
    assert whole(any_store) == [150, 200]
    forget(any_store, PLACE)
    assert any_store.files_below(PLACE) == {}
    assert newest_in_store(any_store, FILES) is None
    assert on(any_store, tmp_path / "third").steps == []


def test_what_a_training_left_that_was_ordered_from_a_cluster_is_gone_on_from_and_all_forgotten(
    any_store: Store, tmp_path: Path
) -> None:
    """As stores have it from when trainings alone were sent away: an order, no run.json, and a list of the
    output where the node had ended.
    """
    node = Host(any_store, tmp_path / "node")
    node.save(50)
    assert node.mirror.keep()
    any_store.remove([f"{PLACE}/run.json"])
    attempt = "0" * 32
    order = {"schema_version": 2, "attempt": attempt, "module": "ft_dagster.training", "request": {}}
    any_store.write_json(f"{PLACE}/order.json", order)
    any_store.write_json(f"{PLACE}/written-{attempt}.json", {"exit_code": 75, "files": {}})
    any_store.write(f"{PLACE}/output/result.json", b"{}")
    host = on(any_store, tmp_path / "host")
    assert host.steps == [50]
    assert (host.folder / "output/evidence/log.jsonl").read_text() == "50\n"
    found = {str(file.relative_to(host.folder)) for file in host.folder.rglob("*.json")}
    assert found == {f"output/checkpoints/checkpoint-50/{MANIFEST}"}
    forget(any_store, PLACE)
    assert any_store.files_below(PLACE) == {}


@pytest.mark.slow
def test_older_checkpoints_are_sent_first_and_what_makes_one_whole_last(
    s3_server: S3Server, tmp_path: Path
) -> None:
    """100 sorts before 50 by its name; a training that went on from 100 alone would choose among fewer."""
    with trouble(s3_server) as (server, troubles):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path)
        host = Host(store, tmp_path / "host")
        for step in (100, 50):
            host.save(step)
        assert host.mirror.keep()
        sent = [each.address.rpartition("output/")[2] for each in troubles.log if each.method == "PUT"]
    assert sent[:1] == ["evidence/log.jsonl"]
    order = [path.removeprefix("checkpoints/") for path in sent if path.startswith("checkpoints/")]
    assert [path.split("/")[0] for path in order] == ["checkpoint-50"] * 3 + ["checkpoint-100"] * 3
    assert [path.endswith(MANIFEST) for path in order] == [False, False, True] * 2
    assert sent.count("evidence/log.jsonl") == 1  # nothing was logged between the two


@pytest.mark.long
def test_what_is_half_sent_is_no_checkpoint_and_is_sent_again(s3_server: S3Server, tmp_path: Path) -> None:
    with trouble(s3_server) as (server, troubles):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path)
        host = Host(store, tmp_path / "host")
        host.save(50)
        assert host.mirror.keep()
        host.save(100)
        troubles.ahead.append(Trouble("PUT", "checkpoint-100/weights", "503", times=10**6))
        with pytest.raises(OSError, match="reduce your request rate"):
            host.mirror.keep()
        assert on(store, tmp_path / "another").steps == [50]
        troubles.ahead.clear()
        assert host.mirror.keep()
        assert whole(store) == [50, 100]


def test_a_run_that_lost_its_claim_sends_nothing(any_store: Store, tmp_path: Path) -> None:
    host = Host(any_store, tmp_path / "host")
    host.save(50)
    assert host.mirror.keep()
    host.save(100)
    host.drop(50)
    host.holds = False
    assert not host.mirror.keep()
    assert whole(any_store) == [50]
    host.holds = True
    asked = iter((True, False))  # lost while the files were sent
    host.mirror.holds = lambda: next(asked)
    assert not host.mirror.keep()
    assert newest_in_store(any_store, FILES) == f"{PLACE}/{FILES.checkpoints}/checkpoint-50"


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["weights", MANIFEST])
def test_a_checkpoint_that_does_not_verify_is_not_used_and_is_sent_anew(
    any_store: Store, tmp_path: Path, damaged: str
) -> None:
    first = Host(any_store, tmp_path / "first")
    for step in (50, 100):
        first.save(step)
    assert first.mirror.keep()
    any_store.write(f"{PLACE}/{FILES.checkpoints}/checkpoint-100/{damaged}", b"{}")
    second = on(any_store, tmp_path / "second")
    assert second.steps == [50]
    (said, brought) = second.said
    assert "checkpoint-100: " in said
    assert said.endswith("it is not used")
    assert "checkpoint-50 is brought here" in brought
    second.save(100)  # the same bytes: the trainer makes it again
    assert second.mirror.keep()
    assert on(any_store, tmp_path / "third").steps == [50, 100]


def test_a_checkpoint_of_another_torch_is_not_used_and_never_mixed_with_those_of_this_one(
    any_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(checkpoints, "_torch", lambda: "2.0.1")
        first = Host(any_store, tmp_path / "first")
        for step in (50, 100):
            first.save(step, "of the other torch")
        assert first.mirror.keep()
    second = on(any_store, tmp_path / "second")
    assert second.steps == []
    assert len(second.said) == 2
    assert all("written by torch 2.0.1" in line and "it is not used" in line for line in second.said)
    assert whole(any_store) == [50, 100]  # who has that torch may still go on from them
    second.save(50)
    assert second.mirror.keep()
    assert whole(any_store) == [50]
    assert on(any_store, tmp_path / "third").steps == [50]


@pytest.mark.slow
def test_what_is_here_stays_where_it_is_further_and_goes_where_it_went_another_way(
    any_store: Store, tmp_path: Path
) -> None:
    first = Host(any_store, tmp_path / "first")
    for step in (50, 100):
        first.save(step)
    assert first.mirror.keep()
    first.save(150)  # not sent before its host was lost for a while
    second = on(any_store, tmp_path / "second")
    first.mirror.fetch()
    assert first.steps == [50, 100, 150]
    for step in (150, 200):
        second.save(step, "another way")
    second.drop(100)
    assert second.mirror.keep()
    first.mirror.fetch()
    assert first.steps == [50, 150, 200]
    assert (folder_of(first.root, 150) / "weights").read_text() == "another way 150"


def test_a_checkpoint_that_the_trainer_removes_meanwhile_is_passed_over(
    any_store: Store, tmp_path: Path
) -> None:
    host = Host(any_store, tmp_path / "host")
    for step in (50, 100):
        host.save(step)

    def drops_it() -> bool:
        host.drop(50)
        return True

    host.mirror.holds = drops_it
    assert host.mirror.keep()
    assert whole(any_store) == [100]


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_an_outage_of_the_store_is_said_once_and_what_became_whole_meanwhile_is_sent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.store.checkpoint_mirror.AGAIN", 0.5)
    port = free_port()
    server = start_s3(tmp_path / "s3", port)
    try:
        served = S3Server(f"http://127.0.0.1:{port}", "artifacts", tmp_path / "s3" / "artifacts")
        options = {**served.options, "config_kwargs": {"retries": {"max_attempts": 0}}}  # else half a minute
        host = Host(Store("s3://artifacts/store", options, tmp_path), tmp_path / "host")
        with host.mirror.running():
            host.save(50)
            wait_for(lambda: host.mirror.sent and "checkpoint-50" in host.mirror.sent)
            server.kill()
            server.wait()
            host.save(100)
            wait_for(lambda: host.said)
            server = start_s3(tmp_path / "s3", port)
            wait_for(lambda: len(host.said) > 1)
        assert whole(host.mirror.store) == [50, 100]
        outage, back = host.said
        assert "no checkpoint is kept in s3://artifacts/store" in outage
        assert "the training goes on" in outage
        assert "are kept in s3://artifacts/store" in back
    finally:
        server.kill()
        server.wait()


def _ended_at_once(host: Host) -> None:
    with host.mirror.running():
        host.save(50)
        raise KeyboardInterrupt


def test_what_a_training_saved_last_before_it_was_ended_is_sent(any_store: Store, tmp_path: Path) -> None:
    host = Host(any_store, tmp_path / "host")
    with pytest.raises(KeyboardInterrupt):
        _ended_at_once(host)
    assert whole(any_store) == [50]
    assert list((tmp_path / "host").rglob("downloads")) == []


def test_a_manifest_of_before_says_no_torch_and_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "weights").write_text("w")
    commit(folder, 5, "recipe", 0.5)
    said = json.loads((folder / MANIFEST).read_text())
    del said["torch"], said["sha256"]
    (folder / MANIFEST).write_text(json.dumps(said))
    assert unusable(folder) is None
    shutil.rmtree(folder)
    assert unusable(folder) == "incomplete"


def test_where_signatures_are_asked_for_a_checkpoint_that_no_builder_signed_is_not_used(
    any_store: Store, tmp_path: Path
) -> None:
    any_store.trust = trust()
    first = Host(any_store, tmp_path / "first")
    first.save(50)
    assert first.mirror.keep()
    assert on(any_store, tmp_path / "second").steps == [50]

    any_store.trust = None  # whoever writes the store has no key
    forger = on(any_store, tmp_path / "forger")
    forger.save(100, "other weights")
    assert forger.mirror.keep()
    any_store.trust = trust()
    third = on(any_store, tmp_path / "third")
    assert third.steps == [50]
    assert any("nobody whom trust.yaml trusts signed this; it is not used" in line for line in third.said)
