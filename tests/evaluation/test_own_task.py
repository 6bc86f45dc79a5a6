import pytest

from ft_dagster.data.dataset_io import as_row
from ft_dagster.data.render import render
from ft_dagster.errors import UserError
from ft_dagster.evaluation import own_task
from tests.evaluation.questions import row, write_rows, write_texts

pytestmark = pytest.mark.slow

DRAWN = {"limit": 5, "seed": 0}


@pytest.fixture
def tasks(tmp_path, tiny_tokenizer):
    def make(rows, **changes):
        test = write_rows(tmp_path / "test.parquet", rows)
        return own_task.own_tasks(
            test, tiny_tokenizer, **{**DRAWN, "max_new_tokens": 8, "max_length": 512, **changes}
        )

    return make


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The bank.", "bank", 1.0, 1.0),
        ("a passport and a form", "the passport", 0.0, 0.5),
        ("whale", "bank", 0.0, 0.0),
        ("", "bank", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("bank bank", "bank", 0.0, 2 / 3),
    ],
)
def test_answers_are_compared_as_squad_does(answer, reference, exact, f1):
    assert own_task.exact_match(answer, reference) == exact
    assert own_task.token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize("kind", ["messages", "prompt_completion"])
def test_the_scored_tokens_are_the_trained_ones(tasks, tiny_tokenizer, kind):
    given = row(3, kind)
    doc = tasks([given])[0].eval_docs[0]
    rendered = render(as_row(given), tiny_tokenizer)
    (start, end) = rendered.spans[-1]
    assert doc["prompt_ids"] == rendered.input_ids[:start]
    assert doc["answer_ids"] == rendered.input_ids[start:end]
    assert doc["tokens"] == end - start


def test_a_sample_is_drawn_by_seed_and_is_not_the_first_rows(tasks):
    rows = [row(n) for n in range(40)]
    first, again, other = (
        [doc["index"] for doc in tasks(rows, seed=seed)[0].eval_docs] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first != list(range(5))


def test_text_rows_have_a_loss_alone(tasks):
    (task,) = tasks([row(n, "text") for n in range(3)])
    assert list(task.higher_is_better()) == ["completion_loss"]


def test_generation_ends_with_the_turn(tasks, tiny_tokenizer):
    ends = own_task.end_tokens(tasks([row(1)]), tiny_tokenizer)
    assert ends == {tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_an_empty_test_split_is_refused(tasks):
    with pytest.raises(UserError, match="no rows"):
        tasks([])


def test_more_new_tokens_than_the_model_holds_are_refused(tasks):
    with pytest.raises(UserError, match="max_new_tokens"):
        tasks([row(1)], max_new_tokens=512)


def test_long_general_texts_are_cut_to_the_same_tokens(tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(own_task, "TEXT_TOKENS", 12)
    file = write_texts(tmp_path / "texts.parquet", 4)
    docs = own_task.general_text_task(file, tiny_tokenizer, limit=None, seed=0).eval_docs
    assert max(doc["tokens"] for doc in docs) == 12
    assert all(len(tiny_tokenizer(doc["answer"])["input_ids"]) == doc["tokens"] for doc in docs)
