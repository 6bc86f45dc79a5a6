"""Whether a variant stands as it is: all that a run would notice is noticed, and nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.release import ReleaseRequest, rollback
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import general_corpus
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import release
from ft_dagster.versions.now import CurrentVersion, up_to_date
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit
from tests.present import present
from tests.stage_version import set_version

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
FILE = f"tenants/{KEY.tenant}/{KEY.variant}.yaml"


@pytest.fixture
def project(chained: Workspace, tmp_path: Path) -> Path:
    return shutil.copytree(chained.project, tmp_path / "project")


def look(project: Path) -> CurrentVersion | None:
    return up_to_date(load_settings(project), KEY)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of a store."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_what_a_run_would_find_unchanged_stands_and_nothing_is_written(project: Path) -> None:
    store = project / ".ft_dagster" / "store"
    before = tree(store)
    found = present(look(project))
    assert tree(store) == before
    workspace = Workspace(load_settings(project), KEY)
    newest = {stage.name: workspace.upstream(stage.name).digest for stage in CHAIN}
    assert found.digests == {**newest, "release": newest["model_export"]}
    assert found.released.entry.version == 1


@pytest.mark.long
def test_a_look_imports_no_library_that_takes_seconds(project: Path) -> None:
    program = (
        "import sys; from ft_dagster.settings import load_settings; from ft_dagster.spec import VariantKey\n"
        "from ft_dagster.versions.now import up_to_date\n"
        f"print(up_to_date(load_settings({str(project)!r}), VariantKey(*{tuple(KEY)!r})) is not None)\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'dagster'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "[]"]


def add_line(name: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        lines = (project / name).read_text("utf-8").splitlines()
        (project / name).write_text("\n".join([*lines, lines[0]]) + "\n", "utf-8")

    return change


def declare(part: str, **fields: Any) -> Callable[[Path], None]:
    return lambda project: edit(project / FILE, lambda content: content[part].update(fields))


def damage(stage: str, part: str) -> Callable[[Path], None]:
    """One byte of the first file of the newest artifact; its size is as it was."""

    def change(project: Path) -> None:
        workspace = Workspace(load_settings(project), KEY)
        file = next(
            f for f in sorted((workspace.folder(workspace.upstream(stage)) / part).rglob("*")) if f.is_file()
        )
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    return change


def change_a_policy(project: Path) -> None:
    edit(project / "policy.yaml", lambda content: content["gates"].update(alpha=0.01))


def take_back(project: Path) -> None:
    """The log of releases is gone, say after an older backup was restored."""
    store = load_settings(project).open_store()
    shutil.rmtree(Path(store.root) / KEY.prefix / "releases")


def lose_a_head(project: Path) -> None:
    store = load_settings(project).open_store()
    (Path(store.root) / KEY.prefix / "heads" / "training_plan.json").unlink()


CHANGES = {
    "a row": add_line("data/rows.jsonl"),
    "a text of the corpus": add_line("data/general.jsonl"),
    "a question": add_line("tasks/quiz.jsonl"),
    "the training": declare("training", learning_rate=4e-3),
    "a gate": declare("gates", general_margin=0.9),
    "what is asked": declare("evaluation", limit=11),
    "the policy": change_a_policy,
    "weights": damage("fine_tuned_model", "payload"),
    "the mixture": damage("training_mixture", "payload"),
    "an answer": damage("evaluation", "payload"),
    "the certificate": damage("model_export", "evidence"),
    "the release log": take_back,
    "a head": lose_a_head,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(project: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    CHANGES[name](project)
    assert look(project) is None
    assert "failed" not in caplog.text  # it was seen, and did not stumble over anything


@pytest.mark.parametrize(
    "stage", ["declaration", "general_corpus", "training_plan", "general_scores", "model_export"]
)
def test_a_raised_stage_version_is_noticed(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_version(monkeypatch, stage, 99)
    assert look(project) is None


def test_a_declaration_that_is_gone_or_broken_is_left_to_the_run_to_say(project: Path) -> None:
    (project / FILE).write_text("description: [", "utf-8")
    assert look(project) is None
    (project / FILE).unlink()
    assert look(project) is None


def test_a_corpus_that_was_never_prepared_is_noticed(project: Path) -> None:
    corpus = {"description": "d", "sources": ["data/general.jsonl"], "holdout": 0.1}
    (project / "corpora" / "another.yaml").write_text(json.dumps(corpus), "utf-8")
    assert look(project) is None
    general_corpus.make_corpora(load_settings(project), "test", lambda line: None)
    assert look(project) is not None


def test_a_corpus_whose_bytes_are_gone_is_noticed_and_said_by_the_run(project: Path) -> None:
    settings = load_settings(project)
    for payload in Path(settings.open_store().root).glob("shared/corpora/*/general_corpus/*/*/payload"):
        shutil.rmtree(payload)
    assert look(project) is None
    with pytest.raises(UserError, match="is missing"):
        general_corpus.make_corpora(settings, "test", lambda line: None)


@pytest.mark.long
def test_only_what_the_release_log_would_stay_at_stands(project: Path) -> None:
    """Another rate is released, then the first again, and that is rolled back."""
    declare("gates", regression_margin=None)(project)
    declare("training", learning_rate=6e-3)(project)
    assert chain(project) == 2
    assert present(look(project)).released.entry.version == 2
    declare("training", learning_rate=5e-3)(project)
    assert look(project) is None  # the heads are the other's
    assert run_chain(Workspace(load_settings(project), KEY)).error is None
    assert look(project) is None  # nobody has put version 1 into production again
    assert chain(project) == 1
    assert present(look(project)).released.entry.version == 1
    store = load_settings(project).open_store()
    rollback(store, KEY.prefix, ReleaseRequest("worse"))
    assert "was rolled back" in present(look(project)).released.next


def chain(project: Path) -> int:
    """Run and release it; the version that it came to."""
    workspace = Workspace(load_settings(project), KEY)
    assert run_chain(workspace).error is None
    return release(workspace).entry.version
