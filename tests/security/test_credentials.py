"""Credentials of the store: of a tenant's own profile, and in nothing that a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import read_log
from ft_dagster.settings import load_settings
from ft_dagster.store import Store, refused
from tests.conditional_s3 import Handler, Proxy, serving
from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop
from tests.releases import adapter, release
from tests.s3_server import KEY, SECRET, S3Server

REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
OF_PLATFORM = {"AWS_ACCESS_KEY_ID": "platforms-own", "AWS_SECRET_ACCESS_KEY": "platforms-secret"}
PROFILES = f"""
[platform]
aws_access_key_id = {KEY}
aws_secret_access_key = {SECRET}

[acme]
aws_access_key_id = {KEY}
aws_secret_access_key = {SECRET}

[globex]
aws_access_key_id = {KEY}
aws_secret_access_key = not-the-secret
"""


class BoundProxy(Proxy):
    """Refuses whatever is not below one of `places`, bucket/prefix/, and keeps what it was."""

    def __init__(self, upstream: S3Server, *places: str) -> None:
        super().__init__(upstream, BoundHandler)
        self.places, self.outside = places, list[str]()


class BoundHandler(Handler):
    server: BoundProxy

    def do_PUT(self) -> None:
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        path = unquote(address.path).lstrip("/")
        place = f"{path.rstrip('/')}/{asked.get('prefix', [''])[0]}" if "list-type" in asked else path
        if f"{place}/".startswith(self.server.places):
            return super().do_PUT() if self.command == "PUT" else self.pass_on()
        self.read_body()
        self.server.outside.append(f"{self.command} {self.path}")
        return self.answer(403, [("Content-Type", "application/xml")], REFUSED)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT  # type: ignore[assignment]


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AWS profiles of two tenants, one of whose secret is wrong, and other credentials in the environment."""
    file = tmp_path / "aws" / "credentials"
    file.parent.mkdir()
    file.write_text(PROFILES)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file.with_name("none")))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name, value in OF_PLATFORM.items():
        monkeypatch.setenv(name, value)
    return file


@pytest.fixture
def shop(s3_server: S3Server, profiles: Path, tmp_path: Path, tiny_model_folder: Path) -> Iterator[Workshop]:
    folder = write_project(tmp_path / "project", tiny_model_folder)

    def on_s3(settings: dict[str, object]) -> None:
        settings["store"] = f"s3://{s3_server.bucket}/{tmp_path.name}"
        settings["store_options"] = {"endpoint_url": s3_server.endpoint}
        tenants = {"acme": "acme", "globex": "globex"}
        settings["store_profiles"] = {"default": "platform", "per_tenant": tenants}

    edit(folder / "ft_dagster.yaml", on_s3)
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        yield Workshop(folder, instance)


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Every file below the folders in which the secret stands."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if secret.encode() in file.read_bytes()]


