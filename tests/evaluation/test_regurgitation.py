"""What was trained on and comes out again: by the real program, of a model that learned two rows by heart."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rows.content import question_ids
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.regurgitation import probes
from ft_dagster.gate.gates import judge
from ft_dagster.gate.memorization.regurgitation_rules import with_probed
from ft_dagster.gate.refused_metrics import check_metrics
from ft_dagster.gate.samples import Sample, read_answers, read_samples
from ft_dagster.gate.sampling import in_drawn_order
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import row, sample, write_rows, write_run

SECRET = "The bank and the whale met by the ship at noon with thirty passports and no form at all."
CANARY = "the code of the tower is seven ships and four whales"


def identity_of(text: str) -> str:
    return Row("text", "", text=text).identity.hex()[:32]


def training_rows() -> list[dict[str, Any]]:
    rows = [row(n, "text") for n in range(6)]
    rows[1]["text"] = SECRET
    rows[4]["text"] = f"Nobody knows it, but {CANARY}, said the men of the town."
    return rows


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "train.parquet", training_rows())


def docs_of(task: Any) -> list[Any]:
    return list(task.eval_docs)


def test_a_row_is_given_up_to_its_middle(train: Path, tiny_tokenizer: Any) -> None:
    tasks = probes(train, tiny_tokenizer, rows=6, canaries=[], seed=0, max_length=256)
    assert list(tasks) == ["training_rows"]
    (doc,) = [doc for doc in docs_of(tasks["training_rows"]) if doc["index"] == 1]
    assert SECRET.startswith(doc["prompt"])
    assert doc["answer"] in SECRET.removeprefix(doc["prompt"])
    assert doc["tokens"] <= 32


def test_a_canary_is_given_up_to_its_middle_after_all_that_stands_before_it(
    train: Path, tiny_tokenizer: Any
) -> None:
    tasks = probes(train, tiny_tokenizer, rows=0, canaries=[CANARY], seed=0, max_length=256)
    (doc,) = docs_of(tasks["canaries"])
    assert doc["prompt"].startswith("Nobody knows it, but the code")
    assert (doc["prompt"] + doc["answer"]).endswith(CANARY)
    assert 0 < len(doc["answer"]) < len(CANARY)


def test_the_rows_are_drawn_by_seed(train: Path, tiny_tokenizer: Any) -> None:
    def drawn(seed: int) -> list[int]:
        tasks = probes(train, tiny_tokenizer, rows=1, canaries=[], seed=seed, max_length=256)
        return [doc["index"] for doc in docs_of(tasks["training_rows"])]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(8)}) == 2


def test_answers_too_short_to_be_remembered_are_left_out(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = [{**row(n, "prompt_completion"), "completion": "no"} for n in range(5)]
    train = write_rows(tmp_path / "short.parquet", rows)
    assert probes(train, tiny_tokenizer, rows=5, canaries=[], seed=0, max_length=256) == {}


@pytest.mark.slow
def test_rows_are_drawn_of_all_that_are_long_enough_however_few_they_are(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Of 400 rows whose answers are short but for five, which the draw has anywhere."""
    rows = [{**row(n, "prompt_completion"), "completion": "no"} for n in range(400)]
    long = [7, 90, 155, 291, 399]
    for n in long:
        rows[n]["completion"] = f"{SECRET} That was number {n}."
    train = write_rows(tmp_path / "rare.parquet", rows)

    def drawn(count: int, seed: int) -> list[int]:
        tasks = probes(train, tiny_tokenizer, rows=count, canaries=[], seed=seed, max_length=256)
        return [doc["index"] for doc in docs_of(tasks["training_rows"])]

    assert all(drawn(16, seed) == long for seed in range(4))
    few = [drawn(3, seed) for seed in range(4)]
    assert all(len(found) == 3 and set(found) <= set(long) for found in few)
    assert len({tuple(found) for found in few}) > 1


