import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks import task_files
from ft_dagster.evaluation.tasks.tasks import builtin_names, needs_network, resolve_tasks, tasks_digest
from ft_dagster.spec.yaml_files import load_yaml
from tests.evaluation.questions import write_task


@pytest.mark.slow
def test_an_unknown_task_gives_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arc_easy"):
        resolve_tasks(["arc_eazy"], tmp_path, field="evaluation.general")


def test_an_unknown_task_is_named_with_file_and_field(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        tasks_digest(["arc_eazy"], tmp_path, field="evaluation.general", asked_by="acme.yaml")
    said = error.value
    assert (said.file, said.field, said.value) == ("acme.yaml", "evaluation.general", "arc_eazy")
    assert "arc_easy" in said.fix


def test_a_missing_task_file_gives_the_nearest_file(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks")
    with pytest.raises(UserError, match=r"forms\.yaml"):
        resolve_tasks(["tasks/form.yaml"], tmp_path)


def test_tasks_groups_and_tags_of_lm_eval_are_known() -> None:
    assert {"arc_easy", "mmlu", "mmlu_anatomy", "ai2_arc", "mmlu_stem"} <= set(builtin_names())


def test_a_task_named_twice_is_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "a")
    write_task(tmp_path / "b")
    with pytest.raises(UserError, match="named twice"):
        resolve_tasks(["a/forms.yaml", "b/forms.yaml"], tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b\n", "not an lm-eval task"),
        ("task: [a, b\n", "expected"),
        ("dataset_path: json\n", "it has no name"),
        ("task: forms\n", "says no data"),
        ("group: forms\ntask: [a, b]\n", "a group of tasks"),
        ("include: other.yaml\ntask: forms\n", "no such file"),
        ("include: forms.yaml\ntask: forms\n", "includes itself"),
    ],
)
def test_a_file_that_is_no_task_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "forms.yaml").write_text(text)
    with pytest.raises(UserError, match=problem):
        resolve_tasks(["forms.yaml"], tmp_path)


def test_the_digest_changes_when_a_data_file_changes(tmp_path: Path) -> None:
    file = write_task(tmp_path)
    before = tasks_digest(["forms.yaml"], tmp_path)
    data = file.with_suffix(".jsonl")
    data.write_text(data.read_text().replace("account 3", "account three"))
    assert tasks_digest(["forms.yaml"], tmp_path) != before


def test_the_digest_changes_when_an_included_file_changes(tmp_path: Path) -> None:
    write_task(tmp_path, include="shared.yaml")
    (tmp_path / "shared.yaml").write_text("description: Answer.\n")
    before = tasks_digest(["forms.yaml"], tmp_path)
    (tmp_path / "shared.yaml").write_text("description: Answer well.\n")
    assert tasks_digest(["forms.yaml"], tmp_path) != before


def chain(folder: Path, length: int) -> None:
    """forms.yaml, which includes 1.yaml twice, which includes 2.yaml twice, and so on."""
    write_task(folder, include=["1.yaml", "1.yaml"])
    for number in range(1, length + 1):
        following = f"include: [{number + 1}.yaml, {number + 1}.yaml]\n" if number < length else ""
        (folder / f"{number}.yaml").write_text(following or "description: deepest\n")


def test_each_included_file_is_read_a_few_times_however_often_it_is_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[Path]()

    def counted(file: Path, loader: Any) -> Any:
        reads.append(file)
        assert len(reads) < 1000
        return load_yaml(file, loader)

    monkeypatch.setattr("ft_dagster.evaluation.tasks.task_files.load_yaml", counted)
    chain(tmp_path, 40)
    started = time.process_time()
    assert task_files.local_config(tmp_path / "forms.yaml")["description"] == "deepest"
    assert time.process_time() - started < 1.0
    assert len(reads) == 2 * 41


