"""Makes of a run what its job asks for and is told: by its variant's declaration, never by a tag that its
submitter wrote.
"""

import sys
from pathlib import Path

import dagster as dg

from ft_dagster.automation.clusters.command import command_of, environment_of
from ft_dagster.automation.slurm import commands as slurm
from ft_dagster.automation.tags import NOBODY, VARIANT
from ft_dagster.cluster import SLURM_CONFIG
from ft_dagster.cluster_refusals import refuse_secret_variables
from ft_dagster.fleet.device_hours import may_compute
from ft_dagster.launch.launcher import credentials
from ft_dagster.launch.processes import GRACE
from ft_dagster.settings import PROJECT_VARIABLE, load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.spec.variant import ResourcesSpec

OPTION = dg.Field(str, is_required=False)
GPU = dg.Shape({"name": str, "memory_gb": float})  # type: ignore[no-untyped-call]  # what its driver calls it; GB of 1e9 bytes
GPUS, VALUES = dg.Map(str, GPU), dg.Map(str, str)  # type: ignore[no-untyped-call]
CONFIG = {  # defaults are those of `slurm.SlurmOptions`
    **dict.fromkeys(("partition", "account", "qos", "time_limit"), OPTION),
    "gpus": dg.Field(GPUS, is_required=False, description="By Slurm's type; none: jobs get cores"),
    "cpus_per_gpu": dg.Field(int, is_required=False),
    "cpus": dg.Field(int, is_required=False, description="Where no GPU and no cpu_slots are declared"),
    "memory_gb": dg.Field(float, is_required=False, description="Of each job, GB of 1e9 bytes"),
    "grace_seconds": dg.Field(
        int, is_required=False, description="Before its time is up a run is interrupted"
    ),
    "environment": dg.Field(VALUES, is_required=False, description="Who sees a job can read it"),
    "environment_file": dg.Field(str, is_required=False, description="On each node, with what is secret"),
}


def name_of(run: dg.DagsterRun) -> str:
    """Return the name of a run's job."""
    return slurm.job_name(run.tags.get(VARIANT, NOBODY), run.run_id)


def output_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Path:
    """Return the file into which a run's job prints."""
    return Path(instance.root_directory) / "slurm" / f"{name_of(run)}.out"


def order_of(
    options: slurm.SlurmOptions, instance: dg.DagsterInstance, run: dg.DagsterRun, project: str
) -> tuple[list[str], str]:
    """Return the arguments of `sbatch` and the script of a run's job. Raises UserError."""
    refuse_secret_variables(options.environment, f"{SLURM_CONFIG}.environment")
    settings, variant = load_settings(project or None), run.tags.get(VARIANT, NOBODY)
    key = None if variant == NOBODY else VariantKey.parse(variant)
    declared = None if key is None else Declarations(settings.project).declared(key).spec.resources
    output = output_of(instance, run)
    output.parent.mkdir(exist_ok=True)
    found = environment_of(instance)
    environment = {**found, PROJECT_VARIABLE: str(settings.project)}
    environment[GRACE] = str(options.grace_seconds // 2)  # the other half is for sending what was saved
    places = [f"--chdir={found['DAGSTER_HOME']}", f"--output={str(output).replace('%', '%%')}"]
    profile = settings.store_profiles.of(None if key is None else key.tenant)
    environment |= credentials(profile)
    entry, command = command_of(run)
    # A job has no PATH of ours.
    python = entry if entry[0].startswith("/") else [sys.executable, "-m", "dagster"]
    arguments = [*options.arguments(), *places, *devices_of(options, run, declared)]
    return arguments, slurm.script_of([*python, *command], options, environment)


def devices_of(options: slurm.SlurmOptions, run: dg.DagsterRun, declared: ResourcesSpec | None) -> list[str]:
    """Return what a run's job asks for; of a run that computes nothing that is a core."""
    chosen = {key.path[-1] for key in run.asset_selection or ()}
    if declared is None or (chosen and not may_compute(chosen)):
        return ["--cpus-per-task=1"]
    return slurm.devices(options, declared)
