"""Serves Dagster's web pages and the fleet's; ends with the command that started it: when stdin (a pipe)
reaches its end.

python -P -m ft_dagster.automation.processes.webserver_program HOST SOCKET    the number of one that is bound
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache

import dagster as dg
import uvicorn
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.applications import Starlette
from starlette.routing import Mount

from ft_dagster.automation.fleet_now import FleetReader
from ft_dagster.automation.processes.fleet_routes import fleet_routes
from ft_dagster.automation.processes.instance import workspace_file
from ft_dagster.dagster_private import WorkspaceFileTarget, WorkspaceProcessContext
from ft_dagster.report.pages.live import ROOT
from ft_dagster.settings import Settings, load_settings

END_SECONDS = 15.0  # for what clients still ask
STATEMENT_MS, RECYCLE_SECONDS, OVERFLOW = 15_000, 3_600, 20  # of a database's connections, as Dagster's own
POLL_MS = 2_000  # between two looks of an open page of Dagster's


def end_with_command() -> None:
    while os.read(0, 4096):
        pass
    timer = threading.Timer(END_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def address_of(host: str, port: int) -> str:
    """Return the address of the fleet page."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{ROOT}"


def serve(instance: dg.DagsterInstance, settings: Settings, host: str, listening: socket.socket) -> None:
    """Serve until SIGINT. Prints the address once requests are answered."""
    instance.optimize_for_webserver(STATEMENT_MS, RECYCLE_SECONDS, OVERFLOW)
    target = WorkspaceFileTarget([str(workspace_file(settings))])

    @asynccontextmanager
    async def announced(app: Starlette) -> AsyncIterator[None]:
        listening.listen()
        print(address_of(host, listening.getsockname()[1]), flush=True)
        yield

    with WorkspaceProcessContext(
        instance, target, version=__version__, code_server_log_level="warning"
    ) as workspace:
        reader = cache(lambda: FleetReader(instance, settings))
        dagsters = create_app_from_workspace_process_context(workspace, "", POLL_MS)
        app = Starlette(routes=[*fleet_routes(reader, host), Mount("/", dagsters)], lifespan=announced)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


def main(host: str, listening: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job leaves it ignored
    threading.Thread(target=end_with_command, name="command", daemon=True).start()
    with suppress(KeyboardInterrupt), dg.DagsterInstance.get() as instance:
        serve(instance, load_settings(), host, socket.socket(fileno=int(listening)))


if __name__ == "__main__":
    main(*sys.argv[1:])
