"""Where an answer ends, and which templates ask or end otherwise than most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from ft_dagster.data.chat_rules import chat_rules, stop_token_ids
from ft_dagster.data.render import DATE, load_tokenizer

BOTH = ["<|endoftext|>", "<|im_end|>"]


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    """A tokenizer of the test's own, so that its template and its eos may be changed."""
    return load_tokenizer(tiny_model_folder)


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
    assert stop_token_ids(tokenizer, declared=7) == sorted([7, tokenizer.eos_token_id])
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
