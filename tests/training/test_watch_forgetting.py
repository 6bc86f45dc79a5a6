"""Forgetting while it trains: the benchmark, the limits, degeneration, and that looking leaves no trace."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.spec.training import WatchSettings
from ft_dagster.training.contract import Benchmarks
from ft_dagster.training.journal import Journal
from ft_dagster.training.watch.degeneration import degeneration
from ft_dagster.training.watch.falls import benchmark_fall, fall_of, least_questions, looks_of
from ft_dagster.training.watch.forgetting import Benchmark, passed, unsure
from tests.evaluation.questions import write_task
from tests.present import present


def lora(base: Path, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.2)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    model.config.use_cache = False
    return model.train()


@pytest.fixture
def benchmark(tmp_path: Path, tiny_model_folder: Path) -> Benchmark:
    write_task(tmp_path, "forms")
    write_task(tmp_path, "more", count=9)
    asked = Benchmarks(tasks=tasks_digest(["forms.yaml", "more.yaml"], tmp_path), project=tmp_path, seed=3)
    return Benchmark(asked, 12, tiny_model_folder, tmp_path / "output")


def traces(model: Any) -> dict[str, Any]:
    """Everything about a model in training that a look at it could change."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "cache": inner.config.use_cache,
        "generation": [id(vars(m).get("generation_config")) for m in (model, inner)],
        "settings": inner.generation_config.to_dict(),
        "config": inner.config.to_dict(),
        "hooks": [
            (name, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for name, module in model.named_modules()
        ],
        "buffers": [(name, id(buffer)) for name, buffer in model.named_buffers()],
        "weights": {name: weight.tolist() for name, weight in model.state_dict().items()},
        "needs": [
            (name, weight.requires_grad, weight.is_inference()) for name, weight in model.named_parameters()
        ],
    }


def one_step(model: Any) -> list[Any]:
    """The gradients of a loss with dropout, checkpointed."""
    model.zero_grad()
    ids = torch.arange(40).reshape(2, 20)
    torch.manual_seed(4)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return [weight.grad.tolist() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_looking_at_a_model_in_training_leaves_no_trace(
    benchmark: Benchmark, tiny_model_folder: Path, tiny_tokenizer: Any, checkpointed: bool
) -> None:
    model = lora(tiny_model_folder)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    expected, before = one_step(model), copy.deepcopy(traces(model))
    scores, signs = benchmark.ask(model), degeneration(model, tiny_tokenizer)
    assert traces(model) == before
    assert one_step(model) == expected
    assert (benchmark.ask(model), degeneration(model, tiny_tokenizer)) == (scores, signs)


@pytest.mark.slow
def test_a_model_without_an_adapter_is_left_as_it_was_too(
    benchmark: Benchmark, tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).train()
    before = copy.deepcopy(traces(model))
    benchmark.ask(model)
    degeneration(model, tiny_tokenizer)
    assert traces(model) == before


@pytest.mark.slow
def test_the_benchmark_is_the_accuracy_over_the_questions_drawn(
    benchmark: Benchmark, tiny_model_folder: Path
) -> None:
    scores = benchmark.ask(lora(tiny_model_folder))
    answers = scores.pop("answers")
    assert {name: len(values) for name, values in answers.items()} == {"forms": 12, "more": 9}
    assert {name: sum(values) / len(values) for name, values in answers.items()} == pytest.approx(
        {name: scores[name] for name in answers}
    )
    assert set(scores) == {"forms", "more", "mean"}
    assert scores["mean"] == pytest.approx((scores["forms"] + scores["more"]) / 2)
    assert (12 * scores["forms"]) % 1 == (9 * scores["more"]) % 1 == pytest.approx(0)  # 12 of 30, all 9


@pytest.mark.slow
def test_a_model_that_prefers_an_answer_scores_its_share(
    benchmark: Benchmark, tiny_model_folder: Path
) -> None:
    """Every fourth question's answer is "the whale": a model that always says so is right that often."""
    model = lora(tiny_model_folder)
    tokenizer = benchmark._tokenizer
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.02)
    ids = torch.tensor([tokenizer("Question: open account?\nAnswer: the whale")["input_ids"]])
    for _ in range(30):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    parts, chosen = benchmark._tasks["more"]
    share = sum(parts["more"].eval_docs[at]["gold"] == 2 for at in chosen["more"]) / 9
    assert benchmark.ask(model)["more"] == pytest.approx(share)


