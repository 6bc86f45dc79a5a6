"""Run one of the project's programs from an asset: lease, process tree, Dagster Pipes, result."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.launch.leases import Ask, Lease
from ft_dagster.launch.local import failure_of, run_program
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.resources.gpus import Gpus

MODULES = "ft_dagster"
OFFLINE_DEFAULTS = {"TOKENIZERS_PARALLELISM": "false"}


class LocalLauncher(dg.ConfigurableResource[None]):
    """Starts programs on this host. `ft_dagster.<program>` reads RUN_DIR/run.json, writes result.json."""

    gpus: Gpus

    def run(
        self,
        context: dg.AssetExecutionContext,
        program: str,
        run_dir: Path,
        ask: Ask | None,
        reports: bool,
    ) -> dict[str, Any]:
        """Run a program under a lease (`ask`) or without one; returns its result.json.

        `reports` says that the program tells its progress through Dagster Pipes.

        Raises ProgramFailed.
        """
        result_file = result_path(run_dir)
        result_file.unlink(missing_ok=True)
        warm = as_environment(self.gpus.host())
        with self._lease(context, ask) as lease, _pipes(context, reports) as environment:
            given = {**OFFLINE_DEFAULTS, **warm, **environment}
            code = run_program(f"{MODULES}.{program}", run_dir, lease, environment=given)
        result = json.loads(result_file.read_text("utf-8")) if result_file.exists() else {}
        failure = failure_of(program, code, result)
        if failure is not None:
            raise failure
        return dict(result)

    @contextmanager
    def _lease(self, context: dg.AssetExecutionContext, ask: Ask | None) -> Iterator[Lease | None]:
        holder = nullcontext() if ask is None else self.gpus.leases().acquire(ask, on_wait=context.log.info)
        with holder as lease:
            if lease is not None:
                context.log.info(f"{lease.kind} {', '.join(lease.devices)} leased to {context.partition_key}")
            yield lease


@contextmanager
def _pipes(context: dg.AssetExecutionContext, reports: bool) -> Iterator[dict[str, str]]:
    """The environment with which a program reports to this step through Dagster Pipes."""
    if not reports:
        yield {}
        return
    injector, reader = dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader()
    with dg.open_pipes_session(context, injector, reader) as session:
        yield dict(session.get_bootstrap_env_vars())


def result_path(run_dir: Path) -> Path:
    """Where a program leaves its result: in the folder that its run.json names as `output`."""
    run = json.loads((run_dir / "run.json").read_text("utf-8"))
    output = run["output"] if "output" in run else run["members"][0]["output"]
    return Path(output) / "result.json"
