"""An upgrade judges stored answers by today's rules, asks no model and takes nothing out of production.

The store of store_judged is of the day before a loss was judged by how many texts rise, too; see
its README for what it holds.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.lineage.release import history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning import context
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import ANSWERS_OF
from ft_dagster.stages.chain import CHAIN, ChainOutcome, run_chain
from ft_dagster.stages.release import release
from ft_dagster.versions.now import up_to_date
from ft_dagster.workspace import plan_fields
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import POLICY, command_environment, edit, write_yaml
from tests.leased import LeasedSeconds
from tests.long import mostly_long
from tests.present import present
from tests.stage_version import set_versions_of

KEPT = Path(__file__).with_name("store_judged")
VARIANTS = ("acme.places", "acme.batches", "acme.strict")
HARDWARE = {"bf16": True, "kind": "cpu", "memory": 24_600_000_000, "ranks": 1}  # a plan's key has the host's
UNMOVED = [stage.name for stage in CHAIN if stage.name not in ("declaration", "evaluation")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kept project with its store, elsewhere than where it was made, on a host as that one was,
    and as if no stage were raised since.
    """
    folder = shutil.copytree(KEPT, tmp_path / "moved" / "project")
    set_versions_of(monkeypatch, folder)
    monkeypatch.setattr(context, "hardware_in_key", lambda hardware: HARDWARE)
    monkeypatch.setattr(plan_fields, "hardware_in_key", lambda hardware: HARDWARE)
    for name in [name for name in os.environ if name not in command_environment(folder)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_HOST__LOCK_FOLDER", str(tmp_path / "leases"))
    return folder


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> LeasedSeconds:
    return LeasedSeconds(monkeypatch)


def workspace(project: Path, variant: str) -> Workspace:
    run = RunOf("upgrade", "test", lambda line: None)
    return Workspace(load_settings(project), VariantKey.parse(variant), run)


def upgraded(project: Path, variant: str) -> tuple[Workspace, ChainOutcome]:
    opened = workspace(project, variant)
    return opened, run_chain(opened)


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def heads(opened: Workspace) -> dict[str, str]:
    return {stage: present(opened.head(stage)).place.key for stage in UNMOVED}


@pytest.mark.slow
@pytest.mark.parametrize("variant", mostly_long(["acme.places", "acme.batches"], ["acme.places"]))
def test_stored_answers_are_judged_by_todays_rules_without_a_device(
    project: Path, leased: LeasedSeconds, variant: str
) -> None:
    then = workspace(project, variant)
    asked, before = present(then.head("evaluation")), heads(then)
    opened, outcome = upgraded(project, variant)
    assert outcome.error is None, outcome.error
    released = release(opened)
    assert (leased.count, leased.seconds) == (0, 0.0)
    now = present(opened.head("evaluation"))
    assert heads(opened) == before
    assert (now.figures[ANSWERS_OF], now.digest) == (asked.place.key, asked.digest)
    rules = [Verdict.from_json(each.figures["verdict"]).rules for each in (asked, now)]
    losses = ("completion_loss", "general_loss")
    assert [bool(rule.tail) for rule in rules[0]] == [False] * 4
    assert [bool(rule.tail) for rule in rules[1]] == [rule.metric in losses for rule in rules[1]]
    assert {rule.outcome for rule in rules[0]} == {"pass"}
    assert {rule.outcome for rule in rules[1] if rule.tail} == {"undecided"}  # 2% takes 183 texts
    assert [(e.action, e.version, e.production) for e in history(opened.store, opened.prefix)] == [
        ("release", 1, 1)
    ]
    assert released.entry.version == 1
    assert up_to_date(opened.settings, opened.key) is not None  # a further run is not even started


@pytest.mark.slow
def test_a_version_that_would_not_pass_today_stays_in_production_and_is_served(
    project: Path, leased: LeasedSeconds, tmp_path: Path
) -> None:
    opened, outcome = upgraded(project, "acme.strict")
    error = present(outcome.error)
    assert "gates.loss_tail" in error
    assert "from 80 on it can" in error
    assert (leased.count, outcome.made) == (0, {})
    status = {row["variant"]: row for row in typed(project, "status")["variants"]}
    assert {name: status[name]["version"] for name in VARIANTS} == dict.fromkeys(VARIANTS, 1)
    typed(project, "catalogue", "--to", str(tmp_path / "catalogue"))
    (index,) = (tmp_path / "catalogue").glob("*/adapters.json")
    served = {one["name"]: one for one in json.loads(index.read_text("utf-8"))["adapters"]}
    assert set(served) == set(VARIANTS)
    assert served["acme.strict"]["verdict"] == "Passed: all 4 rules of the gate hold"
    assert history(opened.store, opened.prefix)[-1].production == 1


@pytest.mark.slow
def test_a_declared_tail_asks_nobody_and_exports_nothing_again(project: Path, leased: LeasedSeconds) -> None:
    write_yaml(project / "policy.yaml", POLICY)
    edit(project / "tenants/acme/strict.yaml", lambda content: content["gates"].update(loss_tail=0.1))
    before = heads(workspace(project, "acme.strict"))
    opened, outcome = upgraded(project, "acme.strict")
    assert "from 80" not in present(outcome.error)  # 10% takes 16 texts, and the test split has 12 rows
    assert "from 16 on it can" in present(outcome.error)
    edit(project / "tenants/acme/strict.yaml", lambda content: content["gates"].update(loss_tail=0.2))
    opened, outcome = upgraded(project, "acme.strict")
    assert outcome.error is None, outcome.error
    assert release(opened).entry.version == 1
    assert (leased.count, leased.seconds) == (0, 0.0)
    assert heads(opened) == before
    verdict = Verdict.from_json(present(opened.head("evaluation")).figures["verdict"])
    assert (verdict.outcome, verdict.passed) == ("pass", True)


@pytest.mark.slow
def test_the_plan_of_an_upgrade_says_that_nothing_trains_again(project: Path) -> None:
    plan = typed(project, "upgrade", "--plan")
    assert {row["variant"]: (row["effect"], row["stages"]) for row in plan["variants"]} == {
        name: ("same", []) for name in VARIANTS
    }


@pytest.mark.slow
def test_a_variant_is_not_stale_for_a_rule_that_changed(project: Path) -> None:
    rows = {row["variant"]: row for row in typed(project, "status")["variants"]}
    kinds = {cause["kind"] for name in VARIANTS for cause in rows[name]["causes"]}
    assert kinds.isdisjoint({"field", "policy", "stage", "task"})
