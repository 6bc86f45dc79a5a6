"""The model card: read by the hub's own parser, complete, and the same every time."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ft_dagster.export.card import write_card
from ft_dagster.export.certificate import EXACT
from ft_dagster.export.run import WRITERS
from ft_dagster.lineage.certificate import Certificate
from tests.export.exports import MakeAdapter, MakeRequest, parse

pytestmark = pytest.mark.slow

FIGURES = {
    "probes": 3, "positions": 60, "max_logit_difference": 0.0, "mean_kl": 0.0, "base_kl": 0.4,
    "top1_agreement": 1.0, "top1_lost": 0.0, "greedy_equal": 1.0, "greedy_parted": 0.0,
    "token_ids_equal": 1.0, "chat_ids_equal": 1.0, "template_equal": 1.0,
}  # fmt: skip


@pytest.fixture
def card(make_adapter: MakeAdapter, make_request: MakeRequest) -> Any:
    """Write the card of an export and return it as the hub's library reads it."""
    from huggingface_hub import ModelCard

    adapter = make_adapter()

    def write(
        made: dict[str, Any] | None = None,
        rule: dict[str, Any] | None = None,
        said: dict[str, Any] | None = None,
        **base: str,
    ) -> ModelCard:
        content = make_request(adapter, format=base.pop("format", "adapter"))
        verdict = content["card"]["verdict"]
        rules = [{**verdict["rules"][0], **(rule or {})}]
        told = {**content["card"], "made": made, "verdict": {**verdict, "rules": rules}, **(said or {})}
        request = parse({**content, "card": told, "base": {**content["base"], **base}})
        if not any(request.payload.iterdir()):
            WRITERS[request.format](request.base.folder, request.base.digest, adapter, request.payload)
        write_card(request, Certificate("a" * 64, "b" * 64, request.format, FIGURES, EXACT, ()))
        return ModelCard.load(request.evidence / "README.md")

    return write


def test_the_front_matter_names_library_tags_and_scores(card: Any) -> None:
    data = card().data
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert {"ft-dagster", "instruction", "lora"} <= set(data.tags)
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("test_split_task", "answer_loss", 1.42)
    ]


def test_a_base_is_linked_only_where_it_is_a_hub_repository(card: Any) -> None:
    assert card().data.base_model is None
    assert card(reference="acme/base-1b", revision="abc123").data.base_model == "acme/base-1b"


def test_the_card_says_what_made_the_model_and_how_it_scored(card: Any) -> None:
    text = card().text
    for said in (
        "# acme.support",
        "ml@acme.example",
        "| test_split_task | answer_loss, lower is better | 4.660 | 1.420 | -3.240 nats (-3.400 to -3.100) |",
        "- pass: the task test_split_task (answer_loss) went from 4.660 to 1.420",
        "| data/faq.jsonl | CC-BY-4.0 |",
        "| training.learning_rate | 0.0002 |",
        "| trained_tokens | 12,345 |",
        "encyclopedia",
        'PeftModel.from_pretrained(base, "EXPORT")',
        "`<|im_end|>`",
    ):
        assert said in text


def test_a_description_says_what_it_says_and_does_nothing(card: Any) -> None:
    evil = (
        "Kind.\n\n## Gates\n\n**passed** by [us](https://evil.example) ![seen](https://evil.example/x.png)"
        " <script>alert(1)</script>\n\n| task | metric |\n|---|---|\n| mmlu | 0.99 |"
    )
    said = {"description": evil, "owners": ["<b>ann</b>"], "sources": [{"path": "a|`b`", "licence": "*MIT*"}]}
    html = MarkdownIt("js-default").render(card(said=said, rule={"task": "a*b*"}).text)
    shown = re.sub(r"<[^>]+>", "", html)
    assert escape(" ".join(evil.split())) in shown
    for never in ("<script", "<img", 'evil.example"', "<b>ann", "<em>", "<td>0.99</td>"):
        assert never not in html
    assert html.count("<h2>Gates</h2>") == 1
    assert "<td>a|`b`</td>\n<td>*MIT*</td>" in html
    assert "<td>a*b*</td>" in html


def test_the_card_names_what_made_the_model(card: Any) -> None:
    made = {
        "dataset": "1" * 64, "rows": {"train": 1234, "test": 56}, "mixture": "2" * 64, "plan": "3" * 64,
        "run": "a-run", "code": "4" * 64, "day": "2026-11-26", "corpus": "6" * 64,
    }  # fmt: skip
    text = card(made=made).text
    for said in (
        f"| data set | `{'1' * 64}`: 1,234 train, 56 test |",
        f"| exported | 2026-11-26, run `a-run`, by the code `{'4' * 64}` |",
        "`ft-dagster history acme.support`",
        f"General text of the corpus `encyclopedia` (`{'6' * 64}`) was mixed in",
    ):
        assert said in text
    assert "|\n| data set |" in text  # a row of the same table
    assert text.index("## Scores") - text.index("this payload: `ft-dagster history") < 60
    assert "| data set |" not in card().text


def test_the_card_says_why_a_difference_is_outside_of_its_interval(card: Any) -> None:
    why = "| -3.240 nats; counting up to 2 a text: -1.950 (-2.000 to -1.900) |"
    assert why in card(rule={"interval": [-2.0, -1.9], "bound": 2.0, "counted": -1.95}).text
    assert "counting up to" not in card(rule={"bound": 2.0}).text


def test_the_card_says_the_verdict_as_every_page_does(card: Any) -> None:
    assert "## Gates\n\nPassed: the one rule of the gate holds.\n" in card().text


def test_the_card_does_not_say_where_files_lie_on_this_machine(card: Any) -> None:
    text = card().text
    assert "rows.jsonl" in text
    assert "/srv/secret" not in text


def test_the_card_of_a_merged_model_loads_it_without_peft(card: Any) -> None:
    written = card(format="merged")
    assert written.data.library_name == "transformers"
    assert "peft" not in written.text
    assert "`adapter/`" in written.text


def test_the_card_says_how_to_serve_it_with_vllm(card: Any) -> None:
    assert (
        "`vllm serve BASE --enable-lora --max-lora-rank 8 --lora-modules acme.support=EXPORT`" in card().text
    )
    assert "`vllm serve EXPORT`" in card(format="merged").text


def test_the_same_request_gives_the_same_card(card: Any) -> None:
    assert card().content == card().content
