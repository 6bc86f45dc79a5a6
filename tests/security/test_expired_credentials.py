"""Temporary credentials of a profile that run out on the way: said in one line, gone on with once renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from botocore.exceptions import ClientError

from ft_dagster.exit_codes import DONE, TRANSIENT
from ft_dagster.launch.remote import node
from ft_dagster.launch.remote.node import Stopping, carry_out_order
from ft_dagster.store import Artifact, Store, read_head, refused
from ft_dagster.store.remote_errors import expired
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.expiring_s3 import ExpiringProxy, expiring, write_profile
from tests.launch.remote_jobs import (
    LONG,
    PLACE,
    kept,
    part,
    payload_of,
    send,
    staging,
    trained_here,
    training_job,
    wait_for,
)
from tests.present import present
from tests.s3_server import S3Server
from tests.training.runs import Runs, write_mixture

pytestmark = pytest.mark.slow
TRAINED_LONGER = {"num_train_epochs": 16, "evaluations": 6}


@dataclass(frozen=True)
class Site:
    """A store, opened with a profile's temporary credentials. `host`: the same, with some that do not end."""

    proxy: ExpiringProxy
    profiles: Path
    url: str
    endpoint: str
    host: Store

    def open(self) -> Store:
        return Store(self.url, {"profile": "acme", "endpoint_url": self.endpoint})

    def expire_once(self, condition: Callable[[], object]) -> threading.Thread:
        """Let the first credentials run out as soon as it holds."""

        def work() -> None:
            wait_for(condition, 600)
            self.proxy.expired.add("first")

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def renew(self) -> None:
        write_profile(self.profiles, "second")


@pytest.fixture
def site(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    file = tmp_path / "aws" / "credentials"
    write_profile(file, "first")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file.with_name("none")))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(node, "RENEWAL_POLL", 0.2)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    with expiring(s3_server) as (server, proxy):
        yield Site(proxy, file, url, server.endpoint, Store(url, s3_server.options))


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.mark.parametrize("status", [400, 403])
def test_a_long_lived_process_reads_a_renewed_profile(site: Site, status: int) -> None:
    site.proxy.status = status
    store = site.open()
    store.write("file", b"1")
    site.proxy.expired.add("first")
    asked: list[Callable[[str], object]] = [store.read, store.exists, store.names]
    asked.append(lambda name: store.write(name, b"2"))
    for ask in asked:
        with pytest.raises(Exception) as error:  # noqa: PT011  # of s3fs
            ask("file")
        said = str(present(refused(error.value)))
        assert "lets nobody in with these credentials" in said
        assert "Renew them" in said
    site.profiles.write_text("[ac")  # half written
    with pytest.raises(Exception) as error:  # noqa: PT011  # of s3fs
        store.read("file")
    assert refused(error.value) is not None
    site.renew()
    assert store.read("file") == site.open().read("file") == b"1"
    assert site.proxy.let_in == {"first", "second"}


