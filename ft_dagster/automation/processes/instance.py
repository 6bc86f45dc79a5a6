"""Opens the Dagster instance of a project, made on first use, and submits runs to it."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ft_dagster.assets.partitions import GRAPH, PARTITIONS
from ft_dagster.assets.release import put_into_production, release_event
from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.processes import unfinished as unfinished_runs
from ft_dagster.automation.processes.own_runs import newest_runs, own_runs
from ft_dagster.automation.run_launcher import LAUNCHER, MONITORING, process_of
from ft_dagster.automation.tags import TENANT, VARIANT, variant_tags
from ft_dagster.dagster_private import (
    PARTITION,
    RETRIED_BY,
    STEPS,
    WILL_RETRY,
    CodeLocationOrigin,
    InProcessCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    WorkspaceFileTarget,
    WorkspaceLoadTarget,
    WorkspaceProcessContext,
    WorkspaceRequestContext,
)
from ft_dagster.errors import UserError
from ft_dagster.files import make_folder, new_file
from ft_dagster.launch.environment import environment_with
from ft_dagster.launch.locks import locked
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.report.sentences.next_step import WAS_CANCELLED
from ft_dagster.settings import PROJECT_VARIABLE, Settings
from ft_dagster.spec import VariantKey

LOCATION, REPOSITORY = "ft_dagster", "__repository__"
ASK_AGAIN = 10.0  # seconds after which who did not take a cancellation is asked again
FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
WORKSPACE_YAML = {
    "load_from": [{"python_module": {"module_name": "ft_dagster.definitions", "location_name": LOCATION}}]
}


@dataclass(frozen=True)
class Launched:
    """Names a variant and the run that was launched for it."""

    key: VariantKey
    run_id: str


def most_runs(settings: Settings) -> int:
    """Return how many runs are in progress at once, of all tenants together."""
    return max(8, settings.tenant_runs)


def dagster_yaml(settings: Settings) -> dict[str, Any]:
    """Return the settings of an instance whose queue admits one run per variant and `tenant_runs` per
    tenant.
    """
    limits = ((VARIANT, 1), (TENANT, settings.tenant_runs))
    return {
        "run_coordinator": {
            "module": "ft_dagster.automation.coordinator",
            "class": "VariantRunCoordinator",
            "config": {
                "max_concurrent_runs": most_runs(settings),
                "dequeue_interval_seconds": 1,
                "tag_concurrency_limits": [
                    {"key": key, "value": {"applyLimitPerUniqueValue": True}, "limit": limit}
                    for key, limit in limits
                ],
            },
        },
        "run_launcher": LAUNCHER,
        "run_monitoring": {**MONITORING, "free_slots_after_run_end_seconds": 60},
        # A run whose process was killed; what a step's own retry can mend is retried there.
        "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


OPENING = "opening.lock"
OPENING_PATIENCE = 120.0  # seconds
POSTGRES = "dagster_postgres"
# Of Dagster, between what a step says of its next try and that try.
TRIED_AGAIN = (
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
    dg.DagsterEventType.HOOK_SKIPPED,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_RESTARTED,
)
LAST_EVENTS = 12  # that are looked through for it
SAID = 300  # characters of why an instance cannot be opened


def write_home(settings: Settings) -> dict[str, str]:
    """Make the instance's folder; returns the environment by which programs find it and the project.

    What a platform changed in it is kept, so `tenant_runs` counts when the folder is made.
    """
    home = settings.dagster_home.resolve()
    make_folder(home)
    limit = settings.tenant_runs
    note = f"# The queue tags each run of a variant and admits one run per variant, {limit} per tenant.\n"
    for name, text in (
        ("dagster.yaml", note + yaml.safe_dump(dagster_yaml(settings), sort_keys=False)),
        ("workspace.yaml", yaml.safe_dump(WORKSPACE_YAML, sort_keys=False)),
    ):
        if not (home / name).exists():
            with suppress(FileExistsError), new_file(home / name) as draft:
                draft.write_text(text, "utf-8")
    return {"DAGSTER_HOME": str(home), PROJECT_VARIABLE: str(settings.project)}


def workspace_file(settings: Settings) -> Path:
    return settings.dagster_home.resolve() / "workspace.yaml"


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open the instance of a project; what is started meanwhile finds both by its environment."""
    with environment_with(write_home(settings)), opened(settings.dagster_home.resolve()) as instance:
        yield instance


