"""What is rendered is what the template says, and what is trained is the answer and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.files import time_limit
from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.data.rendering.chat_template import lead_of
from ft_dagster.data.rendering.render import load_tokenizer, render, render_rows, render_turn
from ft_dagster.data.rows.rows import Message, Row
from ft_dagster.errors import UserError
from tests.chat_templates import ENDLESS, NO_GENERATION_PROMPT, OPENS_A_THOUGHT, THINKS
from tests.long import mostly_long

TWO_TURNS = (
    ("user", "What is a permit?"),
    ("assistant", "A paper."),
    ("user", "And a bank?"),
    ("assistant", "A house."),
)


def chat(*turns: tuple[str, str]) -> Row:
    return Row("messages", "faq.jsonl", messages=tuple(Message(*turn) for turn in turns))


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    """A tokenizer of the test's own, so that its template may be changed."""
    return load_tokenizer(tiny_model_folder)


def trained(row: Row, tokenizer: Any, **options: Any) -> list[str]:
    example = render(row, tokenizer, **options)
    return [tokenizer.decode(example.input_ids[start:end]) for start, end in example.spans]


def test_a_conversation_has_the_token_ids_of_the_chat_template(tokenizer: Any) -> None:
    row = chat(*TWO_TURNS)
    turns = [message._asdict() for message in row.messages]
    expected = tokenizer.apply_chat_template(turns, return_dict=False)
    assert render(row, tokenizer).input_ids == expected


def test_only_the_last_answer_and_its_end_of_turn_are_trained(tokenizer: Any) -> None:
    assert trained(chat(*TWO_TURNS), tokenizer) == ["A house.<|im_end|>"]


def test_every_answer_is_trained_where_asked(tokenizer: Any) -> None:
    spans = trained(chat(*TWO_TURNS), tokenizer, train_on="assistant_turns")
    assert spans == ["A paper.<|im_end|>", "A house.<|im_end|>"]


def test_an_answer_to_nothing_is_not_trained(tokenizer: Any) -> None:
    row = chat(("assistant", "Hello!"), *TWO_TURNS[:2])
    assert trained(row, tokenizer, train_on="assistant_turns") == ["A paper.<|im_end|>"]


def test_an_answer_that_repeats_its_question_is_told_from_it(tokenizer: Any) -> None:
    assert trained(chat(("user", "house"), ("assistant", "house")), tokenizer) == ["house<|im_end|>"]


def test_an_answer_with_letters_of_the_end_token_is_whole(tokenizer: Any) -> None:
    assert trained(chat(("user", "x"), ("assistant", "end")), tokenizer) == ["end<|im_end|>"]


@pytest.mark.parametrize("text", ["né à 東京 😀", " spaces around ", "line\n\nbreaks\n"])
def test_answers_of_any_letters_and_spacing_are_whole(tokenizer: Any, text: str) -> None:
    assert trained(chat(("user", "x"), ("assistant", text)), tokenizer) == [text + "<|im_end|>"]


