"""What somebody wrote stands in Markdown as it was written, and does nothing there."""

from __future__ import annotations

import random
from html import escape

import pytest
from markdown_it import MarkdownIt

from ft_dagster.markdown import plain

SIGNS = "#*_`[]()<>&|~!\\-+=.:/ \n1a"
PLAIN = ["a plain sentence, of 2024 (and more): 0.5% of training_mixture", "+1", "-5 degrees"]


def rendered(text: str) -> str:
    return str(MarkdownIt("js-default").render(text)).strip()


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_sentence_is_left_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "# Approved by the platform", "- passed", "1. passed", "| gate | passed |", "---", "===",
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![seen](https://evil.example/x.png)",
        "[card](https://evil.example)", "**passed** _all_ __gates__", "~~failed~~", "`code`", "&lt;b&gt;",
        "one\n\n# two", "```\npassed\n```",
    ],
)  # fmt: skip
def test_markup_is_shown_and_not_obeyed(text: str) -> None:
    assert rendered(plain(text)) == f"<p>{escape(' '.join(text.split()))}</p>"


@pytest.mark.parametrize("address", ["https://evil.example", "www.evil.example"])
def test_an_address_is_no_link(address: str) -> None:
    assert address not in plain(f"see {address}")
    assert rendered(plain(f"see {address}")) == f"<p>see {address}</p>"


def test_whatever_is_written_is_what_is_read() -> None:
    draw = random.Random(0)
    for _ in range(1_000):
        text = "".join(draw.choice(SIGNS) for _ in range(draw.randrange(1, 30))).strip() or "a"
        assert rendered(plain(text)) == f"<p>{escape(' '.join(text.split()))}</p>"


def test_what_turns_text_around_is_shown() -> None:
    assert rendered(plain("passed \u202edeliaf")) == "<p>passed \\u202edeliaf</p>"
