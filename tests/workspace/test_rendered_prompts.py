"""How a base's template has a variant's rows: in keys only where it matters, and in what is judged."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.evaluation.answers import PromptRequest, answer
from ft_dagster.gate.samples import Answer, read_answers
from ft_dagster.launch.launcher import Launcher
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.stages import (
    base_evaluation,
    evaluation,
    model_export,
    production_evaluation,
    training_mixture,
)
from ft_dagster.stages.chain import CHAIN, run_chain, up_to
from ft_dagster.stages.judging import verdicts
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.newest_model import newest_model
from ft_dagster.versions.now import difference
from ft_dagster.versions.version_artifacts import VersionArtifacts, version_artifacts
from ft_dagster.workspace import questions, rendered_prompts
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.chat_templates import ENDLESS, OPENS_A_THOUGHT, THINKS
from tests.e2e.project import edit, write_lines
from tests.long import mostly_long
from tests.security.pretend import Pretend
from tests.stages.changed import changed
from tests.tiny_model import CHAT_TEMPLATE

pytestmark = pytest.mark.slow
LEAD = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module", params=mostly_long(["pretended", "real"], ["pretended"]))
def programs(request: pytest.FixtureRequest) -> Launcher[Any] | None:
    """What trains and asks; keys, rows and questions are the same whether it does."""
    return Pretend() if request.param == "pretended" else None


for_real = pytest.mark.parametrize("programs", mostly_long(["real"]), indirect=True)


def opened(project: Path, key: VariantKey, programs: Launcher[Any] | None) -> Workspace:
    return Workspace(load_settings(project), key, RunOf("test", "test", lambda line: None), launcher=programs)


def on_template(
    chained: Workspace, folder: Path, template: str, programs: Launcher[Any] | None, **data: Any
) -> Workspace:
    """The same variant in a project of its own, on a base with this template; its chain was not run."""
    project = shutil.copytree(
        chained.project, folder / "project", ignore=shutil.ignore_patterns(".ft_dagster")
    )
    base = shutil.copytree(chained.spec.base_model.source or "", folder / "base")
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    edit(project / "ft_dagster.yaml", lambda content: content["sources"]["bases"].append(str(base)))
    edit(project / "tenants/acme/places.yaml", lambda content: content.update(base_model=str(base)))
    edit(project / "tenants/acme/places.yaml", lambda content: content["data"].update(data))
    return opened(project, chained.key, programs)


def run(workspace: Workspace, last: str) -> dict[str, Artifact]:
    outcome = run_chain(workspace, up_to(last))
    assert outcome.error is None, outcome.error
    return outcome.made


def without(part: str, made: Artifact) -> Artifact:
    """As older code made it, which had no such part in its keys."""
    spec = {name: value for name, value in made.spec.items() if name != part}
    return replace(made, predicate={**made.predicate, "spec": spec})


def own_answers(workspace: Workspace) -> list[Answer]:
    """The written answers to the variant's own test rows in its newest evaluation."""
    answers = read_answers(workspace.evidence(workspace.upstream("evaluation")))
    return [each for each in answers if each.role == "test_split_task" and each.answered]  # a loss has none