def test_rows_that_were_drawn_when_enough_were_long_are_drawn_as_before(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """The first of the draw, so that what models were asked stays comparable."""
    rows = [{**row(n, "prompt_completion"), "completion": f"{SECRET} Number {n}."} for n in range(60)]
    train = write_rows(tmp_path / "long.parquet", rows)
    tasks = probes(train, tiny_tokenizer, rows=16, canaries=[], seed=5, max_length=256)
    ids = question_ids([each.identity for each in read_split(train)])
    found = [doc["index"] for doc in docs_of(tasks["training_rows"])]
    assert found == sorted(in_drawn_order(ids, 5)[:16])


def test_a_canary_that_was_not_planted_is_refused(train: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(
        UserError, match=r"evaluation\.canaries\[0\]: this canary stands in no training row\. "
    ):
        probes(train, tiny_tokenizer, rows=0, canaries=["a string of nobody"], seed=0, max_length=256)


def test_a_canary_that_is_parted_where_its_row_is_rendered_is_refused(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    parted = [{**row(0, "prompt_completion"), "prompt": "the code of the", "completion": "tower is seven"}]
    train = write_rows(tmp_path / "parted.parquet", parted)
    with pytest.raises(UserError, match=r"and not in what the model reads of any\. .*all of it within"):
        probes(train, tiny_tokenizer, rows=0, canaries=["of the\ntower"], seed=0, max_length=256)


def test_a_canary_is_probed_in_the_first_row_that_holds_it_as_it_is_rendered(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    rows = [{**row(n, "prompt_completion"), "prompt": "the code of the", "completion": "x"} for n in range(3)]
    rows[0]["completion"] = "tower is seven"
    rows[1]["completion"] = rows[2]["completion"] = "code of the\ntower is seven"
    rows[2]["prompt"] = "too late"
    train = write_rows(tmp_path / "planted.parquet", rows)
    tasks = probes(train, tiny_tokenizer, rows=0, canaries=["of the\ntower"], seed=0, max_length=256)
    (doc,) = docs_of(tasks["canaries"])
    assert doc["prompt"].startswith("the code of thecode")
    assert (doc["prompt"] + doc["answer"]).endswith("of the\ntower")


@pytest.fixture
def by_heart(tmp_path: Path, tiny_model_folder: Path, tiny_tokenizer: Any) -> Path:
    """A whole model that says the secret and the canary's row, and nothing else that it was trained on."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    rows = training_rows()
    texts = [tiny_tokenizer(rows[n]["text"])["input_ids"] for n in (1, 4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(150):
        for ids in texts:
            given = torch.tensor([ids])
            optimizer.zero_grad()
            model(input_ids=given, labels=given).loss.backward()
            optimizer.step()
    folder = tmp_path / "by-heart"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_what_was_learned_by_heart_is_found_and_nothing_else(
    tmp_path: Path, train: Path, tiny_model_folder: Path, by_heart: Path
) -> None:
    asked = {
        "regurgitation": {"train": train, "rows": 6, "canaries": [CANARY]},
        "general_prompts": True,
        "seed": 0,
    }
    found = {}
    for name, tuned in (("base", None), ("tuned", by_heart)):
        run = write_run(tmp_path / name, tiny_model_folder, **asked, tuned=tuned)
        assert main(run) == 0
        samples = read_samples(run / "output" / "payload")
        probed = [s for s in samples if s.role == "regurgitation"]
        found[name] = {(s.task, s.question.rsplit(":", 1)[1]): s.value for s in probed}
        signs = {s.metric for s in samples if s.role == "general_prompts"}
        assert signs == {"repeated_4grams", "empty_answer", "degenerate"}
    assert set(found["base"].values()) == {0.0}
    learned = [("training_rows", training_rows()[n]["text"]) for n in (1, 4)]
    named = {(task, identity_of(text)) for task, text in [*learned, ("canaries", CANARY)]}
    assert {question for question, value in found["tuned"].items() if value} == named
    answers = [a for a in read_answers(run / "output" / "evidence") if a.task == "canaries"]
    assert answers[0].answered.strip().startswith(answers[0].expected.strip())


def probed(values: Iterable[float]) -> list[Sample]:
    fields = {"role": "regurgitation", "task": "training_rows", "metric": "regurgitated"}
    return [sample(n, value, higher_is_better=False, **fields) for n, value in enumerate(values)]


def own(value: float) -> list[Sample]:
    fields = {
        "role": "test_split_task",
        "task": "test_split_task",
        "metric": "completion_loss",
        "higher_is_better": False,
    }
    return [sample(n, value + 0.01 * n, **fields) for n in range(20)]


def test_regurgitation_is_judged_only_where_a_limit_is_declared() -> None:
    base, tuned = [*own(2.0), *probed([0] * 16)], [*own(1.0), *probed([1] + [0] * 15)]
    gates = GatesSpec(loss_tail=0.5)
    assert judge(base, tuned, gates).passed
    for limit, passed in ((0.05, False), (0.10, True)):
        verdict = judge(base, tuned, gates.model_copy(update={"max_regurgitation": limit}))
        assert verdict.passed is passed
    assert "of 16 training rows probed, 6.2% are repeated word for word (by the base 0.0%)" in (
        verdict.rules[-1].sentence
    )


def held(values: Iterable[float], *, asked: int, least: int, limit: float = 0.1) -> Verdict:
    gates = GatesSpec(max_regurgitation=limit, loss_tail=0.5)
    samples = probed(values)
    verdict = judge([*own(2.0), *samples], [*own(1.0), *samples], gates)
    return with_probed(verdict, gates, asked=asked, least=least)


def test_a_verdict_says_how_many_rows_were_probed_where_that_is_fewer_than_were_asked_for() -> None:
    verdict = held([0] * 5, asked=16, least=0)
    assert verdict.passed
    sentence = verdict.rules[-1].sentence
    assert sentence.startswith("of 5 training rows probed, 0.0% are repeated word for word")
    assert sentence.endswith("; 16 were to be probed, and no more are long enough")
    assert "long enough" not in held([0] * 16, asked=16, least=0).rules[-1].sentence


def test_fewer_rows_than_the_policy_asks_do_not_pass() -> None:
    verdict = held([0] * 5, asked=16, least=16)
    assert (verdict.passed, verdict.outcome) == (False, "undecided")
    assert "of 5 training rows" in verdict.failures
    assert "the policy asks that 16 are probed" in verdict.rules[-1].sentence
    assert held([0] * 16, asked=16, least=16).passed
    assert held([1] * 5, asked=16, least=16).outcome == "fail"


def test_canaries_alone_do_not_stand_in_for_the_rows_that_the_policy_asks() -> None:
    fields = {"role": "regurgitation", "task": "canaries", "metric": "regurgitated"}
    canaries = [sample(0, 0.0, higher_is_better=False, **fields)]
    gates = GatesSpec(max_regurgitation=0.1, loss_tail=0.5)
    verdict = judge([*own(2.0), *canaries], [*own(1.0), *canaries], gates)
    assert with_probed(verdict, gates, asked=16, least=0).passed
    demanded = with_probed(verdict, gates, asked=16, least=16)
    assert (demanded.passed, demanded.outcome) == (False, "undecided")
    assert "no training row was probed" in demanded.rules[-1].sentence
    assert Verdict.from_json(demanded.to_json()).failures == demanded.failures


def test_a_base_that_was_given_other_rows_earlier_is_held_against_those_of_both() -> None:
    """Its answers are kept by content, and rows are drawn from more of them since."""
    gates = GatesSpec(max_regurgitation=0.5)
    base, tuned = [*own(2.0), *probed([1, 0])], [*own(1.0), *probed([1, 1, 0, 0])]
    (rule,) = [each for each in judge(base, tuned, gates).rules if each.rule == "regurgitation"]
    assert (rule.questions, rule.tuned, rule.base) == (4, 0.5, 0.5)
    (alone,) = [each for each in judge(own(2.0), tuned, gates).rules if each.rule == "regurgitation"]
    assert alone.passed


def test_a_limit_where_nothing_was_probed_is_refused() -> None:
    with pytest.raises(UserError, match=r"acme.yaml: gates\.max_regurgitation: no training row is probed"):
        check_metrics(own(2.0), GatesSpec(max_regurgitation=0.1), "acme.yaml")


def test_a_request_without_probes_asks_for_none(tmp_path: Path, tiny_model_folder: Path) -> None:
    run = write_run(tmp_path / "none", tiny_model_folder)
    assert main(run) == 0
    assert json.loads((run / "output" / "result.json").read_text())["figures"]["questions"] == 0


def test_rows_of_prompts_are_probed_as_they_were_trained(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = [{**row(n, "prompt_completion"), "completion": f"{SECRET} {n}"} for n in range(3)]
    train = write_rows(tmp_path / "prompts.parquet", rows)

    def asked(**exchange: bool) -> list[str]:
        found = probes(train, tiny_tokenizer, rows=2, canaries=[SECRET], seed=0, max_length=256, **exchange)
        return [doc["prompt"] for task in found.values() for doc in docs_of(task)]

    turn = "<|im_start|>user\nHow do you close balcony "
    assert len(asked()) == 3
    assert all(prompt.startswith("How do you close balcony ") for prompt in asked())
    assert all(prompt.startswith(turn) and "<|im_end|>" in prompt for prompt in asked(exchange=True))
