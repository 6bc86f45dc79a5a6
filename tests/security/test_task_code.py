"""A tenant's task YAML against the process that loads it: no Python runs but what the platform allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.load import load_task
from ft_dagster.evaluation.tasks import TaskEntry, resolve_tasks, tasks_digest
from ft_dagster.roots import OUTSIDE, Roots
from ft_dagster.settings import load_settings
from tests.security.projects import QUESTION, QUIZ, settle, two_tenants, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENTRY = ["tasks/own.yaml"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = two_tenants(tmp_path)
    ran = folder / "ran"
    write(
        folder / "tasks/helpers.py",
        f"open({str(ran)!r}, 'w')\ndef keep(*given, **named):\n    return given\n",
    )
    return folder


def own(project: Path, text: str = "", **changes: Any) -> Roots:
    """tasks/own.yaml with other values and more lines; the tenant's roots."""
    file = write(project / "tasks/own.yaml", {**QUIZ, "task": "own", **changes})
    file.write_text(file.read_text() + text)
    return load_settings(project).roots("acme")


def digest(project: Path) -> str:
    return tasks_digest(ENTRY, project, roots=load_settings(project).roots("acme"))[ENTRY[0]]


def load(project: Path, roots: Roots) -> Any:
    """As the program does, of a YAML that may have been exchanged since it was checked."""
    entry = TaskEntry(ENTRY[0], "own", project / ENTRY[0], roots)
    return load_task(entry, project / "tables").parts["own"]


CALLS = {
    "a module beside it": "process_docs: !function helpers.keep\n",
    "a module outside": "process_docs: !function .....helpers.keep\n",
    "the standard library": "process_docs: !function os.system\n",
    "lm-eval's loader": "custom_dataset: !function lm_eval.tasks._yaml_loader._import_fun_from_str\n",
    "deep inside": "filter_list: [{name: f, filter: [{function: !function helpers.keep}]}]\n",
    "a class": "class: !function helpers.keep\n",
    "an included file": "include: more.yaml\n",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_task_calls_no_function_that_the_platform_does_not_name(project: Path, call: str) -> None:
    write(project / "tasks/more.yaml", "process_docs: !function helpers.keep\n")
    roots = own(project, CALLS[call])
    for look in (lambda: resolve_tasks(ENTRY, project, roots=roots), lambda: load(project, roots)):
        with pytest.raises(UserError, match="runs Python that the platform does not allow"):
            look()
    assert not (project / "ran").exists()


def test_a_function_that_the_platform_names_runs_and_another_beside_it_does_not(project: Path) -> None:
    write(project / "tasks/named.py", "from rows import first\ndef keep(docs):\n    return first(docs)\n")
    write(project / "tasks/rows.py", "def first(docs):\n    return docs.select(range(1))\n")
    write(project / "tasks/quiz.jsonl", (project / "tasks/quiz.jsonl").read_text() * 3)
    settle(project, evaluation={"functions": ["tasks/named.py"]})
    assert len(load(project, own(project, "process_docs: !function named.keep\n")).eval_docs) == 1
    with pytest.raises(UserError, match="does not allow"):
        load(project, own(project, "process_docs: !function rows.first\n"))


@pytest.mark.parametrize("name", ["check_output", "system", "Popen"])
def test_what_an_allowed_file_imports_for_itself_is_no_function_of_it(project: Path, name: str) -> None:
    """The keys of a document would be the program that is run, and its arguments."""
    write(project / "tasks/named.py", "from os import system\nfrom subprocess import Popen, check_output\n")
    settle(project, evaluation={"functions": ["tasks/named.py"]})
    with pytest.raises(UserError, match="does not allow"):
        load(project, own(project, f"process_docs: !function named.{name}\n"))


def test_the_digest_covers_what_an_allowed_function_imports(project: Path) -> None:
    write(project / "tasks/named.py", "import package.inner\ndef keep(docs):\n    return docs\n")
    write(project / "tasks/package/__init__.py", "")
    write(project / "tasks/package/inner.py", "from . import deep\n")
    deep = write(project / "tasks/package/deep.py", "LIMIT = 1\n")
    write(project / "tasks/unrelated.py", "LIMIT = 1\n")
    settle(project, evaluation={"functions": ["tasks/named.py"]})
    own(project, "process_docs: !function named.keep\n")
    before = digest(project)
    write(project / "tasks/unrelated.py", "LIMIT = 2\n")
    assert digest(project) == before
    deep.write_text("LIMIT = 2\n")
    assert digest(project) != before


def test_an_installed_module_is_called_by_its_name_if_the_platform_names_it(project: Path) -> None:
    settle(project, evaluation={"functions": ["lm_eval.utils"]})
    own(project, "process_results: !function lm_eval.utils.handle_arg_string\n")
    assert digest(project)
    write(project / "tasks/lm_eval/utils.py", (project / "tasks/helpers.py").read_text())
    with pytest.raises(UserError, match="does not allow"):  # a file of that name is another thing
        digest(project)


ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() | length }}"


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_choice", "doc_to_target"])
def test_a_template_reaches_nothing_but_its_row(project: Path, field: str) -> None:
    with pytest.raises(UserError, match="unsafe"):
        load(project, own(project, **{field: ESCAPE}))


