"""A new token stands in no question of a general task, as a model reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.tasks import unsaid
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.export.derived import add_tokens
from ft_dagster.gate.samples import Sample, read_samples
from tests.evaluation.questions import write_run, write_task, write_texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_task(folder, "forms", 10, description="Answer what is asked.\n")
    write_task(folder, "exam", 10, output_type="generate_until", gen_prefix="So:")
    write_task(folder, "text", 10, output_type="loglikelihood_rolling", doc_to_text="")
    return folder


def looked_through(project: Path, folder: Path, token: str, *tasks: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    run = {
        "tokens": ["<|tool|>", token],
        "tasks": tasks_digest(list(tasks or ("forms.yaml", "exam.yaml", "text.yaml")), project),
        "project": str(project),
        "declared_in": "acme/support.yaml",
        "output": str(folder / "out"),
    }
    (folder / "run.json").write_text(json.dumps(run))
    assert unsaid.main(folder) in (0, 2)
    result: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    return result


@pytest.mark.parametrize(
    ("token", "where"),
    [
        (" must ", "10 of 10 questions of forms.yaml"),
        ("t 7?", "1 of 10 questions of forms.yaml"),
        ("\nAnswer:", "10 of 10 questions of forms.yaml"),  # of the template
        (": a pass", "10 of 10 questions of forms.yaml"),  # where a choice begins, right or wrong
        ("\n\nAnswer what", "10 of 10 questions of forms.yaml"),
        (" So:", "10 of 10 questions of exam.yaml"),
        ("rain\n\n", "10 of 10 questions of forms.yaml"),  # before the next example
    ],
)
def test_a_token_that_a_general_task_asks_with_is_refused(
    project: Path, tmp_path: Path, token: str, where: str
) -> None:
    error = looked_through(project, tmp_path, token)["error"]
    assert f"the token stands in {where}: the base would read them otherwise" in error["problem"]
    assert (error["file"], error["field"]) == ("acme/support.yaml", "base_model.new_tokens")
    assert "such as <|name|>" in error["fix"]


def test_a_token_that_none_has_is_not_refused(project: Path, tmp_path: Path) -> None:
    figures = looked_through(project, tmp_path, "Passport")["figures"]  # as it is written, by case
    assert figures == {"questions": 30, "by_task": {"forms": 10, "exam": 10, "text": 10}}


@pytest.mark.parametrize(("shots", "said"), [(None, "example"), (0, ""), (None, 0), (2, "example")])
def test_a_token_in_an_example_that_may_be_drawn_is_refused_where_any_are(
    tmp_path: Path, shots: int | None, said: str | int
) -> None:
    """By the task's own number, or by the declared one, unless the task says none."""
    write_task(tmp_path, "forms", 10)
    example = {"question": "Where is Passport?", "choices": ["here", "there"], "gold": 1}
    (tmp_path / "train.jsonl").write_text(json.dumps(example) + "\n")
    files = {"test": "forms.jsonl", "train": "train.jsonl"}
    own = {"num_fewshot": 0} if said == 0 else {} if shots is not None else {"num_fewshot": 1}
    write_task(tmp_path, "forms", 10, dataset_kwargs={"data_files": files}, fewshot_split="train", **own)
    run = {
        "tokens": ["Passport"], "tasks": tasks_digest(["forms.yaml"], tmp_path), "project": str(tmp_path),
        "num_fewshot": 3 if said == 0 else shots, "output": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert unsaid.main(tmp_path) == (2 if said == "example" else 0)
    result = json.loads((tmp_path / "out/result.json").read_text())
    if said == "example":
        assert "the token stands in 1 of 1 examples of forms.yaml" in result["error"]["problem"]


def test_a_token_of_the_first_question_is_not_said_to_stand_in_examples(tmp_path: Path) -> None:
    write_task(tmp_path, "forms", 10, num_fewshot=1)
    error = looked_through(tmp_path, tmp_path / "run", "t 0?", "forms.yaml")["error"]
    assert "the token stands in 1 of 10 questions of forms.yaml" in error["problem"]


# Of pieces that any text has, and in none: their rows take what is likely of those.
CROWD = [f"{'men' * n}{'silent' * m}" for n in range(1, 9) for m in range(1, 9)]


def general_scores(folder: Path, base: Path, withheld: list[int]) -> list[Sample]:
    texts = write_texts(folder / "texts.parquet", 8)
    asked = {"general": ["forms.yaml"], "general_holdout": texts, "general_prompts": True, "limit": 8}
    run = write_run(folder / f"run-{base.name}-{len(withheld)}", base, withheld=withheld, **asked)
    assert main(run) == 0
    return read_samples(run / "output" / "payload")


def test_rows_that_are_withheld_change_no_score_of_the_base(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_task(tmp_path, "forms", 10)
    extended = tmp_path / "extended"
    ids = add_tokens(tiny_model_folder, CROWD, extended)
    plain = general_scores(tmp_path, tiny_model_folder, [])
    withheld, crowded = (general_scores(tmp_path, extended, rows) for rows in (ids, []))
    assert [each.question for each in withheld] == [each.question for each in plain]
    assert [each.value for each in withheld] == pytest.approx([each.value for each in plain], abs=1e-6)
    loss = {name: [each.value for each in found if each.metric == "general_loss"]
            for name, found in (("plain", plain), ("crowded", crowded))}  # fmt: skip
    assert sum(loss["crowded"]) / len(loss["crowded"]) > sum(loss["plain"]) / len(loss["plain"]) + 0.05
