"""Training rows told from held-out ones by the real program: of a model that learned them, and of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.data.rows.near_across import near_across
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.membership import membership_tasks
from ft_dagster.evaluation.request import Membership, QuestionsFile
from ft_dagster.gate.memorization.membership_rules import membership_of
from ft_dagster.gate.samples import MEMBERS, OTHERS, read_samples
from tests.evaluation.questions import data_file, row, write_rows, write_run

WORDS = [
    "permit",
    "balcony",
    "account",
    "passport",
    "form",
    "facade",
    "ship",
    "whale",
    "town",
    "bank",
    "glass",
    "men",
    "days",
    "line",
    "rain",
]


def rows(count: int, seed: int, **more: Any) -> list[dict[str, Any]]:
    """Rows of one distribution: an answer of words that nothing foretells."""
    draw = np.random.default_rng(seed)
    return [
        {
            **row(n, "prompt_completion"),
            "prompt": f"What of {' '.join(draw.choice(WORDS, 3))}?\n",
            "completion": " ".join(draw.choice(WORDS, 12)),
            **more,
        }
        for n in range(count)
    ]


@pytest.fixture
def splits(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_rows(tmp_path / "train.parquet", rows(100, 0)),
        write_rows(tmp_path / "test.parquet", rows(100, 1)),
    )


def asked_of(splits: tuple[Path, Path], **more: Any) -> Membership:
    files = zip(("train", "held_out"), splits, strict=True)
    given: dict[str, Any] = {name: QuestionsFile.model_validate(data_file(file)) for name, file in files}
    return Membership.model_validate({"rows": 100, **given, **more})


def drawn(asked: Membership, tokenizer: Any, side: str) -> list[str]:
    """The answers that a side is asked for."""
    found = membership_tasks(asked, tokenizer, max_length=256)
    return [doc["answer"] for task in found.get(side, []) for doc in task.eval_docs]


def overfit(base: Path, train: Path, folder: Path, tokenizer: Any) -> Path:
    """A whole model trained for 50 epochs on the rows."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    texts = [one["prompt"] + one["completion"] for one in pq.read_table(train).to_pylist()]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    longest = max(map(len, ids))
    given = torch.tensor([[*row, *[tokenizer.pad_token_id] * (longest - len(row))] for row in ids])
    labels = torch.tensor([[*row, *[-100] * (longest - len(row))] for row in ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(50):
        for part in torch.randperm(len(ids)).split(10):
            optimizer.zero_grad()
            model(input_ids=given[part], labels=labels[part]).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def nudged(base: Path, folder: Path, tokenizer: Any) -> Path:
    """A whole model whose weights are others by a little, and learned nothing of the rows."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_an_overfit_model_has_an_auc_near_one_and_an_untrained_one_about_a_half(
    tmp_path: Path, splits: tuple[Path, Path], tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    files = dict(zip(("train", "held_out"), map(data_file, splits), strict=True))
    tuned = {
        "base": None,
        "overfit": overfit(tiny_model_folder, splits[0], tmp_path / "overfit-model", tiny_tokenizer),
        "untrained": nudged(tiny_model_folder, tmp_path / "other-model", tiny_tokenizer),
    }
    found = {}
    for name, folder in tuned.items():
        asked = {"membership": {**files, "rows": 100}, "seed": 0}
        run = write_run(tmp_path / name, tiny_model_folder, **asked, tuned=folder)
        assert main(run) == 0
        found[name] = read_samples(run / "output" / "payload")
    learned, nothing = (membership_of(found["base"], found[name], 0.025) for name in ("overfit", "untrained"))
    assert learned is not None
    assert nothing is not None
    assert (learned.trained_on, learned.held_out) == (100, 100)
    assert learned.auc > 0.98
    assert learned.low > 0.9
    assert 0.4 < nothing.auc < 0.6
    assert nothing.low < 0.5 < nothing.high


def test_the_rows_follow_from_the_data_set_and_from_no_seed(
    tmp_path: Path, splits: tuple[Path, Path], tiny_tokenizer: Any
) -> None:
    asked = asked_of(splits, rows=10)
    first = drawn(asked, tiny_tokenizer, MEMBERS)
    assert len(first) == 10
    assert drawn(asked, tiny_tokenizer, MEMBERS) == first
    other = write_rows(tmp_path / "more.parquet", rows(100, 0) + rows(1, 2))
    again = drawn(asked_of((other, splits[1]), rows=10), tiny_tokenizer, MEMBERS)
    assert again != first
    assert "seed" not in Membership.model_fields


def test_rows_that_are_nearly_rows_of_the_other_side_are_left_out_of_both(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    long = " ".join(WORDS * 4)
    train, test = rows(20, 0), rows(20, 1)
    train[3]["completion"], test[5]["completion"] = f"{long} today", f"{long} tomorrow"
    train[3]["prompt"] = test[5]["prompt"]
    test[6] = dict(train[9])
    splits = (write_rows(tmp_path / "a.parquet", train), write_rows(tmp_path / "b.parquet", test))
    members, others = (drawn(asked_of(splits), tiny_tokenizer, side) for side in (MEMBERS, OTHERS))
    left = {train[n]["completion"] for n in (3, 9)} | {test[n]["completion"] for n in (5, 6)}
    assert len(members) == len(others) == 18
    assert not left & {*members, *others}


def test_near_rows_are_found_as_by_comparing_each_with_each() -> None:
    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(WORDS[:4], draw.integers(1, 14))) for _ in range(300)]
    made = [as_row({**row(n, "text"), "text": text}) for n, text in enumerate(texts)]
    many, few = made[:200], made[200:]

    def grams(one: Any) -> set[tuple[str, ...]]:
        words = one.text.split()
        return {tuple(words[n : n + 5]) for n in range(max(1, len(words) - 4))}

    alike = {
        (n, k)
        for n, one in enumerate(many)
        for k, other in enumerate(few)
        if len(grams(one) & grams(other)) >= 0.85 * len(grams(one) | grams(other))
    }
    assert alike
    assert near_across(many, few) == ({n for n, _ in alike}, {k for _, k in alike})


def test_rows_that_the_mixture_left_out_were_not_trained_on(
    tmp_path: Path, splits: tuple[Path, Path], tiny_tokenizer: Any
) -> None:
    """Whoever adds rows that are then left out as too long does not hide those that were learned."""
    kept = [("train", "data.sources[0]", n) for n in (4, 7, 30)]
    others = [("train", "general:town", 8), ("validation", "data.sources[0]", 9)]
    table = [dict(zip(("split", "source", "row"), one, strict=True)) for one in (*kept, *others)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "rows.parquet")
    mixed = QuestionsFile.model_validate(data_file(tmp_path / "rows.parquet"))
    found = drawn(asked_of(splits, mixed=mixed), tiny_tokenizer, MEMBERS)
    assert sorted(found) == sorted(rows(100, 0)[n]["completion"] for n in (4, 7, 30))


@pytest.mark.slow
def test_of_a_reserve_the_set_that_is_asked_is_told_apart_alone(
    splits: tuple[Path, Path], tiny_tokenizer: Any
) -> None:
    sides = [
        drawn(asked_of(splits, reserve={"sets": 3, "number": n}), tiny_tokenizer, OTHERS) for n in (1, 2, 3)
    ]
    assert all(sides)
    assert sorted(row for side in sides for row in side) == sorted(
        drawn(asked_of(splits), tiny_tokenizer, OTHERS)
    )


def test_raw_text_is_asked_for_its_loss_and_rows_without_an_answer_are_left_out(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    train = [row(0, "text"), *rows(2, 0), {**rows(1, 5)[0], "prompt": ""}]
    splits = (
        write_rows(tmp_path / "a.parquet", train),
        write_rows(tmp_path / "b.parquet", [row(n, "text") for n in range(1, 3)]),
    )
    found = membership_tasks(asked_of(splits), tiny_tokenizer, max_length=256)
    kinds = {name: [task.OUTPUT_TYPE for task in tasks] for name, tasks in found.items()}
    assert kinds == {MEMBERS: ["loglikelihood", "loglikelihood_rolling"], OTHERS: ["loglikelihood_rolling"]}
    assert [len(task.eval_docs) for task in found[MEMBERS]] == [2, 1]