@pytest.fixture(scope="module")
def thinking(
    chained: Workspace, programs: Launcher[Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """On a base whose template writes an empty thought before an answer, judged."""
    workspace = on_template(chained, tmp_path_factory.mktemp("thinking"), THINKS, programs)
    edit(workspace.declared_in, lambda content: content["evaluation"].update(kind="label", max_new_tokens=40))
    edit(workspace.declared_in, lambda content: content["training"].update(num_train_epochs=20))
    run(workspace, "evaluation")
    return workspace


@for_real
def test_an_evaluation_is_held_against_the_text_that_a_row_has(thinking: Workspace) -> None:
    """The tuned model writes the empty thought too, as it was trained to, and then the answer."""
    told = own_answers(thinking)
    assert told
    assert all(each.expected.startswith("The ") for each in told)
    assert any(each.answered.startswith("The ") for each in told)
    assert not any("think" in each.answered for each in told)


@for_real
def test_try_shows_an_answer_as_it_is_judged(thinking: Workspace) -> None:
    model = newest_model(thinking.settings, thinking.key)
    prompts = ["Where is the form of the east?", "Where is the ship of the garden?"]
    (told,) = answer([PromptRequest(model.base, model.tuned, prompts, model.chat)], max_new_tokens=40)
    assert all(each.tuned.startswith("The") and "think" not in each.tuned for each in told)


def test_it_is_in_the_keys_of_what_asks_such_rows_on_such_a_base_alone(
    chained: Workspace, thinking: Workspace
) -> None:
    for stage in CHAIN:
        plain, led = (workspace.recipe(stage)[0].spec for workspace in (chained, thinking))
        assert "task.lead" not in plain
        asks = stage.name in ("base_evaluation", "evaluation", "model_export")
        assert led.get("task.lead") == (LEAD if asks else None)
    assert "task.lead" not in thinking.recipe(base_evaluation.GENERAL_SCORES)[0].spec


def test_it_makes_no_other_try_of_the_same_weights(thinking: Workspace) -> None:
    view = View(thinking, evaluation.STAGE)
    task, general = questions.own_task(view, None), questions.general(view, None)
    assert task.lead == LEAD
    plain = replace(task, lead=None)
    assert questions.questions_digest(task, general) == questions.questions_digest(plain, general)


def test_texts_and_declared_tasks_have_no_answer_that_a_template_leads_to(thinking: Workspace) -> None:
    dataset, base = thinking.upstream("task_dataset"), thinking.upstream("base_model")

    def of(*formats: str) -> str | None:
        figures = {**dataset.figures, "formats": {str(n): format for n, format in enumerate(formats)}}
        other = replace(dataset, predicate={**dataset.predicate, "figures": figures})
        return rendered_prompts.lead_of_answers(thinking.context, other, base, None)

    assert (of("text"), of("alpaca"), of("text", "chat")) == (None, LEAD, LEAD)
    assert of("prompt_completion") == LEAD  # by the rows: these are conversations


def test_what_older_code_judged_is_told_and_not_held_against_what_is_judged_now(thinking: Workspace) -> None:
    version = version_artifacts(thinking.store, thinking.prefix)

    def named(*older: str) -> list[str]:
        changed = {stage: without("task.lead", version.artifacts[stage]) for stage in older}
        of = version._replace(artifacts={**version.artifacts, **changed})
        return [cause.what for cause in difference(thinking, thinking.declared(), of, FoundNow(None))]

    assert named() == []
    assert named("base_evaluation", "evaluation") == ["base_evaluation", "evaluation"]
    judged = thinking.upstream("evaluation")
    assert verdicts.asked_by_its_rules(thinking, judged)
    assert not verdicts.asked_by_its_rules(thinking, without("task.lead", judged))
    assert verdicts.asked_alike(judged, without("task.lead", judged))


def test_a_tokenizer_is_loaded_once_for_what_its_template_makes_of_rows(
    thinking: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = thinking.upstream("base_model")
    known = rendered_prompts.traits_of(thinking.context, base)
    monkeypatch.setattr(rendered_prompts, "_KNOWN", {})

    def load(folder: Path) -> Any:
        raise AssertionError("it is loaded again")

    monkeypatch.setattr(rendered_prompts, "load_tokenizer", load)
    assert (
        rendered_prompts.traits_of(thinking.context, base)
        == rendered_prompts.known_traits(thinking.cache, base)
        == known
    )
    monkeypatch.setattr(rendered_prompts, "_KNOWN", {})
    (file,) = (thinking.cache / rendered_prompts.FOLDER).glob(f"{base.digest}-*.json")
    file.write_text("{")
    assert rendered_prompts.known_traits(thinking.cache, base) is None
    with pytest.raises(AssertionError, match="it is loaded again"):
        rendered_prompts.traits_of(thinking.context, base)


@pytest.fixture(scope="module")
def endless(chained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """On a base whose template marks no end of a turn, with every answer trained; up to its mixture."""
    folder = tmp_path_factory.mktemp("endless")
    workspace = on_template(chained, folder, ENDLESS, Pretend(), train_on="assistant_turns")
    run(workspace, "training_mixture")
    return workspace


def test_the_end_of_earlier_answers_is_in_the_key_of_a_mixture_where_no_template_marks_it(
    chained: Workspace, endless: Workspace
) -> None:
    assert endless.upstream("training_mixture").spec["turn_end"] == "eos"
    every = changed(chained, {"data.train_on": "assistant_turns"})
    last = changed(endless, {"data.train_on": "completions"})
    for workspace in (chained, every, last):
        assert "turn_end" not in workspace.recipe(training_mixture.STAGE)[0].spec


def test_a_mixture_of_earlier_answers_without_an_end_is_told(endless: Workspace) -> None:
    made = {stage: endless.upstream(stage) for stage in ("base_model", "task_dataset", "training_mixture")}
    version = VersionArtifacts(made, {"declaration": endless.upstream("declaration")}, ())
    assert difference(endless, endless.declared(), version, FoundNow(None)) == ()
    older = {**made, "training_mixture": without("turn_end", made["training_mixture"])}
    (cause,) = difference(endless, endless.declared(), version._replace(artifacts=older), FoundNow(None))
    assert cause.words == "training_mixture has its rows rendered otherwise than a run would"


PLAIN = r"Where is the \w+ of the \w+\?"
ASKED = re.escape("<|im_start|>user\n") + PLAIN
ASKED += re.escape("<|im_end|>\n<|im_start|>assistant\n")
TOLD = r"«The .*\." + re.escape("<|im_end|>") + "»"


def asks_prompts(workspace: Workspace, **data: Any) -> Workspace:
    """The same rows as prompts with completions, and more declared of the data."""
    file = workspace.project / "data" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    write_lines(file, [{"prompt": row["instruction"], "completion": row["output"]} for row in rows])
    edit(workspace.declared_in, lambda content: content["data"].update(data))
    return workspace


@pytest.fixture(scope="module")
def kept(
    chained: Workspace, programs: Launcher[Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """With prompts and completions as plain text on a base with a chat template, released."""
    workspace = on_template(chained, tmp_path_factory.mktemp("kept"), CHAT_TEMPLATE, programs)
    run(asks_prompts(workspace, render="plain"), "model_export")
    release(workspace)
    return workspace


@pytest.fixture(scope="module")
def prompting(
    kept: Workspace, programs: Launcher[Any] | None, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """The same project, where nothing is said of how they are rendered: judged once more."""
    project = shutil.copytree(kept.project, tmp_path_factory.mktemp("prompting") / "project")
    workspace = opened(project, kept.key, programs)
    edit(workspace.declared_in, lambda content: content["data"].pop("render"))
    run(workspace, "model_export")
    return workspace


def test_prompts_are_trained_and_asked_as_one_exchange(prompting: Workspace) -> None:
    """By the mixture, what is probed, the export, and `try`."""
    sample = prompting.evidence(prompting.upstream("training_mixture")) / "sample.txt"
    assert re.fullmatch(ASKED + TOLD + "\n", sample.read_text("utf-8"))
    request = questions._of_task(questions.own_task(View(prompting, evaluation.STAGE), None))
    assert request["regurgitation"].exchange
    assert all(re.fullmatch(ASKED, prompt) for prompt in export_probes(prompting))
    assert newest_model(prompting.settings, prompting.key).chat


@for_real
def test_a_base_and_a_tuned_model_are_asked_prompts_as_they_are_rendered(
    kept: Workspace, prompting: Workspace
) -> None:
    for workspace, rendered in ((prompting, ASKED), (kept, PLAIN)):
        for stage in ("base_evaluation", "evaluation"):
            told = read_answers(workspace.evidence(workspace.upstream(stage)))
            own = [each.asked for each in told if each.role == "test_split_task"]
            assert own
            assert all(re.fullmatch(rendered, questions) for questions in own)


def export_probes(workspace: Workspace) -> list[str]:
    """The prompts on which the export of a variant is compared with its weights."""
    _, inputs = workspace.recipe(model_export.STAGE)
    request = model_export._request(inputs, BuildContext(workspace), workspace.project)
    return list(request.probes)


def test_prompts_that_are_declared_plain_stand_before_their_completions_as_they_are(kept: Workspace) -> None:
    sample = kept.evidence(kept.upstream("training_mixture")) / "sample.txt"
    assert re.fullmatch(PLAIN + TOLD, sample.read_text("utf-8"))
    assert all(re.fullmatch(PLAIN, prompt) for prompt in export_probes(kept))
    assert not newest_model(kept.settings, kept.key).chat


def test_the_rendering_is_in_the_keys_of_such_rows_on_such_bases_alone(
    chained: Workspace, kept: Workspace, prompting: Workspace
) -> None:
    """And `plain` is in none: what an older version made of such rows stands."""
    for stage in CHAIN[1:]:
        plain, exchanged = (set(parts_of(workspace, stage)) for workspace in (kept, prompting))
        own = {
            "training_mixture": {"rendering"},
            **{name: {"task.rendering"} for name in ("base_evaluation", "evaluation", "model_export")},
        }
        assert exchanged - plain == own.get(stage.name, set())
        assert not {"rendering", "task.rendering"} & {*plain, *parts_of(chained, stage)}
        assert "render" not in json.dumps(kept.recipe(stage)[0].spec)


def parts_of(workspace: Workspace, stage: Stage[Any]) -> dict[str, Any]:
    recipe = workspace.recipe(stage)[0]
    return {**recipe.spec, **recipe.inputs}


def test_a_base_without_a_chat_template_takes_prompts_as_they_are(chained: Workspace, tmp_path: Path) -> None:
    workspace = asks_prompts(on_template(chained, tmp_path, "", Pretend()))
    mixture = run(workspace, "training_mixture")["training_mixture"]
    assert "rendering" not in mixture.spec
    sample = workspace.evidence(mixture) / "sample.txt"
    assert re.fullmatch(PLAIN + TOLD, sample.read_text("utf-8"))


def test_prompts_that_are_lists_of_messages_were_rendered_so_before(
    chained: Workspace, tmp_path: Path
) -> None:
    workspace = on_template(chained, tmp_path, CHAT_TEMPLATE, Pretend())
    file = workspace.project / "data" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    turns = [
        {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in rows
    ]
    write_lines(file, turns)
    mixture = run(workspace, "training_mixture")["training_mixture"]
    assert "rendering" not in mixture.spec
    sample = workspace.evidence(mixture) / "sample.txt"
    assert re.fullmatch(ASKED + TOLD + "\n", sample.read_text("utf-8"))


def test_a_template_that_takes_no_exchange_says_what_keeps_such_rows(
    chained: Workspace, tmp_path: Path
) -> None:
    workspace = asks_prompts(on_template(chained, tmp_path, OPENS_A_THOUGHT, Pretend()))
    error = run_chain(workspace, up_to("training_mixture")).error
    assert str(error).endswith("or prompt_completion rows with data.render: plain")


def test_the_version_in_production_is_asked_as_it_was_trained(kept: Workspace, prompting: Workspace) -> None:
    """Its own evaluation stands for it, for it answered the same questions."""
    recipe, _ = prompting.recipe(production_evaluation.STAGE)
    assert "task.rendering" not in recipe.spec
    before, now = kept.upstream("evaluation"), prompting.upstream("evaluation")
    assert now.spec["task.rendering"] == "exchange"
    assert verdicts.asked_alike(before, now)
    assert verdicts.asked_by_its_rules(prompting, before)


def test_what_was_trained_as_plain_text_is_told(kept: Workspace, prompting: Workspace) -> None:
    version = version_artifacts(kept.store, kept.prefix)
    declared = replace(kept.declared(), spec=prompting.declared().spec)

    def named(declared: Declared) -> list[str]:
        return [cause.what for cause in difference(kept, declared, version, FoundNow(None))]

    assert named(kept.declared()) == []
    assert named(declared) == ["training_mixture"]
