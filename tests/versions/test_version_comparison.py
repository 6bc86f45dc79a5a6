"""Two versions side by side: of the store that an older version made, without a row of a tenant."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.version_comparison import declared_fields, version_comparison
from ft_dagster.versions.version_files import NamedVersion, open_version
from tests.kept_project import OLD_PROJECT

PLACES, COLOURS = VariantKey("acme", "places"), VariantKey("acme", "colours")
TAG = re.compile("<[^>]+>")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a project whose acme.places has three versions, and acme.colours one."""
    shutil.copytree(OLD_PROJECT, tmp_path / "project")
    return load_settings(tmp_path / "project")


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each row of the page's tables by its first cell."""
    found: dict[str, list[str]] = {}
    for row in re.findall("<tr>(.*?)</tr>", page):
        cells = [TAG.sub("", cell).replace("\u200b", "") for cell in re.findall("<td.*?</td>", row)]
        if cells:
            found[cells[0]] = cells[1:]
    return found


def test_two_versions_of_a_variant_show_what_differs_and_both_verdicts(settings: Settings) -> None:
    page = version_comparison(settings, NamedVersion(PLACES, 1), NamedVersion(PLACES, 3))
    assert "<h1>acme.places version 1 beside version 3</h1>" in page
    assert "<th>version 1</th><th>version 3</th>" in page
    files = [open_version(settings, PLACES, version) for version in (1, 3)]
    for stored in files:
        assert f"<b>{stored.short_name}</b>: {verdict_sentence(stored.verdict)}." in page
    rows = rows_of(page)
    fields = [declared_fields(stored) for stored in files]
    differ = {name for name in {*fields[0], *fields[1]} if fields[0].get(name) != fields[1].get(name)}
    assert differ
    for name in differ:
        assert name in rows
    assert rows["base_model"][-1] == "same"
    assert rows["fine_tuned_model"][-1] == "other"
    assert 'aria-label="training, nats a token over optimizer step"' in page


def test_rows_are_counted_by_their_content_and_never_shown(settings: Settings) -> None:
    page = version_comparison(settings, NamedVersion(PLACES), NamedVersion(COLOURS))
    counted = rows_of(page)
    before, now, added, removed = map(int, counted["any"])
    assert added > 0
    assert now - added == before - removed
    for name in ("places", "colours"):
        for line in (OLD_PROJECT / "data" / f"{name}.jsonl").read_text("utf-8").splitlines():
            for text in json.loads(line).values():
                assert len(text) < 12 or text not in page


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("task_dataset/*/*/payload/train.parquet", "Their rows cannot be compared"),
        ("fine_tuned_model/*/*/evidence/log.jsonl", "Their curves cannot be drawn"),
    ],
)
def test_what_is_not_there_any_more_is_said_to_be_and_the_rest_is_shown(
    settings: Settings, lost: str, said: str
) -> None:
    for file in settings.project.glob(f"store/tenants/acme/places/{lost}"):
        file.unlink()
    page = version_comparison(settings, NamedVersion(PLACES), NamedVersion(COLOURS))
    assert said in page
    assert rows_of(page)["fine_tuned_model"][-1] == "other"


def test_a_version_beside_itself_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="there are not two versions"):
        version_comparison(settings, NamedVersion(PLACES, 3), NamedVersion(PLACES))


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("2", NamedVersion(PLACES, 2)),
        ("acme.colours", NamedVersion(COLOURS)),
        ("acme.colours@12", NamedVersion(COLOURS, 12)),
    ],
)
def test_a_version_is_named_by_number_variant_or_both(text: str, asked: NamedVersion) -> None:
    assert NamedVersion.parse(text, PLACES) == asked


@pytest.mark.parametrize("text", ["", "@", "@2", "acme.colours@", "acme.colours@x", "2@2", "two", "9" * 10])
def test_what_names_no_version_is_a_mistake_in_one_line(text: str) -> None:
    with pytest.raises(UserError):
        NamedVersion.parse(text, PLACES)