def test_a_template_without_generation_prompt_trains_on_the_header_too(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_GENERATION_PROMPT
    assert trained(chat(*TWO_TURNS[:2]), tokenizer) == ["<|im_start|>assistant\nA paper.<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "lead"),
    [(THINKS, "<think>\n\n</think>\n\n"), (NO_GENERATION_PROMPT, "<|im_start|>assistant\n")],
)
@pytest.mark.parametrize("answer", ["A paper.", "think", "assistant", "  spaced ", "4821", "<", '{"a": 1}'])
def test_an_answer_is_the_text_that_the_row_has_without_what_the_template_writes_before_it(
    tokenizer: Any, template: str, lead: str, answer: str
) -> None:
    tokenizer.chat_template = template
    row = chat(("user", "What is a permit?"), ("assistant", answer))
    turn = render_turn(row, tokenizer)
    assert (turn.lead, turn.answer, turn.end) == (lead, answer, "<|im_end|>")
    assert trained(row, tokenizer) == [lead + answer + "<|im_end|>"]
    assert turn.whole == tokenizer.decode(render(row, tokenizer).input_ids).rstrip("\n")


def test_a_thought_that_the_row_has_is_a_part_of_its_answer(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKS
    turn = render_turn(chat(("user", "q"), ("assistant", "<think>\nHm.\n</think>\n\nA paper.")), tokenizer)
    assert (turn.lead, turn.answer) == ("", "<think>\nHm.\n</think>\n\nA paper.")


def test_a_lead_of_any_length_is_none(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKS.replace("<think>", f"<think>{'x' * 2000}")
    assert lead_of(tokenizer) == ""


def test_most_templates_write_nothing_before_an_answer(tokenizer: Any) -> None:
    plain = tokenizer.chat_template
    spaced = plain.replace("message['content']", "' ' + message['content']")
    for template in (plain, spaced, OPENS_A_THOUGHT, ENDLESS, "{{ raise_exception('no') }}", None):
        tokenizer.chat_template = template
        assert lead_of(tokenizer) == ""


def test_a_template_that_trims_the_answer_is_followed(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'] | trim"
    )
    assert trained(chat(("user", "x"), ("assistant", "  A paper.  ")), tokenizer) == ["A paper.<|im_end|>"]


def test_a_template_without_end_of_turn_gets_the_end_of_sequence(tokenizer: Any) -> None:
    tokenizer.chat_template = ENDLESS
    row = chat(*TWO_TURNS)
    assert trained(row, tokenizer) == ["A house.<|im_end|>"]
    assert render(row, tokenizer).input_ids[-1] == tokenizer.eos_token_id
    turn = render_turn(row, tokenizer)
    assert (turn.answer, turn.end) == ("A house.", "<|im_end|>")


def test_every_trained_answer_ends_also_where_the_template_marks_no_end(tokenizer: Any) -> None:
    tokenizer.chat_template = ENDLESS
    row = chat(*TWO_TURNS)
    example = render(row, tokenizer, train_on="assistant_turns")
    assert trained(row, tokenizer, train_on="assistant_turns") == ["A paper.<|im_end|>", "A house.<|im_end|>"]
    assert [example.input_ids[end - 1] for _, end in example.spans] == [tokenizer.eos_token_id] * 2
    whole = tokenizer.decode(example.input_ids)
    assert whole.replace("<|im_end|>", "") == tokenizer.apply_chat_template(
        [message._asdict() for message in row.messages], tokenize=False
    ).rstrip("\n")
    once = chat(*TWO_TURNS[:2])
    assert render(once, tokenizer, train_on="assistant_turns") == render(once, tokenizer)


def test_an_end_that_the_template_marks_is_the_only_one(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    row = chat(*TWO_TURNS)
    assert trained(row, tokenizer, train_on="assistant_turns") == ["A paper.<|im_end|>", "A house.<|im_end|>"]
    assert tokenizer.eos_token_id not in render(row, tokenizer, train_on="assistant_turns").input_ids


def test_no_way_out_is_the_default_already(tokenizer: Any) -> None:
    """A template that opens a thought for an answer and renders none with one: no choice of turns helps."""
    tokenizer.chat_template = OPENS_A_THOUGHT
    for train_on in ("completions", "assistant_turns"):
        with pytest.raises(UserError) as caught:
            render(chat(*TWO_TURNS), tokenizer, train_on=train_on)
        assert "generation prompt ends with '<|im_start|>assistant\\n<think>\\n', and" in caught.value.problem
        assert "train_on" not in caught.value.fix


def test_completions_are_a_way_out_where_the_last_answer_can_be_told(tokenizer: Any) -> None:
    """As with Qwen 3, which renders earlier answers without a thought."""
    tokenizer.chat_template = THINKS
    with pytest.raises(UserError) as caught:
        render(chat(*TWO_TURNS), tokenizer, train_on="assistant_turns")
    assert "renders earlier turns differently" in caught.value.problem
    assert caught.value.fix.startswith("Use data.train_on: completions, ")
    assert trained(chat(*TWO_TURNS), tokenizer) == ["<think>\n\n</think>\n\nA house.<|im_end|>"]


def test_what_follows_the_end_of_turn_is_not_trained(tokenizer: Any) -> None:
    tokenizer.chat_template += "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    row = chat(*TWO_TURNS[:2])
    assert trained(row, tokenizer) == ["A paper.<|im_end|>"]
    assert tokenizer.decode(render(row, tokenizer).input_ids).endswith("<|im_end|>\n<|endoftext|>")


def test_a_template_that_rewrites_earlier_turns_is_refused_for_every_turn_only(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content[2:] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = chat(*TWO_TURNS)
    assert trained(row, tokenizer) == ["A house.<|im_end|>"]
    with pytest.raises(UserError) as caught:
        render(row, tokenizer, train_on="assistant_turns")
    assert (caught.value.file, caught.value.field) == ("faq.jsonl", f"record {row.identity.hex()[:16]}")
    assert "renders earlier turns differently" in caught.value.problem


def test_a_template_that_refuses_a_row_is_a_user_error(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match="System role not supported"):
        render(chat(*TWO_TURNS), tokenizer)


@pytest.mark.parametrize(
    "template", ["{% for i in range(10**9) %}{% endfor %}", "{{ 1 // 0 }}", "{{ {}.pop('x') }}"]
)
def test_whatever_a_template_raises_is_a_user_error(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="the chat template refuses the row: "):
        render(chat(*TWO_TURNS), tokenizer)
    assert (lead_of(tokenizer), stop_token_ids(tokenizer)) == ("", [tokenizer.eos_token_id])


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
CALLS = "".join(
    f"{{% macro m{i}() %}}{{{{ m{i - 1}() }}}}{{{{ m{i - 1}() }}}}{{% endmacro %}}" for i in range(1, 50)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "template", mostly_long([LOOPS, f"{{% macro m0() %}}{{% endmacro %}}{CALLS}{{{{ m49() }}}}"], [LOOPS])
)
def test_a_template_that_does_not_end_is_one_user_error_that_names_the_base(
    tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.5)
    row = chat(*TWO_TURNS)
    tokenizer.chat_template = template
    asks: list[Callable[[], object]] = [
        lambda: list(render_rows([row] * 3, tokenizer)),
        lambda: render_turn(row, tokenizer),
        lambda: lead_of(tokenizer),
        lambda: stop_token_ids(tokenizer),
    ]
    for ask in asks:
        with pytest.raises(UserError, match=r"chat template takes more than 0\.5 seconds") as refused:
            ask()
        assert (refused.value.file, refused.value.field) == (tokenizer.name_or_path, "chat_template")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 10**(10**9) }}",
        "{{ 10**1000000000 }}",
        "{% generation %}{{ messages | length ** 9 }}{% endgeneration %}",
        "{% if x ** 2 %}{% endif %}",
    ],
)
def test_a_template_that_computes_a_power_is_refused_by_name_before_it_begins(
    tokenizer: Any, template: str
) -> None:
    tokenizer.chat_template = template
    for ask in (lambda: render(chat(*TWO_TURNS), tokenizer), lambda: lead_of(tokenizer)):
        with pytest.raises(UserError, match=r"computes a power \(\*\*\)") as refused:
            ask()
        assert (refused.value.file, refused.value.field) == (tokenizer.name_or_path, "chat_template")


def test_stars_in_a_templates_words_are_no_power(tokenizer: Any) -> None:
    tokenizer.chat_template = f"{{{{ '**bold**' }}}}{tokenizer.chat_template}"
    assert "**bold**" in tokenizer.decode(render(chat(*TWO_TURNS), tokenizer).input_ids)


@pytest.mark.slow
def test_rows_that_a_template_renders_in_any_number_are_not_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has left grows with each of them."""
    monkeypatch.setattr(time_limit, "SECONDS", 0.0)
    monkeypatch.setattr(time_limit, "TICK", 0.001)
    tokenizer.chat_template += "{# its own #}"
    rows = [chat(*TWO_TURNS)] * 3000
    assert len(list(render_rows(rows, tokenizer))) == len(rows)


@pytest.mark.slow
def test_a_template_is_ended_in_another_thread_and_after_a_fork(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    tokenizer.chat_template = f"{LOOPS}{{# elsewhere #}}"

    def said() -> bool:
        try:
            render(chat(*TWO_TURNS), tokenizer)
        except UserError as error:
            return "does not seem to end" in error.problem
        return False

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(said).result()
    tokenizer.chat_template += "{# and again #}"
    child = os.fork()
    if not child:
        os._exit(0 if said() else 1)
    assert os.waitpid(child, 0)[1] == 0


TRACED = """
import sys, time
from ft_dagster.data.files import time_limit
from ft_dagster.data.rendering.time_limit import in_time
from ft_dagster.errors import UserError

time_limit.SECONDS = time_limit.EACH = 0.05

class Tokenizer:
    chat_template, name_or_path = "a", "b"

def endless():
    while True:
        pass

def ended_late():
    try:
        endless()
    except time_limit.OutOfTime:
        return "rendered"

for rendering in (endless, ended_late):
    try:
        print(in_time(Tokenizer, rendering))
    except UserError as error:
        print(error.field)
sys.settrace(lambda *event: None)
print((lambda: "traced")())
"""


@pytest.mark.slow
def test_a_template_that_was_ended_leaves_a_process_in_which_functions_can_be_traced() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRACED], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["chat_template", "rendered", "traced"], done.stderr


def test_a_tokenizer_without_template_is_refused_for_a_conversation(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        render(chat(*TWO_TURNS), tokenizer)


def test_a_tokenizer_without_template_serves_prompts_with_completions(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    row = Row("prompt_completion", "faq.jsonl", prompt="The code of", completion=" cholera")
    assert trained(row, tokenizer) == [" cholera<|im_end|>"]


def test_todays_date_in_a_template_does_not_change_the_tokens(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%Y %H:%M:%S') }}" + tokenizer.chat_template
    assert tokenizer.decode(render(chat(*TWO_TURNS), tokenizer).input_ids).startswith("26 Jul 2024")


def test_a_completion_without_prompt_trains_from_the_second_token(tokenizer: Any) -> None:
    example = render(Row("prompt_completion", "faq.jsonl", completion="A paper."), tokenizer)
    assert example.spans == ((1, len(example.input_ids)),)


def test_a_prompt_with_a_trailing_space_gives_the_joint_token_to_the_completion(tokenizer: Any) -> None:
    row = Row("prompt_completion", "faq.jsonl", prompt="given by the ", completion="town")
    assert trained(row, tokenizer)[0].strip() == "town<|im_end|>"


def test_every_token_of_a_text_but_the_first_is_trained(tokenizer: Any) -> None:
    example = render(Row("text", "faq.jsonl", text="The whale rose slowly."), tokenizer)
    assert example.spans == ((1, len(example.input_ids)),)
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example.input_ids[:-1]) == "The whale rose slowly."


def test_a_beginning_token_that_the_tokenizer_adds_is_not_trained(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    example = render(Row("text", "faq.jsonl", text="The whale"), tokenizer)
    assert example.input_ids[0] == start
    assert example.spans == ((1, len(example.input_ids)),)
    example = render(Row("prompt_completion", "faq.jsonl", prompt="The", completion=" whale"), tokenizer)
    assert tokenizer.decode(example.input_ids[slice(*example.spans[0])]) == " whale<|im_end|>"
    assert start not in render(chat(*TWO_TURNS), tokenizer).input_ids[1:2]


def test_a_tokenizer_without_end_of_sequence_is_refused_where_it_is_needed(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    assert trained(chat(*TWO_TURNS), tokenizer) == ["A house.<|im_end|>"]
    with pytest.raises(UserError, match="no end-of-sequence token"):
        render(Row("text", "faq.jsonl", text="x"), tokenizer)


def test_truncation_cuts_the_end_and_its_spans(tokenizer: Any) -> None:
    row = chat(*TWO_TURNS)
    whole = render(row, tokenizer)
    [(start, end)] = whole.spans
    cut = render(row, tokenizer, max_length=start + 2)
    assert (cut.input_ids, cut.spans, cut.truncated) == (
        whole.input_ids[: start + 2],
        ((start, start + 2),),
        True,
    )
    assert render(row, tokenizer, max_length=start).trained_tokens == 0
    assert not render(row, tokenizer, max_length=len(whole.input_ids)).truncated
    assert end > start + 2


def test_rows_of_all_kinds_are_rendered_in_order(tokenizer: Any) -> None:
    rows = [chat(*TWO_TURNS), Row("text", "b", text="The whale"), chat(*TWO_TURNS[:2])]
    assert list(render_rows(rows, tokenizer)) == [render(row, tokenizer) for row in rows]


@pytest.mark.parametrize(
    "row",
    [
        chat(*TWO_TURNS),
        chat(("system", "Be brief."), *TWO_TURNS[:2]),
        Row("prompt_completion", "faq.jsonl", prompt="The code of", completion=" cholera"),
        Row("text", "faq.jsonl", text="The whale rose slowly."),
    ],
)
def test_the_prompt_and_answer_as_text_tokenize_as_in_training(tokenizer: Any, row: Row) -> None:
    turn, example = render_turn(row, tokenizer), render(row, tokenizer)
    ids = tokenizer(turn.prompt + turn.answer + turn.end, add_special_tokens=turn.add_special_tokens)[
        "input_ids"
    ]
    assert ids == example.input_ids[: len(ids)]
    [(start, end)] = example.spans
    assert end == len(ids)
    assert start == max(
        1, len(tokenizer(turn.prompt, add_special_tokens=turn.add_special_tokens)["input_ids"])
    )


def test_the_prompt_is_what_the_model_is_given_to_answer(tokenizer: Any) -> None:
    turn = render_turn(chat(*TWO_TURNS[:2]), tokenizer)
    asked = [{"role": "user", "content": "What is a permit?"}]
    assert turn.prompt == tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert turn.answer == "A paper."


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer does not load"):
        load_tokenizer(tmp_path)


TEXTS = (
    "né à 東京 😀",
    " spaces  around ",
    "line\n\nbreaks\n",
    "ﬁne",
    "<|im_end|> inside",
    "e\u0301",
    "İ",
    "x",
)


@pytest.mark.parametrize("train_on", ["completions", "assistant_turns"])
def test_rows_together_are_rendered_as_each_alone(tokenizer: Any, train_on: Any) -> None:
    rows = [chat(("user", one), ("assistant", two), *TWO_TURNS) for one in TEXTS for two in TEXTS]
    rows += [Row("text", "faq.jsonl", text=text) for text in TEXTS]
    rows += [Row("prompt_completion", "faq.jsonl", prompt=one, completion=one) for one in TEXTS]
    together = list(render_rows(rows, tokenizer, train_on=train_on, max_length=64))
    assert together == [render(row, tokenizer, train_on=train_on, max_length=64) for row in rows]


def test_of_rows_together_the_first_that_is_refused_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template += (
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    good, bad = chat(*TWO_TURNS), [chat(("user", f"bad {i}"), ("assistant", "a")) for i in range(2)]
    with pytest.raises(UserError, match=bad[0].identity.hex()[:16]):
        list(render_rows([good, *bad, good], tokenizer))


def stripping_tokenizer() -> Any:
    """Words and marks alone: spaces are in no token, and tokens of its own stand at both ends."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[EOS]"], show_progress=False
    )
    pieces.train_from_iterator(["the permit for a small building", "user assistant"], trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="[EOS]", unk_token="[UNK]")


