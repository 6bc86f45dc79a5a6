import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rendering.render import load_tokenizer, render
from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.errors import UserError
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.request import QuestionsFile, ReserveSet, SplitTask
from ft_dagster.evaluation.tasks import own_split
from ft_dagster.gate.answer_scores import ANSWER_METRICS
from ft_dagster.gate.samples import main_metric, read_samples
from ft_dagster.spec.variant import AnswerKind
from tests.chat_templates import THINKS
from tests.evaluation.questions import adds_tokens, row, write_database, write_rows, write_run, write_texts

pytestmark = pytest.mark.slow

DRAWN = {"limit": 5, "seed": 0}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "towns.db")


@pytest.fixture
def tasks(tmp_path: Path, tiny_tokenizer: Any) -> Callable[..., Any]:
    def make(rows: list[dict[str, Any]], tokenizer: Any = tiny_tokenizer, **changes: Any) -> Any:
        test = write_rows(tmp_path / "test.parquet", rows)
        drawn = {name: changes.pop(name, usual) for name, usual in DRAWN.items()}
        if "database" in changes:
            changes["database"] = _file(changes["database"])
        own = SplitTask(test=_file(test), **{"max_new_tokens": 8, **changes})
        return own_split.test_split_tasks(own, tokenizer, max_length=512, **drawn)

    return make


def _file(path: Path) -> QuestionsFile:
    return QuestionsFile(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def adding_tokenizer(tiny_model_folder: Path) -> Any:
    """A tokenizer that puts a token before each text and its end of sequence after it."""
    return adds_tokens(load_tokenizer(tiny_model_folder))


@pytest.mark.parametrize("kind", ["messages", "prompt_completion"])
@pytest.mark.parametrize("named", ["tiny_tokenizer", "adding_tokenizer"])
def test_the_scored_tokens_are_the_trained_ones(
    tasks: Callable[..., Any], request: pytest.FixtureRequest, named: str, kind: str
) -> None:
    given, tokenizer = row(3, kind), request.getfixturevalue(named)
    doc = tasks([given], tokenizer=tokenizer)[0].eval_docs[0]
    rendered = render(as_row(given), tokenizer)
    (start, end) = rendered.spans[-1]
    assert tokenizer.decode(doc["answer_ids"]) == doc["answer"] + tokenizer.eos_token
    assert doc["prompt_ids"] == rendered.input_ids[:start]
    assert doc["answer_ids"] == rendered.input_ids[start:end]
    assert doc["tokens"] == end - start


@pytest.mark.parametrize("prompt", ["Where is it? ", "Where is it?", "Where is it?\n"])
def test_the_prompt_does_not_give_the_answer_away(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], tiny_tokenizer: Any, prompt: str
) -> None:
    rows = [{**each, "prompt": prompt} for each in answered("south", "north", " the west", "")]
    asked = [doc["asked_ids"] for doc in tasks(rows)[1].eval_docs]
    assert asked == [tiny_tokenizer(prompt)["input_ids"]] * len(asked)


@pytest.mark.parametrize("kind", ["messages", "prompt_completion"])
def test_what_a_tokenizer_puts_before_a_text_is_before_the_prompt(
    tasks: Callable[..., Any], adding_tokenizer: Any, kind: str
) -> None:
    (doc,) = tasks([row(3, kind)], tokenizer=adding_tokenizer)[1].eval_docs
    plain = adding_tokenizer(doc["prompt"], add_special_tokens=False)["input_ids"]
    assert doc["asked_ids"] == (plain if kind == "messages" else [adding_tokenizer.pad_token_id, *plain])


