"""What the package warns of while a step works stands in the log of its run."""

import logging
import threading

import dagster as dg

from ft_dagster.assets.failures import failures
from ft_dagster.automation.processes.instance import said_of_step

log = logging.getLogger("ft_dagster.store.blobs")


def test_a_warning_of_a_thread_is_the_last_that_a_run_says() -> None:
    during = []

    @dg.asset
    def probe(context: dg.AssetExecutionContext) -> None:
        with failures(context):
            thread = threading.Thread(target=log.warning, args=("%s does not answer", "the storage"))
            thread.start()
            thread.join()
            during.append(said_of_step(context.instance, context.run_id))
        log.warning("of nobody's step")

    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([probe], instance=instance).run_id
        said = [entry.user_message for entry in instance.all_logs(run) if not entry.is_dagster_event]

    assert during == ["the storage does not answer"]
    assert said == during
