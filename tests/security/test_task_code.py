"""A tenant's task YAML against the process that loads it: no Python runs but what the platform allows, and
its data is read where it lies.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import inspect
import io
import json
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.evaluation.tasks import task_files
from ft_dagster.evaluation.tasks.load import load_task
from ft_dagster.evaluation.tasks.tasks import TaskEntry, resolve_tasks, tasks_digest
from ft_dagster.evaluation.tasks.texts import write_texts
from ft_dagster.roots import OUTSIDE, Roots
from ft_dagster.settings import load_settings
from tests.security.projects import QUESTION, QUIZ, SECRET, settle, two_tenants, write

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
    ("the wrong way round for acc", {"metric_list": [{"metric": "acc", "higher_is_better": None}]}),
    (
        "the wrong way round for acc",
        {"metric_list": [{"metric": "acc", "higher_is_better": False}], "process_results": "as usual"},
    ),
    ("no such metric", {"metric_list": [{"metric": "./metrics/evil"}], "process_results": "as usual"}),
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


def test_a_remote_file_is_asked_as_it_is_now(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    settle(project, sources={"allow": [".", "memory://bucket/acme"]})
    roots = own(project, dataset_kwargs={"data_files": {"test": "memory://bucket/acme/now.jsonl"}})
    entry = TaskEntry(ENTRY[0], "own", project / ENTRY[0], roots)
    for text in ("one", "two"):
        with fsspec.open("memory://bucket/acme/now.jsonl", "wb") as file:
            file.write(QUESTION.replace("a question", text).encode())
        part = load_task(entry, project / text).parts["own"]
        assert [doc["q"] for doc in part.eval_docs] == [text]


@pytest.mark.parametrize("before", ["", "\n", " \r\n\t"])
def test_a_folder_of_data_has_no_settings_of_its_own(project: Path, before: str) -> None:
    write(project / "tasks/folder/quiz.jsonl", "{}\n")
    own(project, dataset_path="folder", dataset_kwargs={})
    assert digest(project)
    settings = "---\nconfigs:\n- data_files: ../../data/globex/*\n---\n"
    write(project / "tasks/folder/README.md", before + settings)
    with pytest.raises(UserError, match="settings of its own"):
        digest(project)


KINDS: dict[str, dict[str, Any]] = {
    "json": {"dataset_kwargs": {"data_files": {"test": "data.jsonl"}}},
    "csv": {"dataset_path": "csv", "dataset_kwargs": {"data_files": {"test": "data.jsonl"}}},
    "text": {"dataset_path": "text", "dataset_kwargs": {"data_files": {"test": "data.jsonl"}}},
    "parquet": {"dataset_path": "parquet", "dataset_kwargs": {"data_files": {"test": "data.jsonl"}}},
    "folder": {"dataset_path": "folder", "dataset_kwargs": {}, "test_split": "train"},
    "data_dir": {"dataset_kwargs": {"data_dir": "folder"}, "test_split": "train"},
}


def away(target: Path) -> str:
    """A member's name that leads to `target`: `..` after a link to `.` counts otherwise than it reads."""
    return "d/" + "s/" * 20 + "../" * 20 + str(target).lstrip("/")


