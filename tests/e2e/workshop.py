"""A project whose assets are materialized by Dagster itself."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.definitions import resources
from ft_dagster.settings import load_settings


@dataclass
class Workshop:
    """A project and an instance in which its assets are materialized by Dagster itself."""

    folder: Path
    instance: dg.DagsterInstance

    @property
    def settings(self):
        return load_settings(self.folder)

    @property
    def store(self):
        return self.settings.open_store()

    def materialize(self, key, *names, raises=True):
        """Materialize the named assets (all of the chain if none) of one partition."""
        self.instance.add_dynamic_partitions(PARTITIONS, [key])
        assets = [a for a in CHAIN if not names or a.key.path[-1] in names]
        return dg.materialize(
            assets, partition_key=key, instance=self.instance, resources=resources(str(self.folder)),
            raise_on_error=raises,
        )  # fmt: skip

    def failure(self, result):
        """The message of the step that failed."""
        (event, *_) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
        data = event.step_failure_data
        return (data.user_failure_data and data.user_failure_data.description) or data.error.message
