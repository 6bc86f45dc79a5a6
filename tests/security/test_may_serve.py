"""One answer to whether a version may be served: by command line, by a run of Dagster's, and in what the UI
reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.fleet import fleet_metadata
from ft_dagster.automation.picture import picture
from ft_dagster.errors import UserError
from ft_dagster.fleet.live_page import FleetNow, FleetQuery, fleet_page
from ft_dagster.fleet.page import fleet_report
from ft_dagster.lineage.release import history
from ft_dagster.lineage.serving import Finding
from ft_dagster.report.pages.live import as_live_html
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stages.judging.may_serve import Today, in_production
from tests.e2e.project import POLICY, edit, write_yaml
from tests.e2e.workshop import Workshop
from tests.instances import new_instance
from tests.long import mostly_long
from tests.present import present
from tests.security.pretend import KEY
from tests.security.served_story import (
    CHILD,
    PROMOTE,
    ROLLBACK,
    child_of,
    file_of,
    out,
    project,
    released,
    served,
    story,
    trained,
    typed,
)

__all__ = ["project", "story"]
pytestmark = pytest.mark.slow
GRANDCHILD = VariantKey("acme", "shades")
BACK = "acme.places v2, which it was made on, was rolled back: worse"


def findings(project: Path, key: VariantKey = KEY) -> list[Finding]:
    standing = in_production(Today.of(load_settings(project), key))
    return [] if standing is None else list(standing.findings)


def policy(project: Path, **more: Any) -> None:
    write_yaml(project / "policy.yaml", {**POLICY, **more})


def run_of_release(project: Path, key: VariantKey = KEY) -> tuple[bool, str]:
    """Whether a run of Dagster's that materializes `release` succeeded, and what it said."""
    with new_instance() as instance:
        shop = Workshop(project, instance)
        done = shop.materialize(str(key), "release", raises=False)
        if not done.success:
            return False, shop.failure(done)
        event = present(instance.get_latest_materialization_event(dg.AssetKey("release")))
        return True, str(present(event.asset_materialization).metadata["may_serve"].value)


def shown(project: Path) -> list[str]:
    """What the UI reads of the fleet: the page, the board of Dagster, the report and the command's lines."""
    settings, declarations = load_settings(project), Declarations(project)
    found = picture(settings, declarations, list(declarations))
    board = fleet_metadata(found)["may no longer be served"]
    told = board.value if isinstance(board, dg.TextMetadataValue) else board.records
    page = as_live_html(fleet_page(FleetNow(found), FleetQuery.of({})))
    return [page, str(told).replace("\\u200b", "").replace("\u200b", ""), fleet_report(settings, found)]


def put_into_store(store: Path, change: Callable[[dict[str, Any]], None], version: int) -> None:
    """Change the certificate of a version's export, and the manifest with it, as who writes the store may."""
    releases = store / KEY.prefix / "releases"
    entry = json.loads((releases / f"{version:06d}.json").read_text("utf-8"))
    folder = store / KEY.prefix / "model_export" / entry["export_key"]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    file = folder / manifest["predicate"]["attempt"] / "evidence" / "certificate.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")
    for listed in manifest["predicate"]["evidence"]:
        if listed["path"] == "certificate.json":
            listed["size"] = file.stat().st_size
            listed["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


@pytest.mark.long
def test_a_child_of_a_rolled_back_parent_is_refused_by_command_and_run_and_shown(
    project: Path, tmp_path: Path
) -> None:
    edit(file_of(project), lambda content: content.pop("release"))
    child_of(project)
    trained(project, "child", CHILD)
    assert run_of_release(project, CHILD) == (True, "yes")
    child_of(project, description="the same, and a child of it")
    typed(project, *ROLLBACK)
    with pytest.raises(UserError, match=BACK):
        typed(project, "publish", str(CHILD), *out(tmp_path))
    assert not (tmp_path / "out").exists()
    assert [each.rule for each in findings(project, CHILD)] == ["parent"]
    for page in shown(project):
        assert "acme.colours v1" in page
        assert BACK in page
    assert run_of_release(project, CHILD) == (True, f"no: parent: {BACK}")
    policy(project, serving="refuse")
    success, said = run_of_release(project, CHILD)
    assert not success
    assert BACK in said
    listed = json.loads(typed(project, "catalogue", "--json"))
    assert [base["adapters"] for base in listed["bases"]] == [["acme.places"]]
    (withheld,) = listed["may_not_serve"]
    assert (withheld["variant"], withheld["withheld"]) == ("acme.colours", True)
    trained(project, "other", CHILD)  # on version 1 of its parent, which is served by now
    assert run_of_release(project, CHILD) == (True, "yes")
    assert findings(project, CHILD) == []


@pytest.mark.long
def test_a_grandchild_of_a_rolled_back_release_may_not_be_served(project: Path) -> None:
    child_of(project)
    released(project, "child", CHILD)
    file_of(project, GRANDCHILD).write_text(file_of(project, CHILD).read_text("utf-8"), "utf-8")
    start = {"variant": str(CHILD), "parent_adapter": "stack"}
    edit(file_of(project, GRANDCHILD), lambda content: content.update(base_model=start))
    trained(project, "other", GRANDCHILD)
    assert run_of_release(project, GRANDCHILD) == (True, "yes")
    typed(project, *ROLLBACK)
    assert [each.words for each in findings(project, GRANDCHILD)] == [BACK]
    typed(project, "release", str(KEY), "--version", "2", "--force", "--reason", "it was not", "--by", "ann")
    assert findings(project, GRANDCHILD) == []
    assert findings(project, CHILD) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("releases", "is no longer in the store"),
        ("releases/000003.json", "this entry of a release log is missing"),
    ],
)
def test_a_child_of_a_release_that_is_in_no_log_may_not_be_served(
    project: Path, tmp_path: Path, gone: str, said: str
) -> None:
    """Who takes the log of the parent out of the store hides no rollback."""
    edit(file_of(project), lambda content: content.pop("release"))
    child_of(project)
    released(project, "child", CHILD)
    typed(project, *ROLLBACK)
    (project / ".ft_dagster/store" / KEY.prefix / gone).rename(tmp_path / "gone")
    (finding,) = findings(project, CHILD)
    assert (finding.rule, finding.what) == ("parent", "unknown")
    assert "whether a release beneath version 1 of acme.colours was rolled back is not known" in finding.words
    with pytest.raises(UserError, match="is not known"):
        typed(project, "publish", str(CHILD), *out(tmp_path))
    assert said in typed(project, "status")


