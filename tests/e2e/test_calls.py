"""A tiny model is taught to call one tool: judged by its calls, released, shown with what they came to."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_answers, read_samples
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec import VariantKey
from ft_dagster.spec.load import load_variant
from ft_dagster.store import Artifact, read_head
from ft_dagster.versions.version_report import version_report
from tests.chat_templates import CALLS_BY_TAG
from tests.e2e.project import PLACES, THINGS, edit, write_lines, write_project
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = [pytest.mark.slow, pytest.mark.long]
ACME = VariantKey("acme", "places")
FIND = {
    "name": "find",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


def rows() -> list[dict[str, Any]]:
    """A question is answered by a call, thanks are not."""
    made = []
    for number in range(100):
        words = f"the {THINGS[number % 10]} of the {PLACES[number // 10]}"
        call = {"type": "function", "function": {"name": "find", "arguments": {"n": 1}}}
        turns = [
            {"role": "user", "content": f"Where is {words}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        if number % 4 == 0:
            turns = [
                {"role": "user", "content": f"Thank you for {words}."},
                {"role": "assistant", "content": "Bring your passport."},
            ]
        made.append({"messages": turns, "tools": [{"type": "function", "function": FIND}]})
    return made


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("calls")
    base = folder / "base"
    shutil.copytree(tiny_model_folder, base)
    (base / "chat_template.jinja").write_text(CALLS_BY_TAG)
    project = write_project(folder / "project", base)
    write_lines(project / "data" / "rows.jsonl", rows())

    def by_calls(declared: dict[str, Any]) -> None:
        declared["evaluation"] |= {"kind": "tool_calls", "max_new_tokens": 32, "limit": 100}
        declared["training"] |= {"num_train_epochs": 8, "learning_rate": 1e-2, "max_length": 192}
        declared |= {"method": {"name": "full"}, "export": "merged"}

    edit(project / "tenants" / "acme" / "places.yaml", by_calls)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Workshop(project, instance)
        made.first = made.materialize("acme.places", raises=False)
        assert made.first.success, made.failure(made.first)
        yield made


def head(workshop: Workshop, stage: str) -> Artifact:
    return present(read_head(workshop.store, ACME.prefix, stage))


def payload(workshop: Workshop, stage: str, part: str = "payload") -> Path:
    return head(workshop, stage).folder(workshop.store, workshop.settings.cache_folder) / part


@pytest.fixture
def rule(taught: Workshop) -> Rule:
    rules = Verdict.from_json(head(taught, "evaluation").figures["verdict"]).rules
    return next(each for each in rules if each.rule == "task")


def test_a_model_that_learned_to_call_passes(taught: Workshop, rule: Rule) -> None:
    assert (rule.metric, rule.outcome) == ("calls_right", "pass")
    valid, undue = rule.parts
    assert (valid.metric, valid.base, undue.metric) == ("calls_valid", 0.0, "undue_call")
    assert valid.tuned > 0.8
    assert undue.tuned < 0.3
    assert rule.tuned > 0.8 > rule.base


def test_the_answers_are_kept_as_they_are_written(taught: Workshop) -> None:
    answers = read_answers(payload(taught, "evaluation", "evidence"))
    own = [each for each in answers if each.role == "test_split_task" and "[TOOL_CALLS]" in each.expected]
    assert own
    assert any(each.answered == '[TOOL_CALLS]find[ARGS]{"n": 1}' for each in own)


def test_a_model_that_lost_its_calls_fails(taught: Workshop) -> None:
    """The same stored answers, the other way round."""
    before, after = (read_samples(payload(taught, stage)) for stage in ("base_evaluation", "evaluation"))
    gates = load_variant(taught.folder, ACME).spec.gates
    own = [[one for one in side if one.role == "test_split_task"] for side in (before, after)]
    verdict = judge(own[1], own[0], gates)
    assert not verdict.passed
    assert verdict.outcome == "fail"
    assert "valid calls where some are due" in verdict.failures


def test_evaluation_compare_report_and_card_say_each_of_the_three(taught: Workshop, rule: Rule) -> None:
    report = version_report(taught.settings, ACME)
    card = (payload(taught, "model_export", "evidence") / "README.md").read_text("utf-8")
    compared = CliRunner().invoke(app, ["--project", str(taught.folder), "compare", "acme.places"]).output
    (event,) = taught.first.asset_materializations_for_node("evaluation")
    page = str({name: value.value for name, value in event.metadata.items()})
    valid, undue = ("valid calls where some are due", "a call where none is due")
    for shown in (report, card, " ".join(compared.split()), page):
        assert valid in shown
        assert undue in shown
