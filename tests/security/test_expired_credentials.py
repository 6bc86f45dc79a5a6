"""Temporary credentials of a profile that run out on the way: said in one line, gone on with once renewed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.store import Artifact, Store, read_head, refused
from ft_dagster.store.remote_errors import expired
from tests.e2e.instance import wait_until
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.expiring_s3 import ExpiringProxy, expiring, write_profile
from tests.present import present
from tests.s3_server import S3Server

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
            wait_until(condition, 600)
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
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    with expiring(s3_server) as (server, proxy):
        yield Site(proxy, file, url, server.endpoint, Store(url, s3_server.options))


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