def test_a_task_whose_metric_is_no_share_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_task(
        tmp_path,
        "texts",
        output_type="loglikelihood_rolling",
        doc_to_target="{{question}}",
        doc_to_text="",
        metric_list=[{"metric": "word_perplexity"}],
    )
    tasks = Benchmarks(tasks=tasks_digest(["texts.yaml"], tmp_path), project=tmp_path)
    asked = Benchmark(tasks, 4, tiny_model_folder, tmp_path / "output")
    with pytest.raises(UserError, match="no metric between 0 and 1"):
        asked.ask(lora(tiny_model_folder))


def test_an_unknown_task_is_refused_with_the_nearest(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_task(tmp_path, "forms")
    with pytest.raises(UserError, match="no such task file"):
        Benchmark(Benchmarks(tasks={"form.yaml": ""}, project=tmp_path), 4, tiny_model_folder, tmp_path)


def test_a_task_that_changed_since_it_was_frozen_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_task(tmp_path, "forms")
    frozen = tasks_digest(["forms.yaml"], tmp_path)
    write_task(tmp_path, "forms", count=9)
    with pytest.raises(UserError, match="not what it was when the declaration was frozen"):
        Benchmark(Benchmarks(tasks=frozen, project=tmp_path), 4, tiny_model_folder, tmp_path / "output")


@pytest.mark.slow
def test_a_model_that_ends_at_once_answers_nothing(tiny_model_folder: Path, tiny_tokenizer: Any) -> None:
    """Trained to say the end token after everything; and one that says one token for ever."""
    for token, found in ((tiny_tokenizer.eos_token_id, "empty"), (50, "repeated")):
        model = lora(tiny_model_folder)
        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.05)
        torch.manual_seed(0)
        for _ in range(25):
            optimizer.zero_grad()
            ids = torch.randint(3, len(tiny_tokenizer), (4, 12))
            model(input_ids=ids, labels=None).logits.flatten(0, 1).log_softmax(-1)[
                :, token
            ].mean().neg().backward()
            optimizer.step()
        said = degeneration(model, tiny_tokenizer)
        assert said[found] > 0.9
        assert said["empty" if found == "repeated" else "repeated"] == 0


@pytest.mark.parametrize(
    ("limits", "step", "said"),
    [
        ({}, 20, None),
        ({"general_loss_limit": 0.5}, 10, None),
        ({"general_loss_limit": 0.5}, 20, "rose by 0.600 nats a token (limit 0.5)"),
        ({"general_loss_limit": 0.5}, 30, None),  # not measured there
        ({"benchmark_limit": 0.05}, 10, None),
        ({"benchmark_limit": 0.05}, 20, "fell by 10.0 points (limit 5)"),
    ],
)
def test_a_limit_that_is_passed_is_said(limits: dict[str, Any], step: int, said: str | None) -> None:
    general = {0: 3.0, 10: 3.5, 20: 3.6}
    asked = [{"step": at, "benchmark": {"mean": mean}} for at, mean in ((0, 0.5), (10, 0.46), (20, 0.4))]
    reason = passed(WatchSettings(**limits), general, asked, step, looks=8)
    assert reason is None if said is None else reason is not None and said in reason


def looks_at(*right: int, questions: int = 40) -> list[dict[str, Any]]:
    """Looks at step 0, 10, 20, ..., at each of which the first so many questions are right."""
    found = []
    for number, count in enumerate(right):
        values = [1.0] * count + [0.0] * (questions - count)
        found.append(
            {"step": 10 * number, "benchmark": {"mean": count / questions, "answers": {"a": values}}}
        )
    return found