def test_a_task_of_very_many_included_files_is_refused(tmp_path: Path) -> None:
    chain(tmp_path, task_files.MOST_INCLUDES)
    assert len(task_files.task_references(tmp_path / "forms.yaml")) == task_files.MOST_INCLUDES + 2
    chain(tmp_path, task_files.MOST_INCLUDES + 1)
    with pytest.raises(UserError, match="more than 64 included files") as caught:
        resolve_tasks(["forms.yaml"], tmp_path)
    assert (caught.value.file, caught.value.field) == (str(tmp_path / "64.yaml"), "include")
    assert caught.value.fix


def test_of_files_that_are_included_the_later_one_wins(tmp_path: Path) -> None:
    """Of one that both others include, the later place counts: as lm-eval reads it."""
    write_task(tmp_path, include=["first.yaml", "second.yaml"])
    (tmp_path / "shared.yaml").write_text("description: shared\ntarget_delimiter: shared\n")
    (tmp_path / "first.yaml").write_text(
        "include: shared.yaml\ndescription: first\nfewshot_delimiter: first\n"
    )
    (tmp_path / "second.yaml").write_text("include: [shared.yaml]\ntarget_delimiter: second\n")
    config = task_files.local_config(tmp_path / "forms.yaml")
    said = [config[name] for name in ("description", "fewshot_delimiter", "target_delimiter")]
    assert said == ["shared", "first", "second"]


def test_a_cycle_behind_other_files_is_refused(tmp_path: Path) -> None:
    chain(tmp_path, 5)
    (tmp_path / "5.yaml").write_text("include: [3.yaml]\n")
    with pytest.raises(UserError, match="includes itself") as caught:
        resolve_tasks(["forms.yaml"], tmp_path)
    assert caught.value.file == str(tmp_path / "3.yaml")


def test_the_digest_changes_when_a_function_of_the_task_changes(tmp_path: Path) -> None:
    file = write_task(tmp_path)
    file.write_text(file.read_text() + "process_docs: !function helpers.keep\n")
    (tmp_path / "helpers.py").write_text("def keep(docs):\n    return docs\n")
    before = tasks_digest(["forms.yaml"], tmp_path)
    (tmp_path / "helpers.py").write_text("def keep(docs):\n    return docs.select(range(3))\n")
    assert tasks_digest(["forms.yaml"], tmp_path) != before


def test_the_digest_stays_when_the_project_moves(tmp_path: Path) -> None:
    write_task(tmp_path / "here" / "tasks")
    before = tasks_digest(["tasks/forms.yaml"], tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert tasks_digest(["tasks/forms.yaml"], tmp_path / "there") == before


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    write_task(tmp_path).with_suffix(".jsonl").unlink()
    with pytest.raises(UserError, match=r"forms\.jsonl"):
        tasks_digest(["forms.yaml"], tmp_path)


def test_builtin_tasks_have_digests_of_their_own(tmp_path: Path) -> None:
    digests = tasks_digest(["arc_easy", "mmlu", "ai2_arc"], tmp_path)
    assert list(digests) == ["arc_easy", "mmlu", "ai2_arc"]
    assert len(set(digests.values())) == 3


def test_only_local_files_need_no_network(tmp_path: Path) -> None:
    write_task(tmp_path)
    write_task(tmp_path, "far", dataset_kwargs={"data_files": {"test": "https://example.org/x.jsonl"}})
    write_task(tmp_path, "hub", dataset_path="allenai/sciq")
    entries = resolve_tasks(["forms.yaml", "far.yaml", "hub.yaml", "arc_easy"], tmp_path)
    assert [needs_network(entry) for entry in entries] == [False, True, True, True]


@pytest.mark.slow
def test_what_the_code_location_imports_stays_light() -> None:
    rooms = (
        "evaluation.tasks.tasks",
        "evaluation.request",
        "evaluation.skills",
        "gate.gates",
        "gate.samples",
    )
    modules = ", ".join(f"ft_dagster.{name}" for name in rooms)
    heavy = "{'torch', 'lm_eval', 'datasets', 'transformers', 'pyarrow', 'dagster'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert done.stdout.strip() == "[]"