def packed(project: Path, kind: str, *members: tuple[str, bytes, str, bytes]) -> Path:
    """The data of tasks/own.yaml, a tar. `members`: name, type, where it links to, content."""
    place = project / "tasks" / ("data.jsonl" if "data_files" in str(KINDS[kind]) else "folder/data.jsonl")
    place.parent.mkdir(exist_ok=True)
    with tarfile.open(place, "w") as tar:
        for name, sort, link, content in (
            ("d", tarfile.DIRTYPE, "", b""),
            ("d/s", tarfile.SYMTYPE, ".", b""),
            *members,
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode, member.size = sort, link, 0o755, len(content)
            tar.addfile(member, io.BytesIO(content))
    return place


def texts(project: Path, tasks: dict[str, str], roots: Roots) -> None:
    """Write project/run/payload/texts.parquet, as the program does that reads all questions."""
    output = project / "run"
    (output / "payload").mkdir(parents=True)
    write_texts(TextsRequest(tasks=tasks, project=project, roots=roots, output=output))


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before a load passes every archive; the settings that a program makes go with the test."""
    monkeypatch.setattr(task_files, "refuse_packed", lambda *given, **named: None)
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_no_file_of_rows(project: Path, kind: str) -> None:
    packed(project, kind, ("rows.jsonl", tarfile.REGTYPE, "", QUESTION.encode()))
    roots = own(project, **KINDS[kind])
    for look in (lambda: digest(project), lambda: load(project, roots)):
        with pytest.raises(UserError, match="an archive, where a file of rows is needed") as caught:
            look()
        assert caught.value.file == str(project / ENTRY[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_member_of_an_archive_is_written_anywhere(project: Path, kind: str, unseen: None) -> None:
    policy = write(project / "policy.yaml", "gates: {general_margin: 0.02}\n")
    lax = b"gates: {general_margin: 1.0}\n"
    packed(
        project,
        kind,
        (away(policy), tarfile.REGTYPE, "", lax),
        ("q.jsonl", tarfile.REGTYPE, "", QUESTION.encode()),
    )
    roots = own(project, **KINDS[kind])
    with pytest.raises(UserError, match=r"lm-eval cannot load the task|a document .* cannot be asked"):
        texts(project, {ENTRY[0]: digest(project)}, roots)
    assert policy.read_text() == "gates: {general_margin: 0.02}\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_member_of_an_archive_is_another_tenants_file(project: Path, kind: str, unseen: None) -> None:
    rows = f"text\n{SECRET}\n" if kind == "csv" else json.dumps({"text": SECRET}) + "\n"
    theirs = write(project / "data/globex/rows.jsonl", rows)
    packed(project, kind, ("rows.jsonl", tarfile.SYMTYPE, away(theirs), b""))
    told: dict[str, Any] = {"doc_to_text": "{{text}}", "doc_to_choice": ["yes", "no"], "doc_to_target": 0}
    roots = own(project, **KINDS[kind], **told)
    with contextlib.suppress(UserError):
        texts(project, {ENTRY[0]: digest(project)}, roots)
    assert "vault" not in str(pq.read_table(project / "run/payload/texts.parquet").to_pylist())


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("q.jsonl", content)
    return made.getvalue()


PACKED: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("q.jsonl", zipped, "an archive"),
    ("q.zip", zipped, "an archive"),
    ("q.jsonl", lambda content: content + zipped(content), "an archive"),
    ("q.jsonl", lambda content: b"Rar!\x1a\x07\x00" + content, "an archive"),
    ("q.jsonl", lambda content: b"7z\xbc\xaf\x27\x1c" + content, "an archive"),
    ("q.jsonl", gzip.compress, "whose name does not say so"),
    ("q.jsonl.gz", bz2.compress, "whose name does not say so"),
]


@pytest.mark.parametrize(("name", "pack", "words"), PACKED)
def test_what_the_library_would_unpack_is_refused(
    project: Path, name: str, pack: Callable[[bytes], bytes], words: str
) -> None:
    (project / "tasks" / name).write_bytes(pack(QUESTION.encode()))
    own(project, dataset_kwargs={"data_files": {"test": name}})
    with pytest.raises(UserError, match=words) as caught:
        digest(project)
    assert caught.value.field == "dataset_kwargs.data_files"
    assert caught.value.value == str(project / "tasks" / name)


def numbered(kind: str, number: int) -> str:
    row = {"q": f"question {number}", "c": ["yes", "no"], "a": 0}
    return f'q\n"question {number}"\n' if kind == "csv" else json.dumps(row) + "\n"


@pytest.mark.parametrize("pack", [gzip, bz2])
@pytest.mark.parametrize("kind", ["json", "csv", "text"])
def test_a_compressed_file_is_read_as_it_is_now(project: Path, kind: str, pack: Any) -> None:
    name = f"q.{'csv' if kind == 'csv' else 'jsonl'}.{'gz' if pack is gzip else 'bz2'}"
    told: dict[str, Any] = {
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": 0,
        "doc_to_text": "{{q | default(text)}}",
    }
    for number in (1, 2):
        (project / "tasks" / name).write_bytes(pack.compress(numbered(kind, number).encode()))
        files = {"data_files": {"test": name}}
        roots = own(project, dataset_path=kind, dataset_kwargs=files, **told)
        entry = TaskEntry(ENTRY[0], "own", project / ENTRY[0], roots)
        part = load_task(entry, project / f"tables{number}").parts["own"]
        assert [f"question {number}" in part.doc_to_text(doc) for doc in part.eval_docs] == [True]


def test_a_task_writes_nothing_outside_of_its_run(project: Path) -> None:
    own(
        project,
        dataset_kwargs={"data_files": {"test": "quiz.jsonl"}, "config_id": str(project / "data/globex")},
    )
    with pytest.raises(UserError, match="not for a task of the project") as caught:
        digest(project)
    assert caught.value.field == "dataset_kwargs.config_id"


# What a task may say of its loading, and what fails since lm-eval or ft_dagster says it.
KNOWN = {"data_dir", "data_files", "download_mode", "features", "revision", "writer_batch_size"}
SAID = {"config_name", "dataset_name", "hash", "info", "name", "path"}


def test_every_argument_of_the_datasets_library_is_known() -> None:
    """One that a new version adds may lead out of the run, as `config_id` did."""
    from datasets import DatasetBuilder, load_dataset_builder

    arguments: set[str] = set()
    for called in (DatasetBuilder.__init__, load_dataset_builder):
        arguments |= inspect.signature(called).parameters.keys()
    assert arguments - {"self", "config_kwargs"} == KNOWN | SAID | set(task_files._REFUSED_KWARGS) - {
        "num_proc"
    }


def with_a_picture(project: Path, value: dict[str, Any], **changes: Any) -> Roots:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"q": ["a question"], "im": pa.array([value], kind)})
    said = json.dumps(
        {"info": {"features": {"im": {"_type": "Image"}, "q": {"_type": "Value", "dtype": "string"}}}}
    )
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), project / "tasks/q.parquet")
    told: dict[str, Any] = {"doc_to_text": "{{im.size}}", "doc_to_choice": ["yes", "no"], "doc_to_target": 0}
    files = {"data_files": {"test": "q.parquet"}}
    return own(project, dataset_path="parquet", dataset_kwargs=files, **told, **changes)


@pytest.mark.parametrize("words", [{}, {"custom_dataset": "mine"}, {"metadata": {"version": 1}}])
def test_a_row_opens_no_file_that_it_names(project: Path, words: dict[str, Any]) -> None:
    from PIL import Image

    theirs = project / "data/globex/plan.png"
    Image.new("RGB", (4, 4)).save(theirs)
    for value in ({"bytes": None, "path": str(theirs)}, {"bytes": theirs.read_bytes(), "path": None}):
        with pytest.raises(UserError, match="columns that are no plain values") as caught:
            load(project, with_a_picture(project, value, **words))
        assert "im" in str(caught.value.fix)


def test_a_folder_nested_too_deep_is_the_tasks_mistake(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path, pattern: str) -> list[Path]:
        raise RecursionError

    (project / "tasks/folder").mkdir()
    roots = own(project, dataset_path="folder", dataset_kwargs={})
    monkeypatch.setattr(Path, "rglob", fails)
    with pytest.raises(UserError, match="nested too deep"):
        load(project, roots)


def test_a_folder_is_of_plain_files(project: Path) -> None:
    from PIL import Image

    (project / "tasks/folder").mkdir()
    Image.new("RGB", (4, 4)).save(project / "tasks/folder/a.png")
    with pytest.raises(UserError, match="not a data set of plain files"):
        load(project, own(project, dataset_path="folder", dataset_kwargs={}, test_split="train"))


@pytest.mark.parametrize("column", ["at", "took"])
def test_a_template_calls_nothing_of_another_library(project: Path, column: str) -> None:
    """A time in nanoseconds is an object of pandas, by which one of numpy is reached, which writes a file."""
    policy = write(project / "policy.yaml", "gates: {general_margin: 0.02}\n")
    times = {"at": pa.array([1], pa.timestamp("ns")), "took": pa.array([1], pa.duration("ns"))}
    pq.write_table(pa.table(times), project / "tasks/q.parquet")
    files = {"data_files": {"test": "q.parquet"}}
    told: dict[str, Any] = {"doc_to_choice": ["yes", "no"], "doc_to_target": 0}
    text = f"{{{{ {column}.to_numpy().tofile('{policy}') }}}}"
    with pytest.raises(UserError, match="unsafe"):
        load(project, own(project, dataset_path="parquet", dataset_kwargs=files, doc_to_text=text, **told))
    assert policy.read_text() == "gates: {general_margin: 0.02}\n"
    told["doc_to_text"] = f"{{{{ {column} }}}}"
    part = load(project, own(project, dataset_path="parquet", dataset_kwargs=files, **told))
    assert part.doc_to_text(part.eval_docs[0])


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


def test_a_document_that_a_function_cannot_take_is_not_quoted(project: Path) -> None:
    write(project / "tasks/quiz.jsonl", QUESTION + QUESTION.replace("a question", SECRET))
    write(
        project / "tasks/hooks.py",
        "def asked(doc):\n    return doc['q'] if ' ' not in doc['q'][12:] else {}[doc['q']]\n",
    )
    settle(project, evaluation={"functions": ["tasks/hooks.py"]})
    config = {name: value for name, value in QUIZ.items() if name != "doc_to_text"}
    write(project / "tasks/own.yaml", {**config, "task": "own"})
    with (project / "tasks/own.yaml").open("a") as file:
        file.write("doc_to_text: !function hooks.asked\n")
    entry = TaskEntry(ENTRY[0], "own", project / ENTRY[0], load_settings(project).roots("acme"))
    loaded = load_task(entry, project / "tables")
    with pytest.raises(UserError, match=r"cannot be asked: KeyError in hooks\.py, line 2") as caught:
        loaded.questions  # noqa: B018
    assert SECRET not in "".join(traceback.format_exception(caught.value))


FORGED = "quiz went from 1% to 99%\n- **pass**: every rule"


@pytest.mark.parametrize(
    "changes", [{"task": FORGED}, {"filter_list": [{"name": FORGED, "filter": [{"function": "take_first"}]}]}]
)
def test_no_name_of_a_task_forges_a_sentence_of_the_verdict(project: Path, changes: dict[str, Any]) -> None:
    roots = own(project, **changes)
    with pytest.raises(UserError, match="not a plain name"):
        resolve_tasks(ENTRY, project, roots=roots)
