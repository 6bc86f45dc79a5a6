"""What is remembered of a base's tokenizer, and when it is asked anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer, _class_alone
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.provenance.findings import FILE
from tests.tiny_model import make_tiny_model

TEXT = "The permit <|im_end|> is given."


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "base")


def ids_of(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    return ids


def test_an_answer_is_that_of_the_tokenizer_and_the_next_one_loads_none(base: Path, tmp_path: Path) -> None:
    plain = load_tokenizer(base)
    for is_loaded in (True, False):
        known = KnownTokenizer(base, tmp_path / "cache")
        assert known.chats
        assert known.holds_control_tokens(Row("text", "data.sources[0]", text=TEXT))
        assert not known.holds_control_tokens(Row("text", "data.sources[0]", text="The permit"))
        assert known.answer({"ids": TEXT}, ids_of) == ids_of(plain)
        assert ("loaded" in vars(known)) is is_loaded


def test_a_new_question_is_asked_of_the_class_by_itself_which_gives_the_same_tokens(
    base: Path, tmp_path: Path
) -> None:
    assert KnownTokenizer(base, tmp_path / "cache").chats
    known = KnownTokenizer(base, tmp_path / "cache")
    assert known.answer({"ids": TEXT}, ids_of) == ids_of(load_tokenizer(base))
    assert vars(known.loaded)["_ft_dagster_ends"] == vars(load_tokenizer(base))["_ft_dagster_ends"]


def test_a_class_that_loads_another_tokenizer_by_itself_is_not_remembered(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    assert _class_alone(tokenizer, base) == [type(tokenizer).__module__, type(tokenizer).__name__]
    tokenizer.add_tokens(["permit"])
    assert _class_alone(tokenizer, base) is None


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_base_whose_files_changed_is_asked_anew(file: str, base: Path, tmp_path: Path) -> None:
    assert KnownTokenizer(base, tmp_path / "cache").chats
    content = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps({**content, "eos_token_id": 0}))
    known = KnownTokenizer(base, tmp_path / "cache")
    assert known.chats
    assert "loaded" in vars(known)


def test_a_template_that_went_is_seen(base: Path, tmp_path: Path) -> None:
    assert KnownTokenizer(base, tmp_path / "cache").chats
    (base / "chat_template.jinja").unlink()
    assert not KnownTokenizer(base, tmp_path / "cache").chats


def test_a_refusal_is_not_remembered(base: Path, tmp_path: Path) -> None:
    def refuse(tokenizer: Any) -> list[int]:
        raise UserError("refused", fix="Ask otherwise")

    known = KnownTokenizer(base, tmp_path / "cache")
    with pytest.raises(UserError):
        known.answer({"ids": TEXT}, refuse)
    assert known.answer({"ids": TEXT}, ids_of)
    assert KnownTokenizer(base, tmp_path / "cache").answer({"ids": TEXT}, refuse) == ids_of(known.loaded)


def test_a_damaged_memory_costs_time_alone(base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert KnownTokenizer(base, cache).chats
    (cache / FILE).write_bytes(b"no database")
    for is_loaded in (True, False):
        known = KnownTokenizer(base, cache)
        assert known.answer({"ids": TEXT}, ids_of) == ids_of(load_tokenizer(base))
        assert ("loaded" in vars(known)) is is_loaded
