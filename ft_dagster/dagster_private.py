"""Gathers what the package takes of Dagster beyond its public names: look here after an upgrade of Dagster.

No other module imports a private module of Dagster; `make lint` refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg

# Dagster shows such an error by what a process said of it, without a stack.
from dagster._core.errors import DagsterUserCodeProcessError

# A line of a run's log that carries values.
# Why a run failed: of a step's failure Dagster runs none again.
from dagster._core.events import EngineEventData, JobFailureData, RunFailureReason

# Of backfills that have ended: Dagster runs none of their runs again.
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

# What a run launcher is given, and what it says of a run's process.
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus

# Where the code of a run is: a run that is submitted without GraphQL says it itself.
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    InProcessCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

# A code server, of which is asked whether it answers.
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation

# What a code location defines.
from dagster._core.remote_representation.external import RemoteRepository

# A workspace's code locations, opened by a command or by the daemon that it starts.
from dagster._core.workspace.context import (
    BaseWorkspaceRequestContext,
    IWorkspaceProcessContext,
    WorkspaceProcessContext,
    WorkspaceRequestContext,
)
from dagster._core.workspace.load_target import WorkspaceFileTarget, WorkspaceLoadTarget

# What runs a run elsewhere: the command of Dagster's own launchers.
from dagster._grpc.types import ExecuteRunArgs

# What an instance's dagster.yaml configures.
from dagster._serdes import ConfigurableClass, ConfigurableClassData

if TYPE_CHECKING:
    from dagster._daemon.controller import DagsterDaemonController


class CodeServerProcess(NamedTuple):
    """Says whether the process of a code server lives, and when it `started`, in seconds since 1970."""

    lives: bool
    started: float


# Tags of runs. Their names stand in the databases of instances, whichever version of Dagster wrote them.
AUTOMATED, BACKFILL = "dagster/auto_materialize", "dagster/backfill"
PARENT_RUN, RETRIED_BY = "dagster/parent_run_id", "dagster/auto_retry_run_id"
PARTITION, PRIORITY, RUN_KEY = "dagster/partition", "dagster/priority", "dagster/run_key"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
RETRY_ON_STEP_FAILURE, WILL_RETRY = "dagster/retry_on_asset_or_op_failure", "dagster/will_retry"
SCHEDULE, SENSOR, STEPS = "dagster/schedule_name", "dagster/sensor_name", "dagster/step_selection"
DATA_VERSION = "dagster/data_version"  # of a materialization

RELOAD_SECONDS = 60.0  # after which Dagster's daemon replaces its code servers


def daemon_threads(
    instance: dg.DagsterInstance, workspace: WorkspaceFileTarget
) -> AbstractContextManager[DagsterDaemonController]:
    """Run Dagster's daemon in threads of this process, while the block lasts."""
    from dagster._daemon.controller import daemon_controller_from_instance  # 300 modules, for a daemon alone

    return daemon_controller_from_instance(
        instance, workspace_load_target=workspace, code_server_log_level="warning"
    )


def id_of(daemon: DagsterDaemonController) -> str:
    """Return the id by which heartbeats name their daemon."""
    return daemon._daemon_uuid


def code_servers(daemon: DagsterDaemonController) -> Iterator[CodeServerProcess]:
    """Yield the code servers that a daemon started, also those that could not be started."""
    registry = daemon._grpc_server_registry
    for entry in () if registry is None else tuple(registry._active_entries.values()):
        server = getattr(entry, "process", None)
        lives = server is not None and server.server_process.poll() is None
        yield CodeServerProcess(lives, entry.creation_timestamp)
