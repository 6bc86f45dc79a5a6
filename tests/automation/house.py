"""A code location and its instance without a daemon, and what the UI sends it."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.schema import create_schema

from ft_dagster.automation.processes.instance import LOCATION
from tests.present import present

LOG = logging.getLogger("test")
REPOSITORY = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PipelineNotFoundError { message }
    ... on InvalidSubsetError { message }
  }
}
"""
BACKFILL = """
mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""


class House:
    """A project, its instance as `write_home` makes it, and its code location, without a daemon. It is the
    source of what is asked of it, as the web request is in the webserver.
    """

    def __init__(self, instance: dg.DagsterInstance, process: WorkspaceProcessContext, project: Path) -> None:
        self.instance, self.process, self.project = instance, process, project

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        request = self.process.create_request_context(self)
        asked = create_schema().execute_async(query, context_value=request, variable_values=variables)
        result = asyncio.run(asked)
        assert not result.errors, result.errors
        (answer,) = result.data.values()
        assert answer["__typename"].endswith("Success"), answer
        return answer

    def press_materialize(self, tags: dict[str, str]) -> str:
        """As the UI does; the id of the run."""
        answer = self.launch_answer(tags)
        assert answer["__typename"].endswith("Success"), answer
        return str(answer["run"]["runId"])

    def launch_answer(self, tags: dict[str, str], **more: Any) -> dict[str, Any]:
        """What GraphQL answers to a launch of one asset, whatever it is."""
        selector = {
            **REPOSITORY,
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["declaration"]}],
        }
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        params = {
            "selector": selector,
            "mode": "default",
            "executionMetadata": {"tags": listed},
            **more,
        }
        request = self.process.create_request_context(self)
        asked = create_schema().execute_async(
            LAUNCH, context_value=request, variable_values={"params": params}
        )
        answer: dict[str, Any] = present(asyncio.run(asked).data)["launchPipelineExecution"]
        return answer

    def run(self, run_id: str) -> dg.DagsterRun:
        return present(self.instance.get_run_by_id(run_id))

    def tags(self, run_id: str) -> Mapping[str, str]:
        return self.run(run_id).tags

    def newest(self, **tags: str) -> dict[str | None, Mapping[str, str]]:
        """Runs with such tags, by variant."""
        filters = dg.RunsFilter(tags={name.replace("__", "/"): value for name, value in tags.items()})
        return {run.tags.get("ft/variant"): run.tags for run in self.instance.get_runs(filters)}