@pytest.mark.slow
def test_nothing_that_a_run_leaves_behind_has_them(
    shop: Workshop, s3_server: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = shop.materialize("acme.places", "declaration", "base_model", "general_corpus", "task_dataset")
    assert made.success
    stored = s3_server.folder / tmp_path.name
    assert len(list(stored.rglob("manifest.json"))) >= 3
    left = (stored, shop.folder, tmp_path / "home")
    output = "".join(capfd.readouterr())
    for secret in (SECRET, KEY, *OF_PLATFORM.values()):
        assert files_with(secret, *left) == []
        assert secret not in output
    (stored / "planted").write_text(f"x{SECRET}x")  # that the search would find one
    assert files_with(SECRET, *left) == [stored / "planted"]


@pytest.mark.long
def test_a_tenants_runs_ask_for_nothing_beyond_the_places_that_docs_deploy_names(
    shop: Workshop, s3_server: S3Server, tmp_path: Path
) -> None:
    root = f"{s3_server.bucket}/{tmp_path.name}"
    own = ("tenants/acme", "shared", "probes", "erasures/acme", "erasures/_shared")
    places = [f"{root}/{name}/" for name in own]
    with serving(BoundProxy(s3_server, *places), s3_server) as (bound, proxy):

        def through(settings: dict[str, object]) -> None:
            settings["store_options"] = {"endpoint_url": bound.endpoint}

        edit(shop.folder / "ft_dagster.yaml", through)
        made = shop.materialize("acme.places", "declaration", "base_model", "general_corpus", "task_dataset")
        assert made.success
        assert proxy.outside == []
        refused_there = shop.materialize("globex.places", "declaration", raises=False)
    assert not refused_there.success
    assert proxy.outside


@pytest.mark.slow
def test_a_tenant_whose_credentials_are_refused_is_told_in_one_line_and_others_go_on(shop: Workshop) -> None:
    result = shop.materialize("globex.places", "declaration", raises=False)
    said = shop.failure(result)
    assert "lets nobody in with these credentials" in said
    assert "store_profiles" in said
    assert "not-the-secret" not in said
    assert shop.materialize("acme.places", "declaration").success


@pytest.mark.slow
def test_without_a_profile_the_environment_counts_and_with_one_it_does_not(shop: Workshop) -> None:
    edit(shop.folder / "ft_dagster.yaml", lambda settings: settings["store_profiles"].pop("default"))
    with pytest.raises(Exception) as error:  # noqa: PT011  # of s3fs
        shop.settings.open_store().names("tenants")
    assert refused(error.value) is not None
    assert shop.settings.open_store("acme").names("tenants") == []


@pytest.mark.slow
def test_a_copy_from_and_to_the_projects_own_store_uses_its_profile(shop: Workshop, tmp_path: Path) -> None:
    """Those of the environment are refused there."""
    own = shop.settings.open_store()
    release(own, "acme.support", adapter(), work=tmp_path / "work")
    folder = tmp_path / "copy"
    for source, target in ((f"{own.url}/", folder), (own.url, folder), (folder, own.url)):
        words = ["--project", str(shop.folder), "store", "copy", str(source), str(target)]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "0 copied and read back" in done.output
    assert read_log(Store(str(folder)), "tenants/acme/support").entries
    words = ["--project", str(shop.folder), "store", "copy", own.url, str(tmp_path / "other")]
    with pytest.raises(Exception) as error:  # noqa: PT011  # of s3fs
        CliRunner().invoke(app, [*words, "--from-option", "profile=globex"], catch_exceptions=False)
    assert refused(error.value) is not None  # an option says by whose


def test_a_profile_that_is_not_there_names_those_that_are(profiles: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tenants").mkdir(parents=True)
    (project / "ft_dagster.yaml").write_text("store: s3://bucket/x\nstore_profiles: {default: owner}\n")
    with pytest.raises(UserError, match=r"no such AWS profile.*owner.*Known: platform, acme, globex"):
        load_settings(project).open_store()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ("{secret: hidden}", "secret"),
        ("{password: hidden}", "password"),
        ("{client_kwargs: {aws_session_token: hidden}}", "client_kwargs.aws_session_token"),
    ],
)
def test_credentials_are_said_once(options: str, field: str, tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    text = f"store_options: {options}\nstore_profiles: {{default: platform}}\n"
    (tmp_path / "ft_dagster.yaml").write_text(text)
    with pytest.raises(UserError, match=f"store_options.{field} says") as error:
        load_settings(tmp_path)
    assert "hidden" not in str(error.value)


def test_a_store_in_a_folder_needs_no_profile(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text("store_profiles: {default: nobody}\n")
    assert isinstance(load_settings(tmp_path).open_store("acme"), Store)


def test_a_file_that_may_not_be_read_is_not_taken_for_it() -> None:
    assert refused(PermissionError(13, "Permission denied", "/etc/shadow")) is None
    assert refused(PermissionError("Access Denied")) is not None