def test_a_fall_of_a_few_questions_stops_nothing_and_is_said() -> None:
    """Six of 40 lost and none gained: p = 1 / 64, and 5% over 8 looks are 0.63% at each."""
    watch, seen = WatchSettings(questions=40, benchmark_limit=0.05), looks_at(30, 24, 20)
    assert passed(watch, {}, seen, 10, looks=8) is None
    said = unsure(watch, seen, 10, looks=8) or ""
    assert (
        "fell by 15.0 points (limit 5), which chance may explain (40 questions, p = 0.016, level 0.62%"
        in said
    )
    assert passed(watch, {}, seen, 10, looks=1) is not None
    shown = passed(watch, {}, seen, 20, looks=8) or ""
    assert "fell by 25.0 points (limit 5), which chance does not explain (40 questions, p = 0.00098" in shown
    assert unsure(watch, seen, 20, looks=8) is None


@pytest.mark.slow
def test_questions_of_one_document_are_one_unit(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Else a group that falls as one would stop a training as so many falls by chance cannot."""
    write_task(tmp_path, "forms", count=12)
    file = tmp_path / "forms.jsonl"
    docs = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(f"{json.dumps({**doc, 'group': str(n % 3)})}\n" for n, doc in enumerate(docs)))
    tasks = Benchmarks(tasks=tasks_digest(["forms.yaml"], tmp_path), project=tmp_path)
    found = Benchmark(tasks, 12, tiny_model_folder, tmp_path / "output").ask(lora(tiny_model_folder))
    assert len(found["answers"]["forms"]) == 3
    assert sum(found["answers"]["forms"]) == pytest.approx(12 * found["forms"])


def test_a_shown_fall_within_the_limit_stops_nothing() -> None:
    assert passed(WatchSettings(questions=40, benchmark_limit=0.3), {}, looks_at(30, 20), 10, looks=8) is None


def test_answers_that_change_and_do_not_fall_are_paired() -> None:
    """As many gained as lost is no fall, and more lost than gained is one by those that differ alone."""
    even = looks_at(20, 20)
    even[1]["benchmark"]["answers"] = {"a": [0.0] * 20 + [1.0] * 20}
    found = present(fall_of(even, 10))
    assert (found.size, found.units) == (0.0, 40)
    assert found.p == pytest.approx(0.563, abs=1e-3)


def test_the_looks_of_a_training_that_may_begin_again_share_the_level_too() -> None:
    assert [looks_of(declared, 8) for declared in ("stop", "warn", "lower")] == [8, 8, 16]


def test_so_many_questions_as_are_the_least_show_a_fall_and_no_fewer() -> None:
    for looks in (1, 8, 100):
        least = least_questions(looks)
        shown = [present(fall_of(looks_at(n, 0, questions=n), 10)).shown(looks) for n in (least - 1, least)]
        assert shown == [False, True]


def test_a_fall_needs_a_benchmark_at_step_0() -> None:
    assert benchmark_fall([{"step": 10, "benchmark": {"mean": 0.4}}], 10) is None
    assert passed(WatchSettings(general_loss_limit=0.1), {10: 5.0}, [], 10, looks=8) is None


@pytest.mark.parametrize("base", [3.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("now", "within"), [(3.05, True), (3.2, False), (math.nan, False), (math.inf, False)]
)
def test_a_resume_decides_nothing_about_a_limit_and_what_is_no_number_is_within_none(
    tmp_path: Path, base: float, now: float, within: bool
) -> None:
    means = [{"step": at, "benchmark": {"mean": mean}} for at, mean in ((0, -base), (10, -now))]
    in_one_go = Journal([1], evaluations={"general_holdout": {0: base, 10: now}}, observations=means)
    in_one_go.save(tmp_path)

    def said(journal: Journal, limit: str) -> str | None:
        general = journal.evaluations["general_holdout"]
        watch = WatchSettings.model_validate({limit: 0.1})
        return passed(watch, general, journal.observations, 10, looks=8)

    for limit in ("general_loss_limit", "benchmark_limit"):
        found = said(in_one_go, limit)
        assert found == said(Journal.load(tmp_path), limit)
        if base == 3.0:
            assert (found is None) is within