@pytest.mark.parametrize("prompt", ["", "the permit", "the permit ", " the  permit   ", "É 東京 "])
@pytest.mark.parametrize("completion", ["for a", " for a ", "  small \n", "é", "   "])
def test_a_span_begins_with_the_first_token_that_ends_in_it(prompt: str, completion: str) -> None:
    row, tokenizer = (
        Row("prompt_completion", "x", prompt=prompt, completion=completion),
        stripping_tokenizer(),
    )
    encoded = tokenizer(prompt + completion, return_offsets_mapping=True)
    ends = [
        max(end for _, end in encoded["offset_mapping"][: i + 1]) for i in range(len(encoded["input_ids"]))
    ]
    first = max(1, sum(end <= len(prompt) for end in [*ends, len(prompt + completion)]))
    example = render(row, tokenizer)
    assert example.input_ids == [*encoded["input_ids"], tokenizer.eos_token_id]
    assert example.spans == (((first, len(example.input_ids)),) if first < len(example.input_ids) else ())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_turns() -> None:
    tokenizer = stripping_tokenizer()  # a long word is one token
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} [EOS] {% endfor %}"
    rows = [chat(*(("user", word * 2500), ("assistant", word * 2500)) * 20) for word in "abcdefgh"]
    list(render_rows(rows[:1], tokenizer, train_on="assistant_turns"))
    tracemalloc.start()
    try:
        examples = list(render_rows(rows, tokenizer, train_on="assistant_turns"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(example.spans) for example in examples] == [20] * 8
    assert peak < 3 * 8 * 100_000  # bytes: three times the text
