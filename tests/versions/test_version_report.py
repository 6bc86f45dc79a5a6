"""The report of a version: of that one alone, and kept beside a release or said to be missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ft_dagster.lineage.log import append, read_log
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.version_report import FOLDER, keep_report, report_path, version_report
from tests.kept_project import OLD_PROJECT

KEY = VariantKey("acme", "places")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a project whose acme.places has three versions."""
    shutil.copytree(OLD_PROJECT, tmp_path / "project")
    return load_settings(tmp_path / "project")


def test_it_is_titled_with_the_version_that_was_asked_for(settings: Settings) -> None:
    """Where two have the same export, as older logs let them."""
    store = settings.open_store()
    log = read_log(store, KEY.prefix)
    assert append(store, KEY.prefix, log, replace(log.entries[0], version=4, production=4, by="gus"))
    for asked, said, by in ((1, 1, log.entries[0].by), (4, 4, "gus"), (None, 4, "gus")):
        page = version_report(settings, KEY, asked)
        assert f"{KEY} version {said}" in page
        assert f" by {by}<" in page


def test_a_report_that_cannot_be_written_is_said_and_stops_nothing(settings: Settings) -> None:
    store = settings.open_store()
    store.write(f"{KEY.prefix}/{FOLDER}", b"")  # no folder
    said = keep_report(settings, KEY, 3)
    assert said.startswith("could not be made: ")
    store.remove([f"{KEY.prefix}/{FOLDER}"])
    assert keep_report(settings, KEY, 3) == report_path(KEY.prefix, 3)


def test_a_storage_out_of_reach_is_no_missing_report(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> bool:
        raise ConnectionResetError("reset")

    monkeypatch.setattr("ft_dagster.store.Store.exists", refuse)
    with pytest.raises(ConnectionResetError):
        keep_report(settings, KEY, 3)


def test_it_shows_what_was_learned_against_what_was_forgotten(settings: Settings) -> None:
    page = version_report(settings, KEY)
    assert "<p>Validation loss and loss on watched general text at 3 looks: " in page
    assert 'aria-label="validation loss over loss on watched general text"' in page


def test_it_opens_with_what_came_of_it_the_base_and_what_to_do_next(settings: Settings) -> None:
    page = version_report(settings, KEY)
    said = (
        "Loss of the expected answers 6.66 → 2.72 on 12 questions. Released as version 3. ",
        "<p>Base: tiny.</p>",
        "<p>Next: Nothing to do; <code>ft-dagster catalogue</code> says how it is served.</p>",
        '<h2 id="Rules">',
        '<h2 id="Training">',
        '<h2 id="Versions-over-time">',
    )
    places = [page.index(one) for one in said]
    assert places == sorted(places)


def test_an_older_version_says_which_one_is_in_production(settings: Settings) -> None:
    page = version_report(settings, KEY, 1)
    assert "Released as version 1; version 3 is in production. " in page
    assert "Next: Nothing to do; version 3 is in production" in page


def charts(page: str, what: str) -> list[str]:
    return [part for part in page.split("<svg ") if f'aria-label="{what} by version"' in part]


def test_versions_of_a_variant_are_a_curve_with_intervals_reference_and_margin(settings: Settings) -> None:
    page = version_report(settings, KEY)
    (chart,) = charts(page, "own_task loss of the expected answers, nats a token")
    for said in ("1: 3.42 (3.108 to 3.733)", "3: 2.716 (", "limit: 3.72", ">1<", ">2<", ">3<"):
        assert said in chart, said
    assert chart.count('r="6"') == 1
    assert "1 (reference)" in page


def test_the_curve_goes_through_the_releases_that_a_variant_starts_from(settings: Settings) -> None:
    """Its own rows are other ones, and of one version no curve is drawn."""
    page = version_report(settings, VariantKey("acme", "colours"))
    (chart,) = charts(page, "sea_quiz accuracy, %")
    for said in (">acme.places 1<", ">acme.places 3<", ">1<", "acme.places 1: 25 (", "limit: 15"):
        assert said in chart, said
    assert charts(page, "own_task loss of the expected answers, nats a token") == []


def test_it_shows_answers_only_where_the_declaration_lets_rows_be_shown(settings: Settings) -> None:
    shown = version_report(settings, KEY)
    assert '<h2 id="Before-and-after">' in shown
    assert "data.samples: metadata would show some" in shown
    assert "<caption>answers before and after</caption>" not in shown
