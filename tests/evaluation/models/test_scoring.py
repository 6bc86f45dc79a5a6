from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.models.scoring import (
    AT_ONCE,
    WORTH,
    arrange_rows,
    batches,
    group_rows,
    likeliest,
)
from ft_dagster.evaluation.tasks import own_split
from tests.evaluation.questions import adds_tokens, requests

pytestmark = pytest.mark.slow

CONTEXT = [5, 6, 7, 8, 9, 10]
QUESTION = "Which documents must I bring to the bank?"
PAIRS = [(CONTEXT, [11]), (CONTEXT, [12, 13]), (CONTEXT, [14, 15, 16]), ([20, 21], [22, 23])]


@pytest.fixture(scope="module")
def lm(tiny_model_folder: Path) -> Any:
    from ft_dagster.evaluation.models.model import TokenBatchedLM, load_model

    model, tokenizer = load_model(tiny_model_folder, None, device="cpu", dtype="float32")
    return TokenBatchedLM(model, tokenizer)


@pytest.fixture(scope="module")
def plain(lm: Any) -> Any:
    """lm-eval's own scoring of the same model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=2)


def likelihoods(pairs: Iterable[tuple[float, bool]]) -> list[float]:
    return [pair[0] for pair in pairs]


def test_continuations_of_one_context_share_a_row() -> None:
    rows = arrange_rows(PAIRS, max_length=512, shared=True)
    assert [row.numbers for row in rows] == [(0, 1, 2), (3,)]
    assert rows[0].length == len(CONTEXT) + 0 + 1 + 2


def test_a_pair_too_long_for_the_model_loses_its_beginning() -> None:
    (row,) = arrange_rows([(list(range(20)), [1, 2])], max_length=9, shared=True)
    assert row.context == tuple(range(12, 20))


def test_texts_after_the_same_start_token_share_no_row() -> None:
    rows = arrange_rows([([0], [1, 2, 3]), ([0], [4, 5, 6])], max_length=512, shared=True)
    assert [len(row.continuations) for row in rows] == [1, 1]


def rows_after(*beginnings: list[int], each: int = 30) -> list[Any]:
    """Rows of one continuation: `each` after every beginning, whose own tokens differ."""
    asked = [
        ([*beginning, 1000 * place + n, 7], [1, 2])
        for place, beginning in enumerate(beginnings, 1)
        for n in range(each)
    ]
    return arrange_rows(asked, max_length=4096, shared=True)


def test_questions_that_begin_alike_are_a_group_and_each_keeps_what_is_its_own() -> None:
    examples, others, short = list(range(100)), list(range(500, 800)), list(range(5))
    groups = group_rows(rows_after(examples, others, short))
    assert [group.beginning for group in groups] == [tuple(others), tuple(examples), ()]
    assert {len(row.context) for group in groups[:2] for row in group.rows} == {2}
    assert sorted(n for group in groups for row in group.rows for n in row.numbers) == list(range(90))


def test_those_that_begin_alike_for_long_are_told_apart_by_what_comes_late() -> None:
    """Two subjects of a benchmark, whose instruction is the same and whose examples are not."""
    instruction = list(range(70))
    first, second = ([*instruction, *range(start, start + 400)] for start in (1000, 2000))
    groups = group_rows(rows_after(first, second))
    assert {group.beginning for group in groups} == {tuple(first), tuple(second)}


def test_a_beginning_that_saves_little_is_computed_with_each() -> None:
    beginning, enough = list(range(100)), WORTH // 100 + 2
    assert [group.beginning for group in group_rows(rows_after(beginning, each=enough))] == [tuple(beginning)]
    assert [group.beginning for group in group_rows(rows_after(beginning, each=enough - 1))] == [()]


def test_a_question_that_is_the_beginning_of_another_keeps_a_token() -> None:
    beginning = list(range(200))
    rows = arrange_rows([(beginning + [9] * n, [1]) for n in range(20)], max_length=4096, shared=True)
    (group,) = group_rows(rows)
    assert group.beginning == tuple(beginning[:-1])
    assert min(len(row.context) for row in group.rows) == 1


def test_what_a_batch_remembers_stays_within_its_tokens() -> None:
    (group,) = group_rows(rows_after(list(range(300))))
    found = list(batches(group.rows, tokens=1e9, positions=1e9, before=300, held=1000))
    assert max(map(len, found)) == 3


def test_a_batch_stays_within_its_tokens() -> None:
    rows = arrange_rows([(list(range(10 + n)), [1, 2]) for n in range(20)], max_length=512, shared=True)
    for batch in batches(rows, tokens=64, positions=1e9):
        assert len(batch) * max(row.length for row in batch) <= 64


def test_a_shared_context_scores_as_lm_eval_does(lm: Any, plain: Any) -> None:
    asked = [(QUESTION, f" {answer}") for answer in ("passport", "the whale", "a form")]
    asked += [("Bring your passport:", " yes"), ("", "The men stood silent.")]
    ours = lm.loglikelihood(requests("loglikelihood", *asked))
    theirs = plain.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert lm.shares is True
    assert likelihoods(ours) == pytest.approx(likelihoods(theirs), abs=1e-4)
    assert [pair[1] for pair in ours] == [pair[1] for pair in theirs]


EXAMPLES = "".join(f"Q: {QUESTION} ({n})\nA: a form and {n} copies\n\n" for n in range(6))


def after_examples(count: int = 12) -> list[tuple[str, str]]:
    """Questions after the same examples, two answers each; and one that begins otherwise."""
    asked = [
        (f"{EXAMPLES}Q: number {n}?\nA:", f" {said}") for n in range(count) for said in ("yes", "a form")
    ]
    return [*asked, (QUESTION, " passport")]


def test_questions_after_the_same_examples_score_as_lm_eval_does(
    lm: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    real = lm._forward

    def counted(input_ids: Any, keep: Any, **inputs: Any) -> Any:
        computed.append(input_ids.numel())
        return real(input_ids, keep, **inputs)

    asked = after_examples()
    ours = lm.loglikelihood(requests("loglikelihood", *asked))
    monkeypatch.setattr(lm, "_forward", counted)
    again = lm.loglikelihood(requests("loglikelihood", *asked))
    theirs = plain.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert lm.begins is True
    assert likelihoods(ours) == likelihoods(again) == pytest.approx(likelihoods(theirs), abs=1e-4)
    assert [pair[1] for pair in ours] == [pair[1] for pair in theirs]
    assert sum(computed) < len(lm.tok_encode(EXAMPLES)) * 2


def test_an_architecture_that_remembers_otherwise_scores_whole_questions(
    lm: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = after_examples()
    real = lm._forward

    def forgets(input_ids: Any, keep: Any, **inputs: Any) -> Any:
        if {"cache", "past_key_values"} & set(inputs):
            inputs = {"attention_mask": inputs["attention_mask"][..., -input_ids.shape[1] :]}
        return real(input_ids, keep, **inputs)

    monkeypatch.setattr(lm, "_forward", forgets)
    monkeypatch.setattr(lm, "begins", None)
    ours = lm.loglikelihood(requests("loglikelihood", *asked))
    theirs = plain.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert lm.begins is False
    assert likelihoods(ours) == pytest.approx(likelihoods(theirs), abs=1e-4)


def test_an_architecture_that_cannot_share_scores_alone(
    lm: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(QUESTION, f" {answer}") for answer in ("passport", "the whale")]
    real = lm._forward

    def ignores_the_mask(input_ids: Any, keep: Any, **inputs: Any) -> Any:
        return real(input_ids, keep)

    monkeypatch.setattr(lm, "_forward", ignores_the_mask)
    monkeypatch.setattr(lm, "shares", None)
    ours = lm.loglikelihood(requests("loglikelihood", *asked))
    theirs = plain.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert lm.shares is False
    assert likelihoods(ours) == pytest.approx(likelihoods(theirs), abs=1e-4)


def test_whole_texts_score_as_lm_eval_does(lm: Any, plain: Any) -> None:
    texts = [("The men stood silent. " * n,) for n in (1, 3, 80)]  # the last is longer than the model takes
    ours = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    theirs = plain.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.fixture
def adding(tiny_model_folder: Path) -> Any:
    """A model whose tokenizer puts a token before each text and its end of sequence after it."""
    from ft_dagster.evaluation.models.model import TokenBatchedLM, load_model

    model, tokenizer = load_model(tiny_model_folder, None, device="cpu", dtype="float32")
    return TokenBatchedLM(model, adds_tokens(tokenizer))


def test_what_is_asked_ends_with_no_end_that_the_tokenizer_adds(adding: Any) -> None:
    text, answer = (
        adding.tokenizer(said, add_special_tokens=False)["input_ids"] for said in (QUESTION, " yes")
    )
    whole = [adding.tokenizer.pad_token_id, *text]
    assert adding.tok_encode(QUESTION) == whole
    assert adding.tok_encode(QUESTION, False) == text
    assert adding._encode_pair(QUESTION, " yes") == (whole, answer)
    assert adding.tok_batch_encode([QUESTION], left_truncate_len=4)[0].tolist() == [text[-4:]]


def test_the_loss_of_a_cut_text_is_that_of_its_tokens(adding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_split, "TEXT_TOKENS", 12)
    doc = own_split.text_doc({}, QUESTION, adding.tokenizer)
    scored: list[tuple[int, ...]] = []

    def score(rows: Any, begun: Any) -> Any:
        scored.extend(each for row in rows for each in row.continuations)
        return {0: (0.0, True)}

    monkeypatch.setattr(adding, "_score", score)
    adding.loglikelihood_rolling(requests("loglikelihood_rolling", (doc["answer"],)))
    assert list(map(list, scored)) == [doc["ids"]]
    assert len(doc["ids"]) == doc["tokens"] == 11


def test_a_context_longer_than_the_model_scores_as_lm_eval_does(lm: Any, plain: Any) -> None:
    asked = [("whale " * 600, f" {answer}") for answer in ("passport", "the bank")]
    ours = lm.loglikelihood(requests("loglikelihood", *asked))
    theirs = plain.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    assert likelihoods(ours) == pytest.approx(likelihoods(theirs), abs=1e-4)


def test_generation_answers_as_lm_eval_does_in_the_order_asked(lm: Any, plain: Any) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
    asked = [(prompt, settings) for prompt in ("The whale", "Which documents must I bring?", "A")]
    ours = lm.generate_until(requests("generate_until", *asked))
    theirs = plain.generate_until(requests("generate_until", *asked), disable_tqdm=True)
    assert ours == theirs


def test_an_answer_without_tokens_is_refused(lm: Any) -> None:
    from ft_dagster.errors import UserError

    with pytest.raises(UserError, match="no tokens"):
        lm._loglikelihood_tokens([(("a", ""), [1, 2], [])])


def test_logits_are_made_of_states_only_where_nothing_else_is_done_to_them(lm: Any, plain: Any) -> None:
    """Granite divides its logits: what its head alone makes would score otherwise."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import GraniteConfig, GraniteForCausalLM

    from ft_dagster.evaluation.models.model import TokenBatchedLM

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GraniteConfig(vocab_size=len(lm.tokenizer), num_key_value_heads=2, logits_scaling=8.0, **small)
    scaled = GraniteForCausalLM(config).float().eval()
    asked = [(QUESTION, f" {answer}") for answer in ("passport", "the whale", "a form")]
    granite = TokenBatchedLM(scaled, lm.tokenizer)
    ours = granite.loglikelihood(requests("loglikelihood", *asked))
    theirs = HFLM(pretrained=scaled, tokenizer=lm.tokenizer, batch_size=2).loglikelihood(
        requests("loglikelihood", *asked), disable_tqdm=True
    )
    assert granite._head is None
    assert lm._head is not None
    assert likelihoods(ours) == pytest.approx(likelihoods(theirs), abs=1e-4)


def test_logits_are_made_where_a_token_is_scored_and_a_few_at_a_time(lm: Any) -> None:
    seen: list[int] = []
    hook = lm._head.register_forward_hook(lambda _, given, made: seen.append(made.numel() // made.shape[-1]))
    asked = [(QUESTION, f" {answer}") for answer in ("passport", "the whale", "a form")] * 80
    pairs = [lm._encode_pair(*pair) for pair in asked]
    lm.loglikelihood(requests("loglikelihood", *asked))
    hook.remove()
    assert sum(seen) == sum(len(continuation) for _, continuation in pairs)
    assert max(seen) == AT_ONCE["cpu"][0]


def test_the_likeliest_token_is_the_first_of_the_largest_logits() -> None:
    import torch

    torch.manual_seed(0)
    logits = torch.randn(6, 1000).bfloat16()  # of which many are equal
    logits[1, 700] = logits[1, 30] = 9.0
    logits[2] = float("-inf")
    assert likeliest(logits).tolist() == logits.argmax(dim=-1).tolist()
    assert likeliest(logits)[1] == 30
