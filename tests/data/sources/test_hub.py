"""A commit of the hub where the platform names repositories: one of the default branch, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_dagster.data.sources.fingerprint import fingerprint_sources
from ft_dagster.data.sources.hub import pin_revision
from ft_dagster.errors import UserError
from ft_dagster.models.base import resolve_base
from ft_dagster.roots import Roots
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.variant import BaseModelSpec
from tests.small_hub import COMMIT, PROPOSED, small_hub

pytestmark = pytest.mark.slow

MODEL, ROWS = "org/model", "org/rows"
ANYBODYS = "is not of the default branch of org/.*, and anybody may propose one"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with small_hub({MODEL: {}, ROWS: {"train.jsonl": b"{}"}}) as address:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield address


@pytest.mark.parametrize("revision", ["refs/pr/7", PROPOSED])
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_anybody_may_propose_is_no_commit_of_a_listed_repository(
    hub: str, revision: str, kind: str
) -> None:
    repo = MODEL if kind == "model" else ROWS
    with pytest.raises(UserError, match=ANYBODYS) as refused:
        pin_revision(repo, revision, kind, file="acme.yaml", field="base_model.source", bound=True)  # type: ignore[arg-type]
    assert (refused.value.field, refused.value.value) == ("base_model.revision", revision)
    assert pin_revision(repo, revision, kind) == PROPOSED  # type: ignore[arg-type]


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_commit_of_the_default_branch_is_asked_for_once(
    hub: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pin_revision(MODEL, revision, "model", bound=True) == COMMIT
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pin_revision(MODEL, COMMIT, "model", bound=True) == COMMIT


def roots(project: Path, *hub: str) -> Roots:
    return Roots(project=project, tenant="acme", folders=(project,), hub=hub)


def test_a_base_is_bound_where_the_policy_lists_bases_or_the_settings_repositories(
    hub: str, tmp_path: Path
) -> None:
    spec = BaseModelSpec(source=MODEL, revision="refs/pr/7")
    for bound, listed in ((True, roots(tmp_path, "*")), (False, roots(tmp_path, "org/*"))):
        with pytest.raises(UserError, match=ANYBODYS):
            resolve_base(spec, tmp_path, tmp_path / "cache", roots=listed, bound=bound)
    with pytest.raises(UserError, match="without weights"):  # it is looked at
        resolve_base(spec, tmp_path, tmp_path / "cache", roots=roots(tmp_path, "*"))


def test_rows_of_a_listed_repository_are_bound(hub: str, tmp_path: Path) -> None:
    source = [SourceSpec(path=ROWS, revision="refs/pr/7")]
    with pytest.raises(UserError, match=ANYBODYS) as refused:
        fingerprint_sources(source, tmp_path, roots=roots(tmp_path, "org/*"))
    assert refused.value.field == "data.sources[0].revision"
    assert fingerprint_sources(source, tmp_path, roots=roots(tmp_path, "*")) == [
        [{"repo": ROWS, "revision": PROPOSED}]
    ]
