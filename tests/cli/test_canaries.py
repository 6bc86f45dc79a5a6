"""`ft-dagster canaries plant CORPUS`, and what is said where the platform's key is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.cli import app
from ft_dagster.data.rows.planted import FILE, Planted
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import SHARED_OWNER, back_up, keys_of, restore, rotate
from ft_dagster.settings import load_settings
from ft_dagster.spec.load import load_corpus
from ft_dagster.stages.general_corpus import corpora_stand, make_corpora
from ft_dagster.store import Artifact
from tests.e2e.project import write_project

NOTE = "# who asks for it: the platform team\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = write_project(tmp_path / "project", tmp_path / "base")
    file = made / "corpora" / "general.yaml"
    file.write_text(NOTE + file.read_text("utf-8"), "utf-8")
    return made


def plant(project: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "canaries", "plant", *more])


def planted(project: Path, *more: str) -> dict[str, Any]:
    done = plant(project, "general", *more, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def made(project: Path) -> Artifact:
    return make_corpora(load_settings(project), "a run", lambda line: None)["general"]


@pytest.mark.slow
def test_canaries_are_declared_once_and_the_corpus_is_made_with_them(project: Path) -> None:
    file = project / "corpora" / "general.yaml"
    first = planted(project, "--count", "3", "--repeats", "1", "--repeats", "2")
    text = file.read_text("utf-8")
    assert text.startswith(NOTE)
    assert (first["written"], first["made"], first["documents"], first["asked"]) == (True, False, 9, 6 + 255)
    assert first["variants"] == ["acme.places", "globex.places"]
    declared = load_corpus(project, "general").canaries
    assert declared is not None
    assert (declared.count, declared.repeats) == (3, (1, 2))
    corpus, settings = made(project), load_settings(project)
    assert corpus.figures["canaries"] == 6
    folder = corpus.folder(settings.open_store(), settings.cache_folder) / "payload" / "general"
    secrets = Planted.read(folder / FILE)
    assert sorted(len(secrets.rows[each.id]) for each in secrets.canaries) == [1, 1, 1, 2, 2, 2]
    again = planted(project)
    assert again == {**first, "written": False, "made": True}
    assert planted(project, "--count", "3") == again
    assert file.read_text("utf-8") == text
    assert made(project).reused
    assert not any(each.secret in plant(project, "general").output for each in secrets.canaries)


def test_left_out_there_are_twenty_of_each_of_the_usual_repeats(project: Path) -> None:
    said = " ".join(plant(project, "general").output.split())
    assert "20 that stand there 1 time, 20 that stand there 4 times, 20 that stand there 16 times" in said
    assert "420 documents" in said
    assert "2 variants on this corpus: each evaluation asks 315 questions more" in said
    assert "Back up the key first" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("town",), "no such corpus"),
        (("general", "--count", "0"), "count"),
        (("general", "--repeats", "2", "--repeats", "2"), "each number of repeats once"),
        (("general", "--repeats", "1000", "--count", "21"), "at most 20,000 documents"),
    ],
)
def test_what_cannot_be_planted_is_said_and_nothing_is_written(
    project: Path, more: tuple[str, ...], words: str
) -> None:
    file = project / "corpora" / "general.yaml"
    before = file.read_bytes()
    error = plant(project, *more).exception
    assert isinstance(error, UserError)
    assert words in str(error)
    assert file.read_bytes() == before


def test_other_canaries_than_are_declared_are_refused(project: Path) -> None:
    planted(project, "--count", "3", "--repeats", "1")
    before = (project / "corpora" / "general.yaml").read_bytes()
    error = plant(project, "general", "--count", "4").exception
    assert isinstance(error, UserError)
    assert (error.field, error.value) == ("canaries", "{count: 3, repeats: [1]}")
    assert (project / "corpora" / "general.yaml").read_bytes() == before


def test_a_lost_key_is_said_and_plants_no_others(project: Path, tmp_path: Path) -> None:
    """By the command, by what looks whether the corpora stand, and by what makes them."""
    planted(project, "--count", "2", "--repeats", "1")
    settings = load_settings(project)
    corpus = made(project)
    assert corpora_stand(settings)
    rotate(settings.keys_folder, SHARED_OWNER)
    assert corpora_stand(settings)  # a rotation keeps the key
    back_up(settings.keys_folder, tmp_path / "backup.json")
    shutil.rmtree(settings.keys_folder)
    keys_of(settings.keys_folder, SHARED_OWNER)  # made anew, as a run does
    lost = str(corpus.spec["canaries"])
    for ask in (lambda: corpora_stand(settings), lambda: made(project), lambda: _raising(project)):
        with pytest.raises(UserError, match=f"made by the key {lost} of what is shared") as refused:
            ask()
        assert "audit key restore" in str(refused.value)
    shutil.rmtree(settings.keys_folder)
    restore(settings.keys_folder, tmp_path / "backup.json")
    assert corpora_stand(settings)
    assert made(project).digest == corpus.digest


def _raising(project: Path) -> None:
    error = plant(project, "general").exception
    assert isinstance(error, UserError)
    raise error
