"""What a model kept of single rows, by the whole chain: a platform's canaries in the corpus that it was mixed
with, and its training rows told from held-out ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.data.rows.planted import FILE, Planted
from ft_dagster.gate.samples import read_samples
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, load_corpus
from ft_dagster.stages import base_evaluation, declaration, task_dataset, training_mixture
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.general_corpus import corpus_causes
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.version_report import version_report
from ft_dagster.workspace.corpora import find_corpus
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.questions import own_task
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_lines, write_project
from tests.leased import LeasedSeconds
from tests.present import present

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
OWN = "the vault of the harbour opens by 4471-2290"  # a canary of the tenant's
LINES: list[str] = []


def opened(project: Path) -> Workspace:
    return Workspace(load_settings(project), KEY, RunOf("test", "test", LINES.append))


def declare(project: Path, **parts: dict[str, Any]) -> None:
    def change(content: dict[str, Any]) -> None:
        for part, fields in parts.items():
            content[part].update(fields)

    edit(project / "tenants/acme/places.yaml", change)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A project whose corpus has canaries, and a variant that was released with it."""
    project = write_project(tmp_path_factory.mktemp("planted") / "project", tiny_model_folder)
    canaries = {"count": 6, "repeats": [1, 24]}
    edit(project / "corpora/general.yaml", lambda content: content.update(canaries=canaries))
    answers = [*[OWN] * 9, *[f"{OWN}, and {OWN}"] * 9]
    rows = [
        {"instruction": f"How does door {n} open?", "input": "", "output": answer}
        for n, answer in enumerate(answers)
    ]
    write_lines(project / "data/acme/doors.jsonl", rows)
    declare(
        project,
        data={
            "general": {"corpus": "general", "share": 0.3},
            "sources": ["data/rows.jsonl", "data/acme/doors.jsonl"],
        },
        evaluation={"membership": 100, "canaries": [OWN]},
        gates={"max_membership_auc": 0.99},
    )
    edit(project / "policy.yaml", lambda content: content["gates"].update(max_membership_auc=0.99))
    workspace = opened(project)
    outcome = run_chain(workspace)
    assert outcome.error is None, outcome.error
    release(workspace)
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "project")


def judged(workspace: Workspace) -> Artifact:
    return present(workspace.head("evaluation"))


def rule_of(evaluation: Artifact) -> Rule:
    verdict = Verdict.from_json(evaluation.figures["verdict"])
    [rule] = [rule for rule in verdict.rules if rule.rule == "membership"]
    return rule


def planted_in(workspace: Workspace) -> Planted:
    corpus = find_corpus(workspace.store, "general")
    return Planted.read(workspace.payload(corpus) / "general" / FILE)


