"""A project whose assets are materialized by Dagster itself."""

from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources as resources
from ft_dagster.settings import Settings, load_settings
from ft_dagster.store import Store
from tests.present import present


def said_of(event: dg.DagsterEvent) -> str:
    """What a step said that failed by `dg.Failure`, as the graph's stages do for a user's mistake."""
    return present(present(event.step_failure_data.user_failure_data).description)


@dataclass
class Workshop:
    """A project and an instance in which its assets are materialized by Dagster itself.

    `first`: what its first materialization came to, where a fixture keeps it; `runs`: of several, by name.
    """

    folder: Path
    instance: dg.DagsterInstance
    first: dg.ExecuteInProcessResult = field(init=False)
    runs: dict[str, dg.ExecuteInProcessResult] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return load_settings(self.folder)

    @property
    def store(self) -> Store:
        return self.settings.open_store()

    def materialize(self, key: str, *names: str, raises: bool = True) -> dg.ExecuteInProcessResult:
        """Materialize the named assets (all of the chain if none) of one partition."""
        self.instance.add_dynamic_partitions(PARTITIONS, [key])
        assets = [a for a in CHAIN if not names or a.key.path[-1] in names]
        return dg.materialize(
            assets, partition_key=key, instance=self.instance, resources=resources(str(self.folder)),
            raise_on_error=raises,
        )  # fmt: skip

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        """The message of the step that failed."""
        (event, *_) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
        data = event.step_failure_data
        said = data.user_failure_data and data.user_failure_data.description
        return said or present(data.error).message