def test_what_a_storage_refuses_for_another_reason_is_not_waited_for(site: Site) -> None:
    store = Store(site.url, {"key": "nobody", "secret": "wrong", "endpoint_url": site.endpoint})
    with pytest.raises(PermissionError) as error:
        store.read("file")
    assert refused(error.value) is not None
    assert not expired(error.value)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for which a node waits, over credentials that may be renewed."""
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setattr(node, "RENEWAL_SECONDS", 0.3)
    monkeypatch.setattr(node, "RENEWAL_POLL", 0.01)
    return 0.3


def test_credentials_that_run_out_late_in_a_long_upload_are_waited_for_too(patience: float) -> None:
    refusals, said = [ClientError({"Error": {"Code": "ExpiredToken"}}, "UploadPart")], list[str]()

    def upload() -> bool:
        if refusals:
            time.sleep(1.5 * patience)
            raise refusals.pop()
        return True

    assert node._LetIn(said.append, Stopping())(upload)
    assert "nothing is kept before credentials are renewed" in said[0]
    assert "lets in again" in said[1]


@pytest.mark.usefixtures("patience")
def test_one_wait_covers_what_a_node_keeps_while_it_trains_and_after() -> None:
    said, asked = list[str](), list[int]()
    let_in = node._LetIn(said.append, Stopping())

    def refuse() -> bool:
        asked.append(1)
        raise ClientError({"Error": {"Code": "ExpiredToken"}}, "PutObject")

    with pytest.raises(ClientError):
        let_in(refuse)
    assert len(asked) > 1
    asked.clear()
    with pytest.raises(ClientError):
        let_in(refuse)
    assert len(asked) == len(said) == 1  # it is not waited for again
    assert let_in(lambda: True)
    with pytest.raises(ClientError):  # a later loss is waited for anew
        let_in(refuse)
    assert len(said) == 3


def test_a_store_that_was_out_of_reach_before_takes_nothing_of_the_wait(patience: float) -> None:
    expired = ClientError({"Error": {"Code": "ExpiredToken"}}, "PutObject")
    answers, said = [expired, ConnectionError("no route")], list[str]()
    let_in = node._LetIn(said.append, Stopping())

    def keep() -> bool:
        if answers:
            raise answers.pop()
        return True

    with pytest.raises(ConnectionError):
        let_in(keep)
    time.sleep(1.2 * patience)
    assert let_in(keep)
    assert "nothing is kept before credentials are renewed" in said[0]
    assert "lets in again" in said[1]


@pytest.mark.long
def test_a_node_trains_on_and_keeps_what_it_made_once_they_are_renewed(
    site: Site, runs: Runs, tmp_path: Path
) -> None:
    job, said = training_job(runs, "away", training=LONG), list[str]()
    attempt = send(site.host, job, tmp_path / "node")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(
            carry_out_order, site.open(), PLACE, part(tmp_path / "node"), said.append, Stopping()
        )
        site.expire_once(lambda: kept(site.host)).join()
        wait_for(lambda: any("nothing is kept before credentials are renewed" in line for line in said))
        assert not ended.done()
        site.renew()
    assert ended.result() == DONE
    assert any("lets in again" in line for line in said)
    assert "second" in site.proxy.let_in
    staging(site.host, tmp_path / "node").collect(job, attempt)
    assert not job.read_result(DONE)["figures"]["resumed_from"]
    assert payload_of(job) == trained_here(runs)


@pytest.mark.long
def test_a_node_that_waited_in_vain_ends_and_another_goes_on_from_what_was_kept(
    site: Site, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "RENEWAL_SECONDS", 0.0)
    job, said = training_job(runs, "away", training=LONG), list[str]()
    send(site.host, job, tmp_path / "first")
    expiring_on_the_way = site.expire_once(lambda: kept(site.host))
    assert carry_out_order(site.open(), PLACE, part(tmp_path / "first"), said.append, Stopping()) == TRANSIENT
    expiring_on_the_way.join()
    assert "lets nobody in with these credentials" in said[-1]
    assert "expired" in said[-1]
    assert kept(site.host)
    site.renew()
    attempt, again = send(site.host, job, tmp_path / "second"), list[str]()
    assert carry_out_order(site.open(), PLACE, part(tmp_path / "second"), again.append, Stopping()) == DONE
    assert any("resuming at step" in line for line in again)
    staging(site.host, tmp_path / "second").collect(job, attempt)
    assert payload_of(job) == trained_here(runs)


def project_of(folder: Path, base: Path) -> Path:
    project = write_project(folder, base)
    edit(project / "tenants/acme/places.yaml", lambda c: c["training"].update(TRAINED_LONGER))
    return project


def model_of(shop: Workshop) -> Artifact:
    store = shop.settings.open_store("acme")
    return present(read_head(store, "tenants/acme/places", "fine_tuned_model"))


@pytest.mark.long
def test_dagsters_step_says_it_in_one_line_and_the_next_run_of_the_same_process_loses_nothing(
    site: Site, tmp_path: Path, tiny_model_folder: Path
) -> None:
    away = project_of(tmp_path / "away", tiny_model_folder)
    on_s3 = {
        "store": site.url,
        "store_options": {"endpoint_url": site.endpoint},
        "store_profiles": {"default": "acme"},
    }
    edit(away / "ft_dagster.yaml", lambda settings: settings.update(on_s3))
    saved = ".ft_dagster/work/runs/acme.places/*/output/checkpoints/*/*.json"
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(away, instance)
        assert shop.materialize("acme.places", *UP_TO_PLAN).success
        expiring_on_the_way = site.expire_once(lambda: list(away.glob(saved)))
        failed = shop.materialize("acme.places", "fine_tuned_model", raises=False)
        expiring_on_the_way.join()
        said = shop.failure(failed)
        assert "lets nobody in with these credentials" in said
        assert "expired" in said
        assert len(said.splitlines()) == 1
        site.renew()
        assert shop.materialize("acme.places", "fine_tuned_model").success
        model = model_of(shop)
    assert model.figures["resumed_from"]
    with dg.DagsterInstance.ephemeral() as instance:
        here = Workshop(project_of(tmp_path / "here", tiny_model_folder), instance)
        assert here.materialize("acme.places", *UP_TO_PLAN, "fine_tuned_model").success
        assert model_of(here).digest == model.digest
