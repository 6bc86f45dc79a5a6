"""docs/reference/ says what the code says, and every field of it says what it is."""

from __future__ import annotations

import pytest

import ft_dagster
from tests.docs.classes import public_classes
from tests.docs.reference import FOLDER, PAGES, described, pages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_the_pages_are_current(made: dict[str, str]) -> None:
    kept = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    assert kept == made, "run `make reference`"


def test_every_leaf_of_a_declaration_has_a_row() -> None:
    fields = {each.field for each in described(PAGES["declaration.md"].model.model_json_schema())}
    assert {"data.sources[].asset", "data.sources[].transform", "method.rank", "retrain.cron"} <= fields
    assert {"sources.allow", "host.gpus", "notifications.targets.NAME.webhook"} <= {
        each.field for each in described(PAGES["settings.md"].model.model_json_schema())
    }


def test_every_command_is_there(made: dict[str, str]) -> None:
    page = made["command-line.md"]
    for command in ("run", "publish", "register", "audit record", "audit key rotate", "fleet due"):
        assert f"\n## ft-dagster {command}\n" in page


def test_every_public_name_is_there_with_what_it_says_of_itself(made: dict[str, str]) -> None:
    page = made["python.md"]
    for name in set(ft_dagster.__all__) - {"CHAIN", "__version__"}:
        said = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert f"{name}(" in said
        assert len(said.partition("```\n\n")[2].split()) > 3, name


def test_every_public_class_is_there_with_a_summary(made: dict[str, str]) -> None:
    page = made["classes.md"]
    assert [each for each in public_classes() if not each.summary.endswith(".")] == []
    assert page.count("\n| `") == len([*public_classes()])
    for name in ("Workspace", "VariantSpec", "Store", "Method"):
        assert f"\n| `{name}` | " in page


def test_the_glossary_leads_to_the_classes() -> None:
    assert "(reference/classes.md)" in (FOLDER.parent / "glossary.md").read_text("utf-8")
