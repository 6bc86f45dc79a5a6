"""Says how the few-shot examples of declared tasks are drawn, and what that means for the time of judging."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import shots
from ft_dagster.stages import evaluation_texts
from ft_dagster.workspace.workspace import Workspace


def few_shot_lines(workspace: Workspace) -> tuple[str, ...]:
    """Return a sentence for each task with examples; none for tasks whose texts were not read yet."""
    try:
        texts = evaluation_texts.read_for(workspace)
    except UserError:
        return ()
    tasks = {} if texts is None else texts.figures.get("examples", {})
    declared = workspace.spec.evaluation.num_fewshot
    found = {
        (task, part["sampler"], count): None
        for task, parts in tasks.items()
        for part in parts
        if (count := shots(part["num_fewshot"], declared))
    }
    return tuple(_sentence(*each) for each in found)


def _sentence(task: str, sampler: str, count: int) -> str:
    if sampler == "first_n":
        return (
            f"{task} has the same {count} examples before all questions (first_n): they are computed once, "
            "and judging takes little longer than without them, but on bases with windows or recurrent layers"
        )
    how = "lm-eval's default" if sampler == "default" else f"sampler {sampler}"
    return (
        f"{task} draws {count} examples anew for each question ({how}): nothing is shared, and a question "
        f"takes about {count + 1} times as long as without them"
    )