@contextmanager
def opened(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the instance of a home. One process at a time opens it: two that make its databases at once would
    each write their version into them, and nothing could open them again. Raises UserError where it cannot
    be.
    """
    with ExitStack() as stack:
        try:
            with locked(home / OPENING, OPENING_PATIENCE):
                # "temp" in name alone: a folder that is given stays
                made = dg.DagsterInstance.local_temp(str(home), overrides=_watched(home))
                instance = stack.enter_context(made)
        except TimeoutError:
            problem = f"another process has been opening this instance for {OPENING_PATIENCE:.0f} s"
            raise UserError(problem, file=home / OPENING, fix="End it, or try again") from None
        except UserError:
            raise
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            problem, fix = "an address without its driver", "Begin it with postgresql+psycopg2://"
            raise UserError(problem, file=home / "dagster.yaml", field="storage", fix=fix) from None
        except Exception as error:  # of YAML, of Dagster's own checks, of a database's driver
            said = " ".join(str(error).split())[:SAID].rstrip(".") or type(error).__name__
            fix = "Mend the file, or the database that it names"
            if POSTGRES in said and find_spec(POSTGRES) is None:
                fix = "Install what keeps an instance in Postgres: pip install 'ft-dagster[postgres]'"
            raise UserError(f"cannot be opened: {said}", file=home / "dagster.yaml", fix=fix) from error
        yield instance


def _watched(home: Path) -> dict[str, object]:
    """Return settings that have killed runs ended, where the instance's file says nothing else: older ones do
    not name it.
    """
    file = home / "dagster.yaml"
    said = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else None
    if not isinstance(said, dict):
        said = {}
    monitoring = {**MONITORING, **(said.get("run_monitoring") or {})}
    return {"run_launcher": said.get("run_launcher") or LAUNCHER, "run_monitoring": monitoring}


def show_release(settings: Settings, key: VariantKey, entry: ReleaseEntry) -> None:
    """Show in Dagster what the command line promoted or rolled back; the log in the store is the truth."""
    with open_instance(settings) as instance:
        page = put_into_production(settings, key, entry)
        instance.report_runless_asset_event(release_event(key, entry, page, GRAPH))


class LocationHere(WorkspaceLoadTarget):
    """Loads the project's code location of a workspace. One that would be served by this Python is loaded
    into this very process: a server for it takes 2 CPU s of each command. Others are asked where they are.

    `declared`: as the workspace has it, by which runs are known to daemon and UI.
    """

    def __init__(self, file: Path) -> None:
        origins = WorkspaceFileTarget([str(file)]).create_origins()
        self.declared = next((origin for origin in origins if origin.location_name == LOCATION), None)

    def create_origins(self) -> Sequence[CodeLocationOrigin]:
        if self.declared is None:
            return []
        if not isinstance(self.declared, ManagedGrpcPythonEnvCodeLocationOrigin):
            return [self.declared]
        target = self.declared.loadable_target_origin
        if target.executable_path is not None:
            return [self.declared]
        here = target.working_directory or os.getcwd()  # as a server says of itself
        target_here = target._replace(working_directory=here)
        return [InProcessCodeLocationOrigin(target_here, container_context={}, location_name=LOCATION)]


def launch(
    instance: dg.DagsterInstance, settings: Settings, keys: Sequence[VariantKey], reason: str
) -> Iterator[Launched]:
    """Submit a run of the whole chain for each variant, through the coordinator, as a schedule does: the UI's
    way would import GraphQL, 3 CPU s of each command.

    Each is yielded as soon as it is submitted. Raises UserError where the code location does not load or a
    run is refused.
    """
    if not keys:
        return
    instance.add_dynamic_partitions(PARTITIONS, [str(key) for key in keys])
    target = LocationHere(workspace_file(settings))
    with WorkspaceProcessContext(instance, target, code_server_log_level="WARNING") as process:
        for key in keys:
            try:
                yield Launched(key, _submit(process.create_request_context(), key, reason, target.declared))
            except dg.DagsterError as error:
                said, fix = str(error).partition("\n")[0], "See `dagster definitions validate`"
                raise UserError(f"Dagster refused a run of {key}: {said}", fix=fix) from None


def submitted(
    instance: dg.DagsterInstance, settings: Settings, key: VariantKey, statuses: list[dg.DagsterRunStatus]
) -> list[Launched]:
    """Return the runs of a variant's whole chain in these states, whoever submitted them; the oldest
    first.
    """
    filters = dg.RunsFilter(job_name=JOB, tags={PARTITION: str(key)}, statuses=statuses)
    runs = filter(own_runs(instance, settings), instance.get_runs(filters, ascending=True))
    return [
        Launched(key, run.run_id) for run in runs if run.asset_selection is None and STEPS not in run.tags
    ]


def _submit(
    workspace: WorkspaceRequestContext, key: VariantKey, reason: str, location: CodeLocationOrigin | None
) -> str:
    """Submit a run of the whole chain to the queue; it is of `location`. Return its id."""
    instance = workspace.instance
    repository = workspace.get_code_location(LOCATION).get_repository(REPOSITORY)
    assert location is not None  # of a workspace without it that line raised
    job = repository.get_full_job(JOB)
    plan = workspace.get_execution_plan(job, {}, None, None).execution_plan_snapshot
    run = instance.create_run(
        job_name=JOB,
        run_id=None,
        run_config={},
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags={**job.tags, **variant_tags(key, reason), PARTITION: str(key)},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=plan.step_keys_to_execute,
        execution_plan_snapshot=plan,
        job_snapshot=job.job_snapshot,
        parent_job_snapshot=job.parent_job_snapshot,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY), JOB),
        job_code_origin=job.get_python_origin(),
        asset_graph=workspace.asset_graph,
    )
    return instance.submit_run(run.run_id, workspace).run_id


def cancel(instance: dg.DagsterInstance, launched: Sequence[Launched], patience: float = 120) -> None:
    """Cancel every unfinished run and wait until each has ended. Who did not take it is asked again."""
    end = time.monotonic() + patience
    ask_at: dict[str, float] = {}
    while waiting := unfinished(instance, [newest_try(instance, run) for run in launched]):
        for run in waiting:
            if time.monotonic() >= ask_at.get(run.run_id, 0.0):
                taken = instance.run_coordinator.cancel_run(run.run_id)
                ask_at[run.run_id] = math.inf if taken else time.monotonic() + ASK_AGAIN
                if not taken:
                    _end_without_process(instance, run.run_id)
        if time.monotonic() > end:
            return
        time.sleep(1)


def _end_without_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Report a run as cancelled whose process was killed: nobody else will say that it has ended. One that
    failed already is not run again.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return
    if unfinished_runs.awaits_retry(instance, run):
        instance.add_run_tags(run_id, {WILL_RETRY: "false"})
    elif not run.is_finished and process_of(instance, run_id).state == "gone":
        instance.report_run_canceled(run)


def unfinished_of(instance: dg.DagsterInstance, settings: Settings, key: VariantKey) -> list[Launched]:
    """Return the runs of a variant that wait, are in progress or are to be run again, of whichever assets and
    whoever submitted them; the oldest first. None of another project's variant of this name on the instance.
    """
    tags = {VARIANT: str(key)}
    statuses = [*unfinished_runs.WAITING, *unfinished_runs.IN_PROGRESS]
    runs = list(instance.get_runs(dg.RunsFilter(tags=tags, statuses=statuses), ascending=True))
    failed = islice(newest_runs(instance, settings, key, [dg.DagsterRunStatus.FAILURE]), 1)
    runs += [r.dagster_run for r in failed if unfinished_runs.awaits_retry(instance, r.dagster_run)]
    return [Launched(key, run.run_id) for run in filter(own_runs(instance, settings), runs)]


def unfinished(instance: dg.DagsterInstance, launched: Sequence[Launched]) -> list[Launched]:
    return [run for run in launched if status_of(instance, run) not in FINISHED or is_retried(instance, run)]


def is_retried(instance: dg.DagsterInstance, launched: Launched) -> bool:
    """Say whether the daemon runs it again or is about to, since its process was killed: see `newest_try`."""
    run = instance.get_run_by_id(launched.run_id)
    return run is not None and unfinished_runs.is_retried(instance, run)


def newest_try(instance: dg.DagsterInstance, launched: Launched) -> Launched:
    """Return the run that the daemon launched in its place, or itself."""
    run = instance.get_run_by_id(launched.run_id)
    again = None if run is None else run.tags.get(RETRIED_BY)
    return launched if again is None else newest_try(instance, replace(launched, run_id=again))


def status_of(instance: dg.DagsterInstance, launched: Launched) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(launched.run_id)
    return dg.DagsterRunStatus.CANCELED if run is None else run.status


def current_step(instance: dg.DagsterInstance, run_id: str) -> tuple[str, float]:
    """Return the asset that a run is making now, or the last it made, and since when, in seconds since 1970:
    "", 0 before the first.
    """
    steps = [(s.start_time, s.step_key) for s in instance.get_run_step_stats(run_id) if s.start_time]
    began, name = max(steps, default=(0.0, ""))
    return name, began


def said_of_step(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return what a run said last, while its step says how far it is, or why it is tried again; empty once
    something else happened, and for what Dagster says of its own pipes.
    """
    for record in instance.get_records_for_run(run_id, limit=LAST_EVENTS, ascending=False).records:
        entry = record.event_log_entry
        if not entry.is_dagster_event:
            return "" if entry.user_message.startswith("[pipes]") else entry.user_message
        if entry.dagster_event_type not in TRIED_AGAIN:
            break
    return ""


def failure_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Say why a run did not succeed, in the words of its step or of its blocking check."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.status == dg.DagsterRunStatus.CANCELED:
        return WAS_CANCELLED
    if (failed := failed_step(instance, run_id)) is not None:
        return failed
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        if record.dagster_event and record.dagster_event.message:
            return record.dagster_event.message
    return "no step of it failed; see the run in the UI"


def failed_step(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Say which step of a run failed, or which blocking check, and why. The run may be in progress: it goes
    on with steps that do not need it.
    """
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = record.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found and found.blocking and not found.passed:
            return f"{found.asset_key.to_user_string()}: check {found.check_name} failed: {found.description}"
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = record.dagster_event
        if event is None:
            continue
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return f"{event.step_key}: {data.user_failure_data.description}"
        if data.error:
            return f"{event.step_key}: {data.error.message.strip()}"
    return None


def reused_everything(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Say whether each artifact that a run reported had been made before."""
    events = [
        r.dagster_event for r in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    ]
    said = [
        event.step_materialization_data.materialization.metadata.get("reused") for event in events if event
    ]
    return bool(said) and all(value is None or value.value is True for value in said)
