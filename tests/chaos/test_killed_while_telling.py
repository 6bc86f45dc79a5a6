"""The daemon is killed, with all its processes, while it tells an event: a further one tells it again."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from ft_dagster.automation.processes.instance import workspace_file, write_home
from ft_dagster.fleet.events.delivery import SIGNATURE, signature
from ft_dagster.settings import load_settings
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import POLICY, command_environment, write_yaml
from tests.fleet.receiver import receiving
from tests.kept_project import OLD_PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.long]
SECRET = "hush"
SETTINGS = """
store: store
host: {{cpu_slots: 1, gpus: [], lock_folder: {locks}}}
notifications: {{targets: {{ops: {{webhook: "{url}", secret_env: FT_OPS_SECRET}}}}}}
fleet: {{budget: {{hours_per_day: 0}}}}
"""


def test_each_event_is_told_and_what_was_told_again_has_the_same_id(tmp_path: Path) -> None:
    project = shutil.copytree(OLD_PROJECT, tmp_path / "project")
    (project / "tenants" / "defaults.yaml").write_text("notify: [ops]\n")
    write_yaml(project / "policy.yaml", POLICY)
    with receiving() as receiver:
        (project / "ft_dagster.yaml").write_text(SETTINGS.format(locks=tmp_path / "locks", url=receiver.url))
        settings = load_settings(project)
        environment = command_environment(project) | write_home(settings) | {"FT_OPS_SECRET": SECRET}
        began = datetime.now(UTC).isoformat(timespec="seconds")
        for words in (["rollback"], ["release", "--version", "3", "--force"]):
            subprocess.run(
                [BIN / "ft-dagster", *words, "acme.places", "--reason", "test"], env=environment, check=True
            )
        command: list[str | Path] = [
            BIN / "dagster-daemon", "run", "-w", str(workspace_file(settings))
        ]  # fmt: skip
        with running(command, environment) as first:

            def kill() -> None:
                receiver.before_answer = lambda: None
                for process in (
                    psutil.Process(first.pid),
                    *psutil.Process(first.pid).children(recursive=True),
                ):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()

            receiver.before_answer = kill
            wait_until(lambda: receiver.got)
            first.wait(60)
        with running(command, environment):
            wait_until(lambda: len(since(began, receiver.got)) == 2)
    ids = receiver.ids
    assert ids[0] in ids[1:]
    assert len(ids) == len(set(ids)) + 1
    assert all(headers[SIGNATURE] == signature(SECRET, body) for headers, body in receiver.got)


def since(began: str, got: list[tuple[dict[str, str], bytes]]) -> set[str]:
    """Ids of what happened since then."""
    said = [json.loads(body) for _, body in got]
    return {each["id"] for each in said if each["at"] >= began}
