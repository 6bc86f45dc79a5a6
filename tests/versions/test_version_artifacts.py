"""What a version was made from: of equal bytes those that its manifests name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import version_of
from ft_dagster.store import Artifact, Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.versions.version_artifacts import version_artifacts
from tests.stage_version import set_version

PREFIX = "tenants/acme/places"


def made(store: Store, stage: str, spec: str, **above: Artifact) -> Artifact:
    """An artifact without a payload, as of every stage that has nothing to say."""

    def nothing(attempt: Attempt) -> dict[str, object]:
        return {"of": spec}

    digests = {name: each.digest for name, each in above.items()}
    manifests = {name: each.manifest for name, each in above.items()}
    recipe = Recipe(stage, PREFIX, digests, {"of": spec}, manifests=manifests, artifacts=(*above.values(),))
    return make_artifact(store, Path(store.root) / "work", recipe, nothing)


def test_of_what_is_made_on_demand_it_is_the_very_one_that_was_read(tmp_path: Path) -> None:
    """No head names it, and others of the variant may say the same of other fields."""
    store = Store(str(tmp_path / "store"))
    before = [made(store, "evaluation_texts", spec) for spec in "abc"]
    assert {each.digest for each in before} == {sha256_json([])}
    for each in before:
        mixture = made(store, "training_mixture", str(each.spec), evaluation_texts=each)
        model = made(store, "fine_tuned_model", str(each.spec), training_mixture=mixture)
        for head in (mixture, model):
            write_head(store, PREFIX, head, "run")
        assert version_artifacts(store, PREFIX).artifacts["evaluation_texts"].place == each.place


def test_of_what_is_made_on_demand_and_was_raised_it_is_todays_of_the_same_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mixture is not made again, for the bytes are the same: it names the older one for ever."""
    store = Store(str(tmp_path / "store"))
    before = made(store, "evaluation_texts", "b")
    mixture = made(store, "training_mixture", "b", evaluation_texts=before)
    for head in (mixture, made(store, "fine_tuned_model", "b", training_mixture=mixture)):
        write_head(store, PREFIX, head, "run")
    version = version_of("evaluation_texts")
    set_version(monkeypatch, "evaluation_texts", version + 1)

    def found() -> Artifact:
        return version_artifacts(store, PREFIX).artifacts["evaluation_texts"]

    assert found().place == before.place
    today = [made(store, "evaluation_texts", spec) for spec in "abc"]
    assert {each.digest for each in today} == {before.digest}
    assert found().place == today[1].place