@pytest.mark.long
def test_a_version_whose_approver_was_removed_since_may_no_longer_be_served(
    project: Path, tmp_path: Path
) -> None:
    typed(project, *PROMOTE)
    assert findings(project) == []
    policy(project, approvers=["bob"])
    edit(file_of(project), lambda content: content.pop("release"))
    said = "ann put version 3 into production, and bob may approve it today"
    with pytest.raises(UserError, match=said):
        typed(project, "publish", str(KEY), *out(tmp_path))
    assert f"acme.places v3 is in production and may no longer be served (approval): {said}" in typed(
        project, "status"
    )
    assert all("ann put version 3 into production" in page for page in shown(project))
    assert run_of_release(project) == (True, f"no: approval: {said}")
    policy(project, approvers=["bob"], serving="refuse")
    success, failure = run_of_release(project)
    assert not success
    assert said in failure
    with pytest.raises(UserError, match="ann may not approve version 3"):
        typed(project, *PROMOTE)
    typed(project, "release", str(KEY), "--by", "bob", "--reason", "read 50 answers")
    assert findings(project) == []
    assert run_of_release(project) == (True, "yes")
    typed(project, "publish", str(KEY), *out(tmp_path))
    entries = len(history(load_settings(project).open_store(), KEY.prefix))
    typed(project, "release", str(KEY), "--by", "bob")  # approved once is enough
    assert len(history(load_settings(project).open_store(), KEY.prefix)) == entries


def test_a_version_that_nobody_approved_is_not_published(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="version 3 waits for approval by ann"):
        typed(project, "publish", str(KEY), "--version", "3", *out(tmp_path))
    assert run_of_release(project) == (True, "no: approval: version 3 waits for approval by ann")
    assert served(project)["production"] == 2  # no run approves


@pytest.mark.parametrize(
    ("change", "said"),
    mostly_long(
        [
            (lambda content: content.update(payload="d" * 64), "the certificate is of another payload"),
            (lambda content: content.update(judged="d" * 64), "the certificate is of other weights"),
            (
                lambda content: content.update(payload=3),
                "not the certificate of an export|of another payload",
            ),
        ],
        every=3,
    ),
)
def test_a_certificate_for_other_bytes_lets_nothing_be_served(
    project: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    for version in (1, 3):
        put_into_store(project / ".ft_dagster/store", change, version)
    publish = ("publish", str(KEY), "--version", "3", *out(tmp_path))
    for words in (PROMOTE, publish, (*ROLLBACK, "--by", "ann")):
        with pytest.raises(UserError, match=said):
            typed(project, *words)
    assert served(project)["production"] == 2
    success, failure = run_of_release(project)
    assert not success
    assert "certificate" in failure
    put_into_store(project / ".ft_dagster/store", change, 2)
    assert all("certificate" in page for page in shown(project))
    policy(project, serving="refuse")
    assert json.loads(typed(project, "catalogue", "--json"))["bases"] == []


def test_a_floor_raised_since_is_refused_by_a_run_and_named_by_what_the_ui_reads(project: Path) -> None:
    edit(file_of(project), lambda content: content.pop("release"))
    policy(project, gates={**POLICY["gates"], "general_margin": 0.01})
    short = "version 2 of acme.places is not as the policy demands: at most 0.01"
    said = f"{short} (policy.yaml: gates.general_margin)"
    (finding,) = findings(project)
    assert (finding.rule, finding.what, finding.words) == ("policy", "gates.general_margin", said)
    assert all(short in page for page in shown(project))
    success, failure = run_of_release(project)
    assert not success
    assert "at most 0.01" in failure
    row = json.loads(typed(project, "status", str(KEY), "--json"))["variants"][0]
    assert row["may_not_serve"]["findings"][0]["what"] == "gates.general_margin"


def test_under_warn_what_is_in_production_stays_in_the_catalogue_and_is_named(project: Path) -> None:
    edit(file_of(project), lambda content: content.pop("release"))
    policy(project, gates={**POLICY["gates"], "general_margin": 0.01})
    listed = json.loads(typed(project, "catalogue", "--json"))
    assert [base["adapters"] for base in listed["bases"]] == [["acme.places"]]
    assert [one["withheld"] for one in listed["may_not_serve"]] == [False]
    assert "acme.places v2 is in production and may no longer be served (policy)" in typed(
        project, "catalogue"
    )
    assert served(project)["production"] == 2
