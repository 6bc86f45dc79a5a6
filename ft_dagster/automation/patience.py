"""Sets how long Dagster's programs wait for each other. Dagster reads it when it is imported, and gives the
start of a run a minute unless it is told otherwise: too little on a host with much else to do.
"""

from collections.abc import MutableMapping

START_SECONDS = 300  # for a run to start; then Dagster's run monitoring ends it, too
END_SECONDS = 60  # for a code server to end, whatever is asked of it just then
PATIENCE = {
    "DAGSTER_GRPC_TIMEOUT_SECONDS": str(START_SECONDS),
    "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": str(END_SECONDS),
}


def be_patient(environment: MutableMapping[str, str]) -> None:
    """Set the patience of this process, before it imports Dagster, and of what it starts. What is set
    stays.
    """
    for name, seconds in PATIENCE.items():
        environment.setdefault(name, seconds)
