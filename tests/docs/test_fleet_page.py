"""docs/fleet.md: each command is typed as it stands there, on a project whose instance is in a real Postgres.

What the page declares is declared, but for the webhook's address.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ft_dagster.automation.notify import tell
from ft_dagster.exit_codes import CANCELLED
from ft_dagster.spec import Declarations
from tests.automation.declarations import ticked
from tests.automation.ticks import report_release
from tests.e2e.fleet import SECRET, TinyFleet
from tests.e2e.instance import BIN, wait_until
from tests.e2e.project import edit, write_yaml
from tests.fleet.receiver import Receiver, receiving
from tests.postgres import PASSWORD, USER, PostgresServer
from tests.releases import adapter, release

pytestmark = [pytest.mark.slow, pytest.mark.long]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fleet.md").read_text("utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FENCED = [line for language, text in FENCES if not language for line in text.splitlines()]
BLOCKS = [yaml.safe_load(text) for language, text in FENCES if language == "yaml"]
INLINE = sorted({*re.findall(r"`(ft-dagster [^`]+)`", PAGE)})
CREATE, INSTALL = "createdb dagster", "pip install 'ft-dagster[train,postgres]'"
(SERVE,) = [line for line in FENCED if re.match("ft-dagster metrics +#", line)]
ELSEWHERE = {  # what is typed by another test, or by none, and why
    CREATE: "when the project is made, below",
    INSTALL: "asks an index for this project; that there are these extras is tested below",
    SERVE: "ends by Ctrl-C alone: below",
    "ft-dagster metrics": "the same",
    "ft-dagster ui": "ends by Ctrl-C alone: tests/e2e/test_browser.py",
}
TYPED = [line for line in (*FENCED, *INLINE) if line not in ELSEWHERE]


class House(NamedTuple):
    """A project as the page has it, whose variant was released and told of; `environment`: of the server."""

    fleet: TinyFleet
    receiver: Receiver
    environment: dict[str, str]

    def typed(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=self.fleet.folder, env=self.environment | self.fleet.environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, postgres: PostgresServer
) -> Iterator[House]:
    with receiving() as receiver:
        fleet = TinyFleet(tmp_path_factory.mktemp("page") / "project", tiny_model_folder)
        targets = block("notifications")["targets"]
        targets["ops"]["webhook"] = receiver.url
        said = {"fleet": block("fleet"), "notifications": {**block("notifications"), "targets": targets}}
        edit(fleet.folder / "ft_dagster.yaml", lambda content: content.update(said))
        write_yaml(fleet.folder / "tenants" / "defaults.yaml", {"notify": block("notify")})
        fleet.declare("acme.support", tiny_model_folder, block("retrain"))
        server = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": USER, "PGPASSWORD": PASSWORD}
        path = f"{BIN}:{postgres.binaries}:{os.environ['PATH']}"
        house = House(fleet, receiver, {**server, "PATH": path})
        fleet.own_environment["PATH"] = path
        done = house.typed(CREATE)
        assert done.returncode == 0, done.stderr
        edit(fleet.home / "dagster.yaml", lambda content: content.update(storage=block("storage")))
        fleet.own_environment["DAGSTER_POSTGRES_URL"] = postgres.url("dagster")
        release(fleet.settings.open_store(), "acme.support", adapter(), work=fleet.folder / "work")
        with fleet.instance() as instance, pytest.MonkeyPatch.context() as patch:
            patch.setenv("FT_OPS_SECRET", SECRET)
            report_release(instance, "acme.support")
            now = datetime.now(UTC)
            ticked(fleet.folder, instance, now)
            tell(instance, fleet.settings, Declarations(fleet.folder), None, now)
        yield house


def block(name: str) -> Any:
    """What the page writes under a key of a file."""
    (found,) = [content[name] for content in BLOCKS if name in content]
    return found


@pytest.mark.parametrize("line", TYPED)
def test_a_command_runs_as_it_is_written(house: House, line: str) -> None:
    done = house.typed(line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_metrics_are_served_where_it_says_until_an_interrupt(house: House) -> None:
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", SERVE)
    environment = house.environment | house.fleet.environment
    serving = subprocess.Popen(
        ["bash", "-c", f"exec {SERVE}"], cwd=house.fleet.folder, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        said = wait_until(partial(_read, address), 60)
    finally:
        serving.send_signal(signal.SIGINT)
    assert serving.wait(60) == CANCELLED
    assert "ft_dagster_variants{" in said


def test_a_signature_is_checked_by_the_code_of_the_page(house: House) -> None:
    (code,) = [text for language, text in FENCES if language == "python"]
    headers, body = house.receiver.got[0]
    exec(code, {"secret": SECRET, "body": body, "headers": headers})
    with pytest.raises(AssertionError):
        exec(code, {"secret": SECRET, "body": body + b" ", "headers": headers})


def test_an_event_has_the_fields_that_are_named_also_in_a_file(house: House) -> None:
    (named,) = re.findall(r"gets a POST of JSON: (.*?)\. With", PAGE, re.DOTALL)
    fields = {*re.findall(r"`(\w+)`", named)}
    lines = (house.fleet.folder / block("notifications")["targets"]["log"]["file"]).read_text("utf-8")
    events = [json.loads(line) for line in lines.splitlines()]
    assert events
    for event in (*events, *(json.loads(body) for _, body in house.receiver.got)):
        assert set(event) == fields


def test_what_is_to_be_installed_is_there_to_install() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (named,) = re.findall(r"\[(.*?)\]", INSTALL)
    assert {*named.split(",")} <= {*extras}
    assert INSTALL in FENCED


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(answer.read().decode())
