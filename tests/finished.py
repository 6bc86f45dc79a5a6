"""A tiny project whose acme.places went through the whole chain and was released by Dagster: made once a run
of the suite, for all workers of pytest-xdist, and copied by the tests that begin with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources
from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop
from tests.instances import lay_databases

PROJECT, HOME = "project", "dagster"  # below the folder of what is finished


def finish(folder: Path, base: Path) -> None:
    """Take acme.places of a new project through the whole chain, in an instance whose files are kept."""
    project = write_project(folder / PROJECT, base)
    lay_databases(folder / HOME)
    with dg.DagsterInstance.local_temp(str(folder / HOME)) as instance:
        assert Workshop(project, instance).materialize("acme.places").success


def copied(finished: Path, to: Path) -> Path:
    """A copy of the finished project, whose locks are its own."""
    project = shutil.copytree(finished / PROJECT, to)
    locks = str(project / "leases")
    edit(project / "ft_dagster.yaml", lambda content: content["host"].update(lock_folder=locks))
    return project


@contextmanager
def copied_workshop(finished: Path, to: Path) -> Iterator[Workshop]:
    """A copy with its instance, whose one run is `first`."""
    home = shutil.copytree(finished / HOME, to / HOME)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        shop = Workshop(copied(finished, to / PROJECT), instance)
        [run] = instance.get_runs()
        logs = instance.all_logs(run.run_id)
        events = [log.dagster_event for log in logs if log.dagster_event is not None]
        given = dg.Definitions(assets=CHAIN, resources=default_resources(str(shop.folder)))
        job = given.resolve_implicit_global_asset_job_def()
        shop.first = dg.ExecuteInProcessResult(events, run, None, job)
        yield shop
