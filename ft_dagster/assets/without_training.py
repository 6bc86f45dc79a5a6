"""Shows on pages what the base reaches without a training."""

from ft_dagster.assets.page import Metadata, lines
from ft_dagster.gate.prompted import Prompted, prompted_sentences
from ft_dagster.stage_entries import BASE_MODEL, TASK_DATASET
from ft_dagster.workspace.workspace import Workspace


def without_training(workspace: Workspace) -> Metadata:
    """Say what the base reaches with examples in its prompt; nothing where it was not asked so."""
    base, dataset = workspace.upstream(BASE_MODEL.name), workspace.upstream(TASK_DATASET.name)
    found = workspace.context.past.with_examples(base, dataset)
    goal = workspace.spec.evaluation.goal
    said = [line for each in found for line in prompted_sentences(Prompted.from_json(each.figures), goal)]
    return {"without_training": lines(said)} if said else {}
