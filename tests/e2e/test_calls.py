"""A tiny model is taught to call one tool: judged by its calls, released, shown with what they came to. Some
of its rows have everything that a row may say: from the file to the audit they say it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_answers, read_samples
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec import VariantKey
from ft_dagster.spec.load import load_variant
from ft_dagster.store import Artifact, read_head
from ft_dagster.versions.version_report import version_report
from tests.chat_templates import CALLS_AND_THOUGHTS
from tests.e2e.project import PLACES, THINGS, edit, write_lines, write_project
from tests.e2e.workshop import Workshop
from tests.mixtures import iter_examples
from tests.present import present

pytestmark = [pytest.mark.slow, pytest.mark.long]
ACME = VariantKey("acme", "places")
EVERYTHING = 8  # rows with everything
READ = "up to its last trained answer"
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
    return [*(everything(number) for number in range(EVERYTHING)), *made]


def everything(number: int) -> dict[str, Any]:
    """A row with all that a row may say: a name, reasoning, parallel calls, their answers, turns that are
    context before and after the last answer that is trained.
    """
    calls = [
        {"id": f"call0000{n}", "type": "function", "function": {"name": "find", "arguments": {"n": n}}}
        for n in (1, 2)
    ]
    answers = [
        {"role": "tool", "tool_call_id": call["id"], "name": "find", "content": f"town {number}"}
        for call in calls
    ]
    turns = [
        {"role": "user", "name": "Ada", "content": f"Which towns are near number {number}?"},
        {"role": "assistant", "content": "", "reasoning_content": "Two.", "tool_calls": calls, "weight": 0},
        *answers,
        {"role": "assistant", "content": f"Town {number}.", "reasoning_content": "Both say so."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Nothing.", "weight": 0},
    ]
    return {"messages": turns, "tools": [{"type": "function", "function": FIND}]}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("calls")
    base = folder / "base"
    shutil.copytree(tiny_model_folder, base)
    (base / "chat_template.jinja").write_text(CALLS_AND_THOUGHTS)
    project = write_project(folder / "project", base)
    write_lines(project / "data" / "rows.jsonl", rows())

    def by_calls(declared: dict[str, Any]) -> None:
        declared["evaluation"] |= {"kind": "tool_calls", "max_new_tokens": 32, "limit": 100}
        declared["training"] |= {"num_train_epochs": 8, "learning_rate": 1e-2, "max_length": 256}
        declared |= {"method": {"name": "full"}, "export": "merged"}
        declared["data"]["samples"] = "metadata"

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


def called(taught: Workshop, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--project", str(taught.folder), *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def whole(taught: Workshop) -> dict[int, Row]:
    """Rows with everything by their number in the training split."""
    rows = enumerate(read_split(payload(taught, "task_dataset") / "train.parquet"))
    found = {number: row for number, row in rows if len(row.messages) == 7}
    assert found
    return found


def test_a_row_with_everything_is_kept_rendered_and_trained_as_it_says(
    taught: Workshop, whole: dict[int, Row]
) -> None:
    tokenizer = load_tokenizer(taught.folder.parent / "base")
    made = {one.row: one for one in iter_examples(payload(taught, "training_mixture"), "train")}
    for number, row in whole.items():
        [name] = row.messages[0].content.split()[-1:]
        given = everything(int(name.strip("?")))
        said = [{"content": turn.content, **turn.for_template()} for turn in row.messages]
        assert said == [{k: v for k, v in turn.items() if k != "weight"} for turn in given["messages"]]
        assert row.tool_list == given["tools"]
        assert [turn.is_trained for turn in row.messages if turn.role == "assistant"] == [False, True, False]
        ids = made[number].input_ids
        text = tokenizer.decode(ids)
        for part in ("user Ada", "<think>Two.</think>", '[ARGS]{"n": 1}[TOOL_CALLS]', "tool find", "find {"):
            assert part in text
        assert "And then?" not in text
        [(start, end)] = made[number].trained_spans.tolist()
        answer = f"<think>Both say so.</think>{given['messages'][4]['content']}<|im_end|>"
        assert tokenizer.decode(ids[start:end]) == answer


def test_rows_are_asked_with_their_tools_and_a_prompt_without(taught: Workshop) -> None:
    answers = read_answers(payload(taught, "evaluation", "evidence"))
    own = [each.asked for each in answers if each.role == "test_split_task"]
    assert own
    assert all(asked.startswith("<|im_start|>system\nfind {") for asked in own)
    prompt = "Where is the permit of the north?"
    [said] = json.loads(called(taught, "try", "acme.places", "--prompt", prompt, "--json"))
    [answer] = said["answers"]
    assert answer["tuned"].startswith("[TOOL_CALLS]find[ARGS]")
    assert not answer["base"].startswith("[TOOL_CALLS]")


def test_the_report_shows_the_first_rows_as_the_model_read_them(taught: Workshop) -> None:
    report = version_report(taught.settings, ACME)
    table = report.partition("<caption>the first rows as the model read them</caption>")[2].partition(
        "</table>"
    )[0]
    cells = re.findall(r"<td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", table, re.DOTALL)
    of_first = {part: unescape(text) for number, part, text in cells if number == "1"}
    assert of_first["trained"].startswith("<think>Both say so.</think>Town ")
    assert of_first["read"] == READ
    assert {number for number, *_ in cells} == {"1", "2", "3"}
    assert "<think>" not in table


def test_an_audit_of_a_row_with_everything_says_how_much_of_it_was_trained(
    taught: Workshop, whole: dict[int, Row], tmp_path: Path
) -> None:
    """As `show --row` does; a row that differs in a call, or in its reasoning, is another."""
    row = next(iter(whole.values()))
    given = everything(int(row.messages[0].content.split()[-1].strip("?")))
    record = tmp_path / "row.json"
    record.write_text(json.dumps(given), "utf-8")
    found = json.loads(called(taught, "audit", "record", str(record), "--json"))
    assert [(one["how"], one["cut"]) for one in found["models"]] == [("trained on", READ)]
    assert found["models"][0]["releases"]
    assert {one["cut"] for one in found["found"] if one["stage"] == "training_mixture"} == {READ}
    assert READ in " ".join(called(taught, "audit", "record", str(record)).split())
    line = 1 + rows().index(given)
    shown = json.loads(called(taught, "show", "acme.places", "--row", str(line), "--json"))
    assert shown["read"] == READ
    trained = [piece["text"] for piece in shown["pieces"] if piece["part"] == "trained"]
    assert trained == [f"<think>Both say so.</think>{given['messages'][4]['content']}<|im_end|>"]
    for place, change in ((1, {"reasoning_content": "Three."}), (4, {"content": "Town 99."})):
        other = json.loads(json.dumps(given))
        other["messages"][place] |= change
        record.write_text(json.dumps(other), "utf-8")
        done = json.loads(called(taught, "audit", "record", str(record), "--json"))
        assert done["found"] == []
