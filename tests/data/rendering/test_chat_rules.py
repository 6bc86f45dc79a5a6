"""Where an answer ends, and which templates ask or end otherwise than most."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from ft_dagster.data.rendering.chat_rules import chat_rules, stop_token_ids
from ft_dagster.data.rendering.chat_template import DATE, SYSTEM, render_asked, render_chat
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.rows import Message
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import trained_tokenizer
from ft_dagster.training.methods.base import load_tokenizer as base_tokenizer

BOTH = ["<|endoftext|>", "<|im_end|>"]
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('no system turn') }}{% endif %}"


@pytest.fixture
def tokenizer(tiny_model_folder: Path, tmp_path: Path) -> Any:
    """A tokenizer of the test's own, so that its template and its eos may be changed; its base declares no
    ends.
    """
    return load_tokenizer(tiny_model_folder, base=tmp_path)


def test_the_end_of_turn_of_the_chat_template_is_a_stop_token_beside_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == BOTH
    assert chat_rules(tokenizer) == {"ends": BOTH}


def test_a_template_that_ends_a_turn_with_eos_is_as_most(tokenizer: Any) -> None:
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]
    assert chat_rules(tokenizer) == {}


@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('no answers') }}", "{{ messages[0].content }}"]
)
def test_without_an_end_of_turn_an_answer_ends_at_eos(tokenizer: Any, template: str | None) -> None:
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", template
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]
    assert chat_rules(tokenizer) == {}


@pytest.mark.parametrize("case", ["lower", "upper", "title"])
def test_a_template_that_changes_the_case_of_a_text_ends_a_turn_as_any_other(
    tokenizer: Any, case: str
) -> None:
    told = tokenizer.chat_template.replace("message['content']", f"message['content']|{case}")
    assert told != tokenizer.chat_template
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", told
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == BOTH


def test_where_an_answer_is_not_found_in_its_turn_nothing_is_taken_for_its_end(tokenizer: Any) -> None:
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", "<|im_start|>{{ messages|length }}"
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_a_template_that_wants_a_system_turn_is_asked_with_one(tokenizer: Any) -> None:
    tokenizer.eos_token, plain = "<|endoftext|>", tokenizer.chat_template
    question = Message("user", "Who?")
    assert render_asked([question], tokenizer) == render_chat([question], tokenizer, prompt=True)
    tokenizer.chat_template = NEEDS_SYSTEM + plain
    both = [Message("system", SYSTEM), question]
    assert render_asked([question], tokenizer) == render_chat(both, tokenizer, prompt=True)
    assert tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)) == BOTH


def test_a_template_that_takes_no_question_is_refused_in_one_line(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('rows of tools only') }}"
    with pytest.raises(UserError, match=r"^base_model: .* refuses a question: rows of tools only\. "):
        render_asked([Message("user", "Who?")], tokenizer)


def declare_ends(folder: Path, ends: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), "utf-8")
    return folder


@pytest.mark.parametrize("ends", [None, 2, [2]])
def test_ends_that_a_base_declares_count_where_they_are_others_than_eos(
    tiny_model_folder: Path, tmp_path: Path, ends: object
) -> None:
    base = declare_ends(shutil.copytree(tiny_model_folder, tmp_path / "base"), ends)
    tokenizer = load_tokenizer(base)
    assert (tokenizer.eos_token_id, chat_rules(tokenizer)) == (2, {})
    declare_ends(base, [2, 0])
    tokenizer = load_tokenizer(base)
    assert stop_token_ids(tokenizer) == [0, 2]
    assert chat_rules(tokenizer) == {"ends": BOTH}


@pytest.mark.parametrize("ends", ["</s>", ["</s>"], -1, [2, True], 2.0])
def test_ends_that_are_no_tokens_are_refused(tiny_model_folder: Path, tmp_path: Path, ends: object) -> None:
    base = declare_ends(shutil.copytree(tiny_model_folder, tmp_path / "base"), ends)
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id: names no tokens"):
        load_tokenizer(base)


def test_an_end_beyond_the_vocabulary_ends_nothing(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = declare_ends(shutil.copytree(tiny_model_folder, tmp_path / "base"), [2, 10**20])
    tokenizer = load_tokenizer(base)
    assert (stop_token_ids(tokenizer), chat_rules(tokenizer)) == ([2], {})


def test_a_training_and_a_tokenizer_beside_an_adapter_know_the_bases_ends(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    base = declare_ends(shutil.copytree(tiny_model_folder, tmp_path / "base"), [2, 0])
    training = base_tokenizer(base)
    training.save_pretrained(tmp_path / "adapter")
    beside = trained_tokenizer(base, tmp_path / "adapter")
    assert stop_token_ids(training) == stop_token_ids(beside) == [0, 2]


def test_a_date_in_a_template_that_chats_are_not_rendered_with_counts_for_nothing(tokenizer: Any) -> None:
    plain = tokenizer.chat_template
    tokenizer.chat_template = {"default": plain, "tool_use": "{{ strftime_now('%Y') }}" + plain}
    assert chat_rules(tokenizer) == {}
    tokenizer.chat_template = {"rag": "{{ strftime_now('%Y') }}" + plain}
    assert chat_rules(tokenizer) == {}


def test_a_template_that_may_print_a_date_says_which(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    assert chat_rules(tokenizer) == {"date": DATE}


def test_a_tokenizer_that_ends_each_text_itself_says_what_is_left_out(tokenizer: Any) -> None:
    eos = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    assert chat_rules(tokenizer) == {"left_out": 1}