def told(project: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--project", str(project), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.long
def test_each_model_on_a_planted_corpus_is_asked_and_the_counts_are_those_of_its_mixture(
    finished: Path,
) -> None:
    workspace = opened(finished)
    found = judged(workspace).figures["platform_canaries"]
    seen = workspace.upstream("training_mixture").figures["canaries"]["seen"]
    assert found["planted"] == 12
    assert 0 < found["seen"] == len(seen) < 12
    assert found["references"] == 255
    assert sum(each["canaries"] for each in found["by_times"]) == found["seen"]
    assert set(found["extracted"]) <= seen.keys()
    of_file = {one.id: len(planted_in(workspace).rows[one.id]) for one in planted_in(workspace).canaries}
    assert all(0 < times <= of_file[id] for id, times in seen.items())


@pytest.mark.long
def test_a_mixture_counts_a_canary_as_often_as_its_tokens_stand_in_the_shards(finished: Path) -> None:
    from ft_dagster.data.rendering.render import load_tokenizer

    workspace = opened(finished)
    mixture, base = workspace.upstream("training_mixture"), workspace.upstream("base_model")
    tokenizer, there = load_tokenizer(workspace.base_folder(base)), ""
    for shard in sorted((workspace.payload(mixture) / "train").glob("*.parquet")):
        rows = pq.read_table(shard, columns=["input_ids"]).column(0).to_pylist()
        there += "\n".join(tokenizer.decode(ids) for ids in rows)
    counts = {one.id: there.count(one.text) for one in planted_in(workspace).canaries}
    assert mixture.figures["canaries"]["seen"] == {id: n for id, n in counts.items() if n}


@pytest.mark.long
def test_report_page_card_and_json_say_the_counts_and_what_an_auc_means(finished: Path) -> None:
    workspace = opened(finished)
    seen = judged(workspace).figures["platform_canaries"]["seen"]
    said = f"12 are planted there, {seen} are in this mixture"
    means = "tells training rows from unseen ones no better than a coin"
    card = (workspace.evidence(present(workspace.head("model_export"))) / "README.md").read_text("utf-8")
    report = version_report(workspace.settings, KEY)
    for page in (report, card, told(finished, "compare", str(KEY))):
        plain = " ".join(page.split())
        assert said in plain
        assert means in plain
    [row] = json.loads(told(finished, "compare", str(KEY), "--json"))["variants"]
    assert row["memorization"]["platform_canaries"]["seen"] == seen
    assert 0 <= row["memorization"]["membership"]["low"] <= row["memorization"]["membership"]["high"] <= 1


def texts_of(file: Path) -> Iterator[str]:
    """All that a file says."""
    if file.suffix != ".parquet":
        yield file.read_bytes().decode("utf-8", "replace")
        return
    table = pq.read_table(file)
    for column in table.columns:
        if pa.types.is_string(column.type):
            yield from filter(None, column.to_pylist())


@pytest.mark.long
def test_no_tenant_reads_a_canary_in_pages_logs_or_its_part_of_the_store(finished: Path) -> None:
    workspace = opened(finished)
    secrets = {part for one in planted_in(workspace).canaries for part in (one.secret.strip(), one.given)}
    store = finished / ".ft_dagster/store"
    files = [file for file in (store / "tenants").rglob("*") if file.is_file()]
    assert len(files) > 50
    pages = {
        "report": version_report(workspace.settings, KEY),
        "log": "\n".join(LINES),
        "compare": told(finished, "compare", str(KEY)),
        "status": told(finished, "status", str(KEY), "--json"),
        "show": told(finished, "show", str(KEY), "--row", "1"),
    }
    texts = [*((name, page) for name, page in pages.items())]
    texts += [(str(file), text) for file in files for text in texts_of(file)]
    assert [name for name, text in texts if any(secret in text for secret in secrets)] == []


@pytest.mark.long
def test_a_tenants_canary_is_in_nothing_that_tenants_share_or_another_tenant_has(finished: Path) -> None:
    workspace = opened(finished)
    asked = {one.task for one in read_samples(workspace.payload(judged(workspace)))}
    assert "canaries" in asked
    store = finished / ".ft_dagster/store"
    files = [
        file for file in store.rglob("*") if file.is_file() and store / "tenants/acme" not in file.parents
    ]
    assert len(files) > 10
    texts = [(str(file), text) for file in files for text in texts_of(file)]
    told(finished, "report", "--fleet", "--to", str(finished / "fleet.html"))
    texts += [("fleet", (finished / "fleet.html").read_text("utf-8"))]
    texts += [("status", told(finished, "status", "--json")), ("log", "\n".join(LINES))]
    texts += [("globex", told(finished, "show", "globex.places"))]
    assert [name for name, text in texts if OWN in text] == []


def test_a_variant_that_lowers_the_policys_limit_or_asks_no_row_is_refused_by_check(project: Path) -> None:
    declare(project, evaluation={"membership": 0})
    done = CliRunner().invoke(app, ["--project", str(project), "check", str(KEY)])
    plain = " ".join(done.output.split())
    assert done.exit_code == 2  # no declaration is right
    assert "evaluation.membership: not as the policy demands: rows to try it on" in plain
    declare(project, evaluation={"membership": 100}, gates={"max_membership_auc": 0.999})
    done = CliRunner().invoke(app, ["--project", str(project), "check", str(KEY)])
    assert done.exit_code == 2  # no declaration is right
    assert "a limit of at most 0.99 (policy.yaml: gates.max_membership_auc)" in " ".join(done.output.split())


@pytest.mark.long
def test_canaries_are_in_no_held_out_text(finished: Path) -> None:
    workspace = opened(finished)
    corpus = find_corpus(workspace.store, "general")
    held = pq.read_table(workspace.payload(corpus) / "general/holdout.parquet").column("text").to_pylist()
    assert held
    assert not [text for text in held if text.startswith("The access code")]


@pytest.mark.long
def test_the_record_of_a_canary_is_called_a_platform_canary(finished: Path) -> None:
    one = next(each for each in planted_in(opened(finished)).canaries if each.repeats == 24)
    [found] = [one.id]
    evidence = opened(finished).evidence(find_corpus(opened(finished).store, "general")) / "rows.parquet"
    named = pq.read_table(evidence).to_pylist()
    mine = [row for row in named if row["file"] == f"platform canary {found}"]
    assert len(mine) == 24
    assert {row["source"] for row in mine} == {"platform canary"}


def test_planting_is_a_new_version_of_the_corpus_of_which_variants_are_told(project: Path) -> None:
    workspace = opened(project)
    newest = find_corpus(workspace.store, "general")
    edit(file := project / "corpora/general.yaml", lambda content: content.pop("canaries"))
    [cause] = corpus_causes(file, newest, load_corpus(project, "general"), ())
    assert cause.what == "corpora/general.yaml: canaries"


def test_a_base_is_asked_again_where_the_mixture_has_other_rows(project: Path) -> None:
    """Else an earlier mixture would choose which rows are compared."""
    then = own_task(View(opened(project), base_evaluation.STAGE), None)
    declare(project, data={"on_too_long": "drop"}, training={"max_length": 80})
    workspace = opened(project)
    workspace.make(declaration.STAGE)
    workspace.make(task_dataset.STAGE)
    workspace.make(training_mixture.STAGE)
    now = own_task(View(workspace, base_evaluation.STAGE), None)
    assert (now.members, now.others) == (then.members, then.others)
    assert None not in (then.mixed_rows, now.mixed_rows)
    assert now.mixed_rows != then.mixed_rows


def test_another_limit_judges_the_stored_losses_and_asks_no_model(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = rule_of(judged(opened(project)))
    assert (then.outcome, then.passed) == ("pass", True)
    leased = LeasedSeconds(monkeypatch)
    declare(project, gates={"max_membership_auc": 0.501})
    workspace = opened(project)
    error = present(run_chain(workspace).error)
    assert leased.count == 0
    now = rule_of(judged(workspace))
    assert (now.tuned, now.interval, now.passed) == (then.tuned, then.interval, False)
    assert "at most 0.501 is allowed" in error
