"""A released version as a folder of its own: exactly its bytes, the card and the certificate beside them."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.export import card
from ft_dagster.export.publish import publish_to_folder, publish_to_hub, with_version
from ft_dagster.lineage.release import ReleaseRequest, export_of, rollback
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from tests.releases import adapter, frozen, release

KEY = VariantKey("acme", "support")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    store = settings.open_store()
    frozen(store, str(KEY))
    release(store, str(KEY), adapter(1))
    release(store, str(KEY), adapter(2), "c" * 64)
    return settings


def test_it_is_the_payload_of_the_version_in_production(settings: Settings, tmp_path: Path) -> None:
    done = publish_to_folder(settings, KEY, None, tmp_path / "out")
    export = export_of(settings.open_store(), KEY.prefix, 2, settings.cache_folder)
    assert (done.version, done.digest) == (2, export.digest)
    assert json.loads((tmp_path / "out" / "adapter_model.safetensors").read_text()) == {"number": 2}
    rollback(settings.open_store(), KEY.prefix, ReleaseRequest("worse"))
    assert publish_to_folder(settings, KEY, None, tmp_path / "back").version == 1
    assert publish_to_folder(settings, KEY, 2, tmp_path / "named").version == 2


def test_the_card_has_the_number_of_the_version() -> None:
    template = Path(card.__file__).with_name("card.md.jinja").read_text("utf-8")
    said = with_version(template, 3, "unsigned; these files are unsigned")
    assert "\n| version | 3 |\n| release | unsigned; these files are unsigned |\n" in said
    assert len(said.splitlines()) == len(template.splitlines()) + 1


def test_a_folder_that_holds_something_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(UserError, match="not an empty folder"):
        publish_to_folder(settings, KEY, None, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_bytes_that_are_not_what_was_released_go_nowhere(settings: Settings, tmp_path: Path) -> None:
    export = export_of(settings.open_store(), KEY.prefix, 2, settings.cache_folder)
    file = export.folder(settings.open_store(), settings.cache_folder) / "payload" / "adapter_config.json"
    file.chmod(0o644)
    file.write_text("{}")
    with pytest.raises(UserError):
        publish_to_folder(settings, KEY, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        publish_to_folder(settings, KEY, None, tmp_path / "file" / "out")


def test_what_cannot_be_published_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no version is in production"):
        publish_to_folder(settings, VariantKey("acme", "other"), None, tmp_path / "out")
    with pytest.raises(UserError, match="not a repository"):
        publish_to_hub(settings, KEY, None, "no repository")


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository, which is there and public."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(409, {"url": f"http://{self.headers['Host']}/our-org/open"})

    def do_GET(self) -> None:
        self._answer(200, {"id": "our-org/open", "private": False, "tags": [], "siblings": []})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *said: Any) -> None:
        pass


@pytest.mark.slow
def test_nothing_goes_to_a_public_repository_unasked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="everybody reads it"):
            publish_to_hub(settings, KEY, None, "our-org/open")
        server.shutdown()
    assert Hub.asked == ["/api/repos/create"]


def test_the_command_says_where_it_is(settings: Settings, tmp_path: Path) -> None:
    command = ["--project", str(settings.project), "publish", str(KEY), "--json"]
    done = CliRunner().invoke(app, [*command, "--folder", str(tmp_path / "out")])
    assert json.loads(done.stdout) == {
        "variant": "acme.support",
        "version": 2,
        "digest": json.loads(done.stdout)["digest"],
        "where": str(tmp_path / "out"),
    }
    for places in ([], ["--folder", "a", "--hub", "b/c"]):
        assert isinstance(CliRunner().invoke(app, [*command, *places]).exception, UserError)