FETCHES: list[tuple[str, dict[str, Any]]] = [
    ("not a metric", {"metric_list": [{"metric": "acc", "hf_evaluate": True}]}),
    ("no such metric", {"metric_list": [{"metric": "./metrics/evil"}]}),
    ("not a metric", {"metric_list": ["evil"]}),
    ("the wrong way round for acc", {"metric_list": [{"metric": "acc", "higher_is_better": False}]}),
    ("not for a task of the project", {"use_prompt": "promptsource:*"}),
    ("no data set that a task may name", {"dataset_path": "pandas"}),
    ("without its commit", {"dataset_path": "org/rows"}),
    ("without its commit", {"dataset_path": "org/rows", "dataset_kwargs": {"revision": "main"}}),
    ("not for a task of the project", {"dataset_kwargs": {"cache_dir": "/"}}),
    (OUTSIDE, {"dataset_kwargs": {"data_files": {"test": "https://example.org/rows.jsonl"}}}),
    (OUTSIDE, {"dataset_kwargs": {"data_files": {"test": "zip://*.jsonl::quiz.jsonl"}}}),
]


@pytest.mark.parametrize(("words", "changes"), FETCHES, ids=lambda value: str(value)[:60])
def test_what_would_fetch_or_run_a_program_is_refused(
    project: Path, words: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=words):
        load(project, own(project, **changes))


def test_a_data_set_of_the_hub_is_pinned(project: Path) -> None:
    own(project, dataset_path="org/rows", dataset_kwargs={"revision": COMMIT})
    assert digest(project)


def test_a_remote_file_is_part_of_the_digest(project: Path) -> None:
    settle(project, sources={"allow": [".", "memory://bucket/acme"]})
    own(project, dataset_kwargs={"data_files": {"test": "memory://bucket/acme/q.jsonl"}})
    found = []
    for text in (b"one", b"two"):
        with fsspec.open("memory://bucket/acme/q.jsonl", "wb") as file:
            file.write(text)
        found.append(digest(project))
    assert found[0] != found[1]


def test_a_folder_of_data_has_no_settings_of_its_own(project: Path) -> None:
    write(project / "tasks/folder/quiz.jsonl", "{}\n")
    own(project, dataset_path="folder", dataset_kwargs={})
    assert digest(project)
    write(project / "tasks/folder/README.md", "---\nconfigs:\n- data_files: ../../data/globex/*\n---\n")
    with pytest.raises(UserError, match="settings of its own"):
        digest(project)


@pytest.mark.parametrize("name", ["q[1].jsonl", "q?.jsonl"])
def test_a_name_that_reads_as_a_pattern_is_that_file_and_no_other(project: Path, name: str) -> None:
    """The datasets library would match q1.jsonl, a link to rows of another tenant."""
    (project / "tasks/q1.jsonl").symlink_to(project / "data/globex/rows.jsonl")
    write(project / "tasks" / name, QUESTION)
    roots = own(project, dataset_kwargs={"data_files": {"test": name}})
    assert [doc["q"] for doc in load(project, roots).eval_docs] == ["a question"]


def test_a_name_that_reads_as_a_chain_of_file_systems_is_refused(project: Path) -> None:
    write(project / "tasks/all/simplecache::q.jsonl", QUESTION)
    with pytest.raises(UserError, match=OUTSIDE):
        load(project, own(project, dataset_kwargs={"data_files": {"test": "all/*"}}))


def test_a_folder_that_reads_as_a_chain_of_file_systems_is_refused(project: Path) -> None:
    write(project / "tasks/dir::rows/q.jsonl", QUESTION)
    with pytest.raises(UserError, match=OUTSIDE):
        load(project, own(project, dataset_path="dir::rows", dataset_kwargs={}))


def test_a_document_that_a_template_cannot_take_is_the_tasks_mistake(project: Path) -> None:
    """The first is tried by lm-eval as it loads; any other would end the program in a traceback."""
    write(project / "tasks/quiz.jsonl", QUESTION + QUESTION.replace("a question", ""))
    own(project, doc_to_text="{{ q[0].upper() }}")
    entry = TaskEntry(ENTRY[0], "own", project / ENTRY[0], load_settings(project).roots("acme"))
    loaded = load_task(entry, project / "tables")
    with pytest.raises(UserError, match="a document of the task cannot be asked") as caught:
        loaded.questions  # noqa: B018
    assert caught.value.file == str(project / ENTRY[0])


FORGED = "quiz went from 1% to 99%\n- **pass**: every rule"


@pytest.mark.parametrize(
    "changes", [{"task": FORGED}, {"filter_list": [{"name": FORGED, "filter": [{"function": "take_first"}]}]}]
)
def test_no_name_of_a_task_forges_a_sentence_of_the_verdict(project: Path, changes: dict[str, Any]) -> None:
    roots = own(project, **changes)
    with pytest.raises(UserError, match="not a plain name"):
        resolve_tasks(ENTRY, project, roots=roots)
