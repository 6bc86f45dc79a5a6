"""The chain's training in pods of a stand-in for Kubernetes, its store on a real S3 server: evicted, it
ends with the digest that it has on this host, and leaves its credentials nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.launch.on_kubernetes import follow
from ft_dagster.store import Store, read_head
from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop
from tests.launch.helpers import wait_until
from tests.launch.kubernetes_stand_in import StandIn, serve_stand_in
from tests.present import present
from tests.s3_server import KEY, SECRET, S3Server

pytestmark = pytest.mark.long
IMAGE = "ft-dagster-trainer:0.1.0"
UP_TO_TRAINING = (
    *("declaration", "base_model", "general_corpus", "task_dataset"),
    *("training_mixture", "training_plan", "fine_tuned_model"),
)
TRAINED_LONGER = {"num_train_epochs": 16, "evaluations": 6}


def project_in(folder: Path, base: Path, **settings: Any) -> Path:
    project = write_project(folder, base)
    edit(project / "tenants" / "acme" / "places.yaml", lambda c: c["training"].update(TRAINED_LONGER))
    edit(project / "ft_dagster.yaml", lambda content: content.update(settings))
    return project


def on_pods(s3_server: S3Server, folder: Path) -> dict[str, Any]:
    """Settings by which trainings go to the stand-in, and everything to S3."""
    return {
        "launcher": "k8s",
        "cluster": {"cpus": 1, "work_folder": str(folder / "node")},
        "kubernetes": {"image": IMAGE, "profiles": {"acme": {"secrets": ["acme-store"]}}},
        "store": f"s3://{s3_server.bucket}/{folder.name}",
        "store_options": {"endpoint_url": s3_server.endpoint},
        "store_profiles": {"default": "acme"},
    }


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile `acme` for who runs the steps; nothing of it is in an environment."""
    file = tmp_path / "aws" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[acme]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serve_stand_in(tmp_path / "cluster", IMAGE) as (stand_in, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr(follow, "POLL_SECONDS", 0.2)
        stand_in.secrets["acme-store"] = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield stand_in


@pytest.fixture
def shop(tmp_path: Path, s3_server: S3Server, profile: None, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project whose trainings go to pods, on an instance whose files can be looked through."""
    folder = project_in(tmp_path / "project", tiny_model_folder, **on_pods(s3_server, tmp_path))
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        yield Workshop(folder, instance)


@pytest.fixture
def own_digest(tmp_path: Path, tiny_model_folder: Path) -> str:
    """Of the same training on this host, its store in a folder."""
    with dg.DagsterInstance.ephemeral() as instance:
        own = Workshop(project_in(tmp_path / "own", tiny_model_folder), instance)
        assert own.materialize("acme.places", *UP_TO_TRAINING).success
        return digest_in(own.store)


@pytest.fixture
def stored(s3_server: S3Server, tmp_path: Path) -> Path:
    """Where the S3 server keeps what is in the store."""
    return s3_server.folder / tmp_path.name


def digest_in(store: Store) -> str:
    return present(read_head(store, "tenants/acme/places", "fine_tuned_model")).digest


def checkpoints_in(stored: Path) -> list[Path]:
    trained = stored / "tenants/acme/places/fine_tuned_model"
    return list(trained.glob("*/nodes/evidence/output/checkpoints/*/*.json"))


def files_with(secret: str, *folders: Path) -> list[Path]:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if secret.encode() in file.read_bytes()]


def test_an_evicted_training_ends_with_the_digest_that_it_has_on_this_host(
    cluster: StandIn,
    shop: Workshop,
    stored: Path,
    own_digest: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    evicted: list[str] = []

    def evict_once_a_checkpoint_is_kept() -> None:
        wait_until(lambda: cluster.running() and checkpoints_in(stored), 300)
        evicted.append(cluster.running()[0]["metadata"]["name"])
        cluster.evict(evicted[0])

    with ExitStack() as stack:
        evicting = threading.Thread(target=evict_once_a_checkpoint_is_kept)
        evicting.start()
        stack.callback(evicting.join)
        assert shop.materialize("acme.places", *UP_TO_TRAINING).success
    assert len(cluster.asked) == 1
    assert len(cluster.logs) == 2
    assert checkpoints_in(stored) == []  # forgotten, once what they were for is committed

    assert digest_in(shop.settings.open_store("acme")) == own_digest

    (run,) = shop.instance.get_runs()
    events = [str(each.message) for each in shop.instance.all_logs(run.run_id)]
    assert any(f"takes pod {evicted[0]} away" in each for each in events)
    assert any("step 1/" in each for each in events)  # progress, in Dagster's log
    output = "".join(capfd.readouterr())
    left = [shop.folder, shop.folder.with_name("home"), shop.folder.with_name("node")]
    for secret in (SECRET, KEY):
        assert files_with(secret, stored, *left) == []
        assert secret not in output
        assert secret not in repr(cluster.asked) + repr(cluster.logs)
