"""Prompts that an older version trained as plain text: who is told, and how a variant keeps them so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_lines, write_project
from tests.kept_project import answer
from tests.long import mostly_long

pytestmark = pytest.mark.slow
COMMENT = "  # rows of 2026: ask Ada before you change them\n"
VARIANT, OTHER = "acme.places", "globex.places"


def at(project: Path, key: str = VARIANT) -> Workspace:
    return Workspace(load_settings(project), VariantKey.parse(key), RunOf(say=lambda line: None))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """acme.places has prompts with completions in its mixture, as plain text on a base with a chat template;
    globex.places has conversations.
    """
    project = write_project(tmp_path_factory.mktemp("older") / "project", tiny_model_folder)
    rows = [json.loads(line) for line in (project / "data/rows.jsonl").read_text("utf-8").splitlines()]
    prompts = [{"prompt": row["instruction"], "completion": f" {row['output']}"} for row in rows]
    write_lines(project / "data/prompts.jsonl", prompts)
    file = at(project).declared_in
    edit(file, lambda content: content["data"].update(sources=["data/prompts.jsonl"], render="plain"))
    for key in (VARIANT, OTHER):
        outcome = run_chain(at(project, key), up_to("training_mixture"))
        assert outcome.error is None, outcome.error
    edit(file, lambda content: content["data"].pop("render"))
    text = file.read_text("utf-8")
    assert text.count("  sources:\n") == 1
    file.write_text(text.replace("  sources:\n", f"{COMMENT}  sources:\n"), "utf-8")
    return project


@pytest.fixture
def older(made: Path, tmp_path: Path) -> Path:
    """A copy of the project for a test of its own."""
    return shutil.copytree(made, tmp_path / "project")


def checked(project: Path) -> dict[str, Any]:
    return {one["variant"]: one for one in answer(project, "check", "--json")["variants"]}


def test_the_plan_of_an_upgrade_names_who_would_train_again(older: Path) -> None:
    told = answer(older, "upgrade", "--plan", "--json")
    rows = {row["variant"]: row for row in told["variants"]}
    assert (rows[VARIANT]["effect"], rows[VARIANT]["rendered"]) == ("may train", ["training_mixture"])
    assert (rows[OTHER]["effect"], rows[OTHER]["rendered"]) == ("same", [])
    assert told["stages"] == [f"{VARIANT}: rows are rendered otherwise by now (training_mixture)"]


def test_check_names_the_variants_concerned(older: Path) -> None:
    found = checked(older)
    assert (
        f"`ft-dagster upgrade --keep-rendering {VARIANT}` keeps them plain" in found[VARIANT]["warnings"][0]
    )
    assert "prompts with completions as one exchange in the base's chat template" in found[VARIANT]["summary"]
    assert found[OTHER]["warnings"] == []
    assert "exchange" not in found[OTHER]["summary"]
    assert "! prompts with completions are one exchange" in answer(older, "check")


@pytest.mark.long
def test_plan_says_it_too(older: Path) -> None:
    lines = answer(older, "plan", VARIANT, "--json")["warnings"]
    assert [line for line in lines if "upgrade --keep-rendering" in line]
    assert not [line for line in answer(older, "plan", OTHER, "--json")["warnings"] if "exchange" in line]


def test_a_variant_keeps_its_mixture_once_its_file_says_plain(older: Path) -> None:
    before, key = at(older).declared_in.read_text("utf-8"), at(older).upstream("training_mixture").place.key
    said = answer(older, "upgrade", "--keep-rendering", VARIANT, OTHER)
    assert f"{VARIANT}: data.render: plain is written into " in said
    assert f"{OTHER}: left as it is" in said
    after = at(older).declared_in.read_text("utf-8")
    assert COMMENT in after
    assert after.replace("  render: plain\n", "") == before
    (line,) = checked(older)[VARIANT]["warnings"]
    assert "plain text on a base that has a chat template" in line
    assert answer(older, "upgrade", "--plan", "--json")["stages"] == []
    outcome = run_chain(at(older), up_to("training_mixture"))
    assert outcome.error is None, outcome.error
    assert outcome.made["training_mixture"].place.key == key
    again = answer(older, "upgrade", "--keep-rendering", VARIANT, "--json")
    assert again == {"written": {VARIANT: None}}


def test_without_it_a_run_makes_the_mixture_again(older: Path) -> None:
    before = at(older).upstream("training_mixture")
    after = run_chain(at(older), up_to("training_mixture")).made["training_mixture"]
    assert after.digest != before.digest
    assert after.spec == {**before.spec, "rendering": "exchange"}


def test_what_is_wrong_with_one_variant_stops_no_other(older: Path) -> None:
    at(older, OTHER).declared_in.write_text("{", "utf-8")
    with pytest.raises(UserError) as refused:
        answer(older, "upgrade", "--keep-rendering", OTHER, VARIANT)
    assert refused.value.file == str(at(older, OTHER).declared_in)
    assert "  render: plain\n" in at(older).declared_in.read_text("utf-8")


@pytest.mark.parametrize(
    "words", [["--keep-rendering"], ["--plan", VARIANT], ["--keep-rendering", "acme.nobody"]]
)
def test_it_is_said_for_which_variants(older: Path, words: list[str]) -> None:
    with pytest.raises(UserError):
        answer(older, "upgrade", *words)


def test_plain_prompts_that_run_into_their_completions_are_told(older: Path) -> None:
    rows = [{"prompt": f"Where is item {n}", "completion": f"Item {n} is there."} for n in range(60)]
    write_lines(older / "data/prompts.jsonl", rows)
    edit(at(older).declared_in, lambda content: content["data"].update(render="plain"))
    said = "60 of 60 prompts end in a word that their completion goes on with"
    assert [line for line in checked(older)[VARIANT]["warnings"] if line.startswith(said)]
    assert [line for line in answer(older, "plan", VARIANT, "--json")["warnings"] if line.startswith(said)]
    edit(at(older).declared_in, lambda content: content["data"].pop("render"))
    assert not [line for line in checked(older)[VARIANT]["warnings"] if "goes on with" in line]


def test_prompts_without_the_template_of_a_base_that_has_one_are_told_with_their_number(older: Path) -> None:
    rows = [{"prompt": f"Where is item {n}?", "completion": f" Item {n} is there."} for n in range(60)]
    write_lines(older / "data/prompts.jsonl", rows)
    write_lines(older / "data/texts.jsonl", [{"text": f"Item {n} is here."} for n in range(20)])
    sources = ["data/prompts.jsonl", "data/texts.jsonl"]
    edit(at(older).declared_in, lambda content: content["data"].update(sources=sources, render="plain"))
    said = (
        "60 of 80 rows that were looked at are prompts with completions, and plain text on a base that has a "
        "chat template: "
    )
    for found in (checked(older)[VARIANT], answer(older, "plan", VARIANT, "--json")):
        assert [line for line in found["warnings"] if line.startswith(said)]


@pytest.mark.parametrize("name", mostly_long(["Tiny-135M-Instruct", "tiny-it", "Tiny-chat-hf"], ["tiny-it"]))
def test_an_instruct_base_that_lacks_its_template_is_told_with_the_number_of_rows(
    older: Path, name: str
) -> None:
    rows = [{"prompt": f"Where is item {n}?", "completion": f" Item {n} is there."} for n in range(60)]
    write_lines(older / "data/prompts.jsonl", rows)
    base = shutil.copytree(at(older).base_folder(at(older).upstream("base_model")), older / "models" / name)
    edit(at(older).declared_in, lambda content: content.update(base_model=f"models/{name}"))

    def told() -> list[list[str]]:
        found = (checked(older)[VARIANT], answer(older, "plan", VARIANT, "--json"))
        return [[line for line in one["warnings"] if "as a base for chats" in line] for one in found]

    assert told() == [[], []]
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    for (line,) in told():
        assert line.startswith(
            "60 of 60 rows that were looked at are prompts with completions, and plain text"
        )
        assert f"{name} is named as a base for chats, and no chat template is among its files" in line


@pytest.mark.parametrize(
    ("end", "begin"),
    mostly_long([("?", "I"), (" ", "I"), ("x", " I"), ("x", "\nI"), ("", "I"), ("x", "(")], every=3),
)
def test_a_separator_of_any_kind_is_one(older: Path, end: str, begin: str) -> None:
    rows = [{"prompt": f"{n}{end}" if end else "", "completion": f"{begin}tem {n}"} for n in range(60)]
    write_lines(older / "data/prompts.jsonl", rows)
    edit(at(older).declared_in, lambda content: content["data"].update(render="plain"))
    assert not [line for line in checked(older)[VARIANT]["warnings"] if "goes on with" in line]


@pytest.mark.long
def test_prompts_that_were_rendered_already_are_told(older: Path) -> None:
    rows = [{"prompt": f"<|im_start|>user\n{n}<|im_end|>\n", "completion": "Yes."} for n in range(60)]
    write_lines(older / "data/prompts.jsonl", rows)
    said = "60 of 60 prompts hold special tokens of the base"
    assert [line for line in checked(older)[VARIANT]["warnings"] if line.startswith(said)]
    assert [line for line in answer(older, "plan", VARIANT, "--json")["warnings"] if line.startswith(said)]