def test_a_sample_is_drawn_by_seed_and_is_not_the_first_rows(tasks: Callable[..., Any]) -> None:
    rows = [row(n) for n in range(40)]
    first, again, other = (
        [doc["index"] for doc in tasks(rows, seed=seed)[0].eval_docs] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first != list(range(5))


def test_text_rows_have_a_loss_alone(tasks: Callable[..., Any]) -> None:
    (task,) = tasks([row(n, "text") for n in range(3)])
    assert list(task.higher_is_better()) == ["completion_loss"]


def test_a_long_text_is_asked_for_a_piece_of_it_drawn_by_seed(
    tasks: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_split, "TEXT_TOKENS", 24)
    long = [row(n, "text") for n in range(8)]
    for number, each in enumerate(long):
        each["text"] = "".join(f"Part {part} of report {number}. " for part in range(40))
    first, again, other = (tasks(long, seed=seed, limit=None)[0].eval_docs for seed in (0, 0, 1))
    assert first["answer"] == again["answer"] != other["answer"]
    starts = {whole["text"].index(doc["answer"]) for doc, whole in zip(first, long, strict=True)}
    assert len(starts) > 3
    for doc in first:
        assert doc["tokens"] == len(tiny_tokenizer(doc["answer"])["input_ids"])
        assert 20 <= doc["tokens"] <= 24


def test_a_text_of_the_limit_is_asked_whole(
    tasks: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = row(1, "text")
    monkeypatch.setattr(own_split, "TEXT_TOKENS", len(tiny_tokenizer(given["text"])["input_ids"]))
    assert tasks([given])[0].eval_docs[0]["answer"] == given["text"]


@pytest.mark.parametrize("most", [12, 512])
def test_the_end_that_a_tokenizer_puts_after_a_text_is_no_part_of_it(
    tasks: Callable[..., Any], adding_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Neither of a text that is cut, nor of one that is asked whole."""
    monkeypatch.setattr(own_split, "TEXT_TOKENS", most)
    (doc,) = tasks([row(1, "text")], tokenizer=adding_tokenizer)[0].eval_docs
    plain = adding_tokenizer(doc["answer"], add_special_tokens=False)["input_ids"]
    assert doc["ids"] == [adding_tokenizer.pad_token_id, *plain]
    assert doc["tokens"] == len(doc["ids"])
    assert (doc["tokens"] == most - 1) == (doc["answer"] != row(1, "text")["text"])


LABELS = ("billing", "refund", "other")


@pytest.fixture
def answered() -> Callable[..., list[dict[str, Any]]]:
    """Rows whose answers are given."""

    def make(*answers: str) -> Any:
        rows = [row(number, "prompt_completion") for number in range(len(answers))]
        return [{**each, "completion": answer} for each, answer in zip(rows, answers, strict=True)]

    return make


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("text", ["exact_match", "token_f1"]),
        ("label", ["exact_match"]),
        ("json", ["json_f1", "valid_json"]),
    ],
)
def test_each_kind_of_answer_has_its_metrics(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], kind: str, metrics: list[str]
) -> None:
    loss, greedy = tasks(answered('{"a": 1}', '{"b": 2}'), kind=kind, max_new_tokens=32)
    assert list(loss.higher_is_better()) == ["completion_loss"]
    assert list(greedy.higher_is_better()) == metrics


def test_an_answer_that_is_no_json_is_refused_with_its_record(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]]
) -> None:
    rows = answered('{"a": 1}', "{'a': 1}")
    with pytest.raises(UserError, match=as_row(rows[1]).identity.hex()[:16]):
        tasks(rows, kind="json", max_new_tokens=32)


def test_queries_are_scored_by_what_they_return(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], database: Path
) -> None:
    (_, greedy) = tasks(
        answered("SELECT name FROM town ORDER BY people"), kind="sql", max_new_tokens=64, database=database
    )
    doc = greedy.eval_docs[0]
    right = "select name from town where people > 0 order by people asc"
    for answer, score in (
        (right, 1.0),
        ("select name from town order by people desc", 0.0),
        ("DROP TABLE town", 0),
    ):
        assert greedy.process_results(doc, [answer]) == {"execution_accuracy": score}


@pytest.mark.parametrize("query", ["SELECT nme FROM town", "DELETE FROM town", "SELECT 1; SELECT 2"])
def test_a_reference_query_that_fails_names_record_and_database(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], database: Path, query: str
) -> None:
    rows = answered("SELECT name FROM town", query)
    with pytest.raises(UserError) as caught:
        tasks(rows, kind="sql", max_new_tokens=64, database=database)
    assert as_row(rows[1]).identity.hex()[:16] in caught.value.problem
    assert caught.value.file == str(database)


def test_texts_have_no_answer_to_score(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]]
) -> None:
    with pytest.raises(UserError, match="1 of the rows asked are raw text"):
        tasks([*answered(*LABELS), row(9, "text")], kind="label")


def test_an_answer_that_max_new_tokens_would_cut_is_refused(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], tiny_tokenizer: Any
) -> None:
    long = len(tiny_tokenizer("billing " * 20)["input_ids"])
    rows = answered("other", "billing " * 20)
    with pytest.raises(UserError, match="cut off") as caught:
        tasks(rows, kind="label", max_new_tokens=8)
    assert caught.value.fix == f"Raise it to {long + 1} or more"
    tasks(rows, kind="label", max_new_tokens=long + 1)
    tasks(rows, kind="text", max_new_tokens=8)


def test_an_empty_test_split_is_refused(tasks: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="no rows"):
        tasks([])


def test_more_new_tokens_than_the_model_holds_are_refused(tasks: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="max_new_tokens"):
        tasks([row(1)], max_new_tokens=512)


def test_long_general_texts_are_cut_to_the_same_tokens(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_split, "TEXT_TOKENS", 12)
    file = write_texts(tmp_path / "texts.parquet", 4)
    docs = own_split.general_text_task(file, tiny_tokenizer, limit=None, seed=0).eval_docs
    assert max(doc["tokens"] for doc in docs) == 12
    assert all(len(tiny_tokenizer(doc["answer"])["input_ids"]) == doc["tokens"] for doc in docs)


def test_the_page_names_the_metrics_of_each_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text("utf-8")
    for kind, metrics in ANSWER_METRICS.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{kind}` |")]
        _, _, judged, shown, _ = line.split("|")
        offered = ["completion_loss", *metrics]
        assert judged.strip() == f"`{main_metric(offered)}`"
        assert all(f"`{metric}`" in shown for metric in offered if metric != main_metric(offered))


REFERENCES = {"json": '{"n": 1}', "sql": "SELECT name FROM town"}


@pytest.mark.parametrize("kind", ["json", "sql"])
def test_a_real_model_is_scored_by_the_program(
    tmp_path: Path,
    tiny_model_folder: Path,
    answered: Callable[..., list[dict[str, Any]]],
    database: Path,
    kind: AnswerKind,
) -> None:
    test = write_rows(tmp_path / "test.parquet", answered(*[REFERENCES[kind]] * 3))
    own = {"test": test, "max_new_tokens": 24, "kind": kind}
    own |= {"database": database} if kind == "sql" else {}
    assert main(write_run(tmp_path / "run", tiny_model_folder, test_split_task=own)) == 0
    samples = read_samples(tmp_path / "run" / "output" / "payload")
    assert {sample.metric for sample in samples} == {"completion_loss", *ANSWER_METRICS[kind]}
    assert {sample.value for sample in samples if sample.metric != "completion_loss"} == {0.0}


def test_a_database_that_the_questions_do_not_fit_is_one_line(
    tmp_path: Path,
    tiny_model_folder: Path,
    answered: Callable[..., list[dict[str, Any]]],
    database: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = write_rows(tmp_path / "test.parquet", answered("SELECT name FROM village"))
    own = {"test": test, "max_new_tokens": 24, "kind": "sql", "database": database}
    assert main(write_run(tmp_path / "run", tiny_model_folder, test_split_task=own)) == 2
    assert "fails on it: no such table" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def thinking_tokenizer(tiny_model_folder: Path) -> Any:
    """A tokenizer whose template writes an empty thought before an answer."""
    tokenizer = load_tokenizer(tiny_model_folder)
    tokenizer.chat_template = THINKS
    return tokenizer


@pytest.fixture
def talks() -> Callable[..., list[dict[str, Any]]]:
    """Conversations whose answers are given."""

    def make(*answers: str) -> list[dict[str, Any]]:
        turns = [
            [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": answer}]
            for n, answer in enumerate(answers)
        ]
        return [{**row(n), "messages": json.dumps(each)} for n, each in enumerate(turns)]

    return make


def test_an_answer_is_held_against_the_text_that_the_row_has(
    tasks: Callable[..., Any], talks: Callable[..., list[dict[str, Any]]], thinking_tokenizer: Any
) -> None:
    """The template's empty thought is asked for, as a server does, and counts neither in loss nor score."""
    loss, greedy = tasks(talks('{"a": 1}'), thinking_tokenizer, kind="json", max_new_tokens=32)
    (doc,) = loss.eval_docs
    decode = thinking_tokenizer.decode
    assert doc["answer"] == '{"a": 1}'
    assert (
        decode(doc["asked_ids"]) == doc["prompt"] == "<|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decode(doc["prompt_ids"]) == doc["prompt"] + "<think>\n\n</think>\n\n"
    assert decode(doc["answer_ids"]) == '{"a": 1}<|im_end|>'
    assert doc["tokens"] == len(doc["answer_ids"])
    greedy.build_all_requests()
    for written, kept in (
        ('<think>\n\n</think>\n\n{"a": 1}', '{"a": 1}'),
        (' <think>\n</think>{"a": 1}', '{"a": 1}'),
        ('{"a": 1}', '{"a": 1}'),
        ("<think>\nHm.\n</think>\n\n{}", "<think>\nHm.\n</think>\n\n{}"),
    ):
        greedy.instances[0].resps = [written]
        greedy.apply_filters()
        assert greedy.instances[0].filtered_resps == {"none": kept}
        assert greedy.process_results(doc, [kept])["json_f1"] == float(kept == '{"a": 1}')


def test_what_a_template_writes_before_an_answer_needs_room_too(
    tasks: Callable[..., Any], talks: Callable[..., list[dict[str, Any]]], thinking_tokenizer: Any
) -> None:
    written = len(thinking_tokenizer("<think>\n\n</think>\n\nbilling<|im_end|>")["input_ids"])
    with pytest.raises(UserError, match="cut off") as caught:
        tasks(talks("billing"), thinking_tokenizer, kind="label", max_new_tokens=written - 2)
    assert caught.value.fix == f"Raise it to {written} or more"
    tasks(talks("billing"), thinking_tokenizer, kind="label", max_new_tokens=written)


def test_prompts_are_asked_as_one_exchange_where_they_were_trained_so(
    tasks: Callable[..., Any], answered: Callable[..., list[dict[str, Any]]], tiny_tokenizer: Any
) -> None:
    """They stay the same questions."""
    rows = answered("south")
    (doc,) = tasks(rows, exchange=True)[1].eval_docs
    (plain,) = tasks(rows)[1].eval_docs
    asked = tiny_tokenizer.decode(doc["asked_ids"])
    assert asked == f"<|im_start|>user\n{rows[0]['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    assert tiny_tokenizer.decode(doc["answer_ids"]) == "south<|im_end|>"
    assert tiny_tokenizer.decode(plain["asked_ids"]) == rows[0]["prompt"]
    assert (doc["question"], doc["record"]) == (plain["question"], plain["record"])


def test_the_sets_of_a_reserve_share_no_row_and_leave_none_out(tmp_path: Path) -> None:
    rows = [row(number, "messages") for number in range(40)]
    test = _file(write_rows(tmp_path / "test.parquet", rows))
    whole = [each.first_turn for each in own_split.rows_asked(SplitTask(test=test))]
    parts = [
        [
            each.first_turn
            for each in own_split.rows_asked(SplitTask(test=test, reserve=ReserveSet(sets=3, number=n)))
        ]
        for n in (1, 2, 3)
    ]
    assert all(parts)
    assert sorted(one for part in parts for one in part) == sorted(whole)


@pytest.mark.parametrize("joined", [True, False])
def test_the_sets_of_a_reserve_share_no_first_turn_where_they_are_joined(
    tmp_path: Path, *, joined: bool
) -> None:
    rows = [{**row(number // 2, "messages"), "group": f"customer {number}"} for number in range(80)]
    test = _file(write_rows(tmp_path / "test.parquet", rows))
    one, other = (
        {
            each.first_turn
            for each in own_split.rows_asked(
                SplitTask(test=test, reserve=ReserveSet(sets=2, number=n, joined=joined))
            )
        }
        for n in (1, 2)
    )
    assert one
    assert other
    assert one.isdisjoint(other) is joined
