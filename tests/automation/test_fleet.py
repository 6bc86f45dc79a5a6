"""Who holds the devices and who waits, as the command line shows it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from ft_dagster.build import build_defs
from ft_dagster.launch.leases import Ask, of_host
from ft_dagster.settings import load_settings
from tests.launch.helpers import PROGRAMS, wait_until
from tests.present import present

pytestmark = pytest.mark.slow

QUOTA = {"default": 2}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three CPU slots, of which a tenant may hold two at once."""
    (tmp_path / "tenants").mkdir()
    host = {"cpu_slots": 3, "gpus": [], "lock_folder": str(tmp_path / "locks"), "quota": QUOTA}
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": host}))
    return tmp_path


@pytest.fixture
def busy(project: Path) -> Iterator[Path]:
    """acme.support holds two slots, a second run of acme waits for its quota."""
    leases = of_host(load_settings(project).host)
    environment = {**os.environ, "HOLDER_QUOTA": json.dumps(QUOTA)}
    command: list[str | Path] = [
        sys.executable, PROGRAMS / "holder.py", project / "locks", "3", "1", "4", "second"
    ]  # fmt: skip
    with leases.acquire(Ask("acme.support", "acme", 2, 0, "training for run 1234", "12345678-90ab")):
        waiter = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_until(lambda: leases.table().waiting)
        yield project
        waiter.kill()
        waiter.wait()


def gpus(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ft-dagster")
    command: list[str | Path] = [program, "--project", project, "gpus", *options]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_gpus_lists_who_holds_and_who_waits_as_json(busy: Path) -> None:
    status = json.loads(gpus(busy, "--json").stdout)
    held = [device for device in status["devices"] if device["state"] == "held"]
    assert status["kind"] == "cpu"
    assert [device["variant"] for device in held] == ["acme.support"] * 2
    assert {device["why"] for device in held} == {"training for run 1234"}
    (waiter,) = status["waiting"]
    assert (waiter["variant"], waiter["priority"], waiter["count"]) == ("acme.second", 4, 1)
    assert "acme holds 2 of the 2" in waiter["why"]
    assert 0 < waiter["seconds"] < 60


def test_gpus_shows_a_table_to_people(busy: Path) -> None:
    shown = " ".join(gpus(busy).stdout.split())
    for words in ("acme.support", "12345678", "waits, place 1", "any 1", "free"):
        assert words in shown


def test_a_host_whose_lock_folder_cannot_be_used_says_so(project: Path) -> None:
    (project / "locks").touch()
    refused = gpus(project)
    assert refused.returncode == 2
    assert "host.lock_folder" in refused.stderr


def test_gpus_does_not_load_the_heavy_libraries(project: Path) -> None:
    heavy = "import sys; sys.argv = ['ft-dagster', '--project', sys.argv[1], 'gpus', '--json']\n"
    heavy += "from ft_dagster.cli import app\napp(standalone_mode=False)\n"
    heavy += "print({'dagster', 'torch'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", heavy, project], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_no_page_shows_leases_that_are_over(project: Path) -> None:
    """The page of an asset shows what was so when it was made: who holds a device now is no asset."""
    groups = {
        spec.key.to_user_string(): spec.group_name for spec in build_defs(project).resolve_all_asset_specs()
    }
    assert [name for name, group in groups.items() if group == "fleet"] == ["fleet"]


def test_a_killed_holder_is_shown_as_orphaned_with_its_rank(project: Path) -> None:
    command: list[str | Path] = [
        sys.executable, PROGRAMS / "holder.py", project / "locks", "3", "1", "0", "gone", "rank"
    ]  # fmt: skip
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    rank = int(present(holder.stdout).readline().split()[1])
    holder.kill()
    holder.wait()
    try:
        status = json.loads(gpus(project, "--json").stdout)
        assert status["devices"][0]["state"] == "orphaned"
        assert "processes of its program still use it" in status["devices"][0]["why"]
    finally:
        psutil.Process(rank).kill()
