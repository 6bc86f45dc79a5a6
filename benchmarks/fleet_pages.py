"""The UI of a fleet of many variants: seconds until pages that list its partitions show them, in a browser.

    .venv/bin/python benchmarks/fleet_pages.py [--count 10000] [--pictures FOLDER]

A tenth of the partitions has a release. Dagster's own webserver, without a daemon; Chromium without a
window; each page is opened twice, the first time as nobody opened it before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fleet import write
from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.processes.instance import workspace_file, write_home
from ft_dagster.settings import load_settings
from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.e2e.instance import BIN, free_port, running, wait_for_ui
from tests.e2e.project import command_environment

TIMES = 2
MADE = 10  # one of so many has a release


def pages(count: int, key: str) -> dict[str, tuple[str, str]]:
    """Name -> address, and an expression that is true once its partitions are shown."""
    counted = f"Materialized ({count // MADE})", f"Missing ({count - count // MADE})"
    released = " && ".join(f"document.body.innerText.includes('{each}')" for each in counted)
    return {
        "partitions of an asset": ("/assets/release?view=partitions", released),
        "one of them": (
            f"/assets/release?view=partitions&partition={key}",
            f"{released} && document.body.innerText.split('{key}').length > 2",
        ),
    }


@contextmanager
def fleet_ui(folder: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """The address of its UI, and its partitions."""
    keys = [write(folder / "project", number) for number in range(count)]
    settings = load_settings(folder / "project")
    environment = command_environment(folder / "project") | write_home(settings)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        instance.add_dynamic_partitions(PARTITIONS, keys)
        for key in keys[: count // MADE]:
            instance.report_runless_asset_event(dg.AssetMaterialization("release", partition=key))
    port = free_port()
    web: list[str | Path] = [BIN / "dagster-webserver", "-p", str(port), "-w", workspace_file(settings)]
    with running(web, environment):
        yield wait_for_ui(port), keys


def seconds_until(tab: BrowserTab, address: str, until: str) -> float:
    began = time.monotonic()
    tab.open(address, until)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--pictures", type=Path, help="a folder for what the pages show")
    given = parser.parse_args()
    if PROGRAM is None:
        sys.exit("no Chromium on this host")
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet_ui(Path(folder), given.count) as (root, keys),
        browser(Path(folder) / "profile") as tab,
    ):
        tab.look(1280, dark=False, height=900)
        tab.open(root, "document.readyState === 'complete'")
        for name, (address, until) in pages(given.count, keys[0]).items():
            seconds = [seconds_until(tab, root + address, until) for _ in range(TIMES)]
            print(f"{name}: " + ", then ".join(f"{each:.1f} s" for each in seconds), flush=True)
            if given.pictures is not None:
                tab.settle()
                (given.pictures / f"{name.replace(' ', '-')}.webp").write_bytes(tab.picture())


if __name__ == "__main__":
    main()
