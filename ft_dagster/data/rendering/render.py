"""Render rows with the base's tokenizer: token ids, and the spans of tokens that are trained.

The spans are found by rendering the conversation up to and with each answer and comparing characters,
so a chat template needs no {% generation %} marks. A trained span covers the answer and its
end-of-turn token, of every answer that is trained: the model must learn to stop. Where the template marks no
end of a turn, that is the end-of-sequence token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ft_dagster.data.rendering.chat_form import chat_noted, note_chat
from ft_dagster.data.rendering.chat_template import lead_at, opening, refusal, render_chat, takes_calls
from ft_dagster.data.rendering.lost_fields import lost_field
from ft_dagster.data.rendering.special_tokens import special_pattern
from ft_dagster.data.rendering.time_limit import in_time
from ft_dagster.data.rendering.token_spans import Marked, cut, encode, spanned
from ft_dagster.data.rows.rows import Message, Row, upto_trained
from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import declared_ends
from ft_dagster.objectives import Rendered

TrainOn = Literal["completions", "assistant_turns"]


class Turn(NamedTuple):
    """Holds the last turn as text: what is asked, what the template writes before an answer (see `lead_of`),
    what is answered, and what ends the answer ("" for none).

    `whole` tokenizes as training did, with `add_special_tokens` as said. `closes`: what the template writes
    between reasoning and answer, "" where the lead has no reasoning.
    """

    prompt: str
    lead: str
    answer: str
    end: str
    add_special_tokens: bool
    closes: str = ""

    @property
    def whole(self) -> str:
        return self.prompt + self.lead + self.answer + self.end


class _AnswerSpan(NamedTuple):
    """Marks an answer's place in a rendered conversation: where it begins, where its own text does after a
    lead or reasoning, where it stops, where its end-of-turn token does, and whether it has one.
    """

    start: int
    text: int
    stop: int
    end: int
    ended: bool


def load_tokenizer(folder: Path, *, base: Path | None = None, kind: Any = None) -> Any:
    """Load the fast tokenizer of a model folder, from local files; it notes which ends of an answer the base
    declares, whose folder that is unless `base` is. `kind`: its class, where it is known. Raises UserError.
    """
    loader = _any_tokenizer() if kind is None else kind
    try:
        tokenizer = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises no narrower one of a damaged file
        first = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        fix = "Put the model's own tokenizer.json and tokenizer_config.json there"
        raise UserError(f"the tokenizer does not load: {first}", file=folder, fix=fix) from None
    if not tokenizer.is_fast:
        fix = "Save it once as a fast one: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        raise UserError("the tokenizer has no tokenizer.json", file=folder, fix=fix)
    return note_ends(tokenizer, base or folder)


def _any_tokenizer() -> Any:
    """Return what finds the class of a tokenizer; its import takes seconds."""
    from transformers import AutoTokenizer

    return AutoTokenizer


def note_ends(tokenizer: Any, base: Path) -> Any:
    """Note on the tokenizer its tokens that a base declares to end an answer, and return it. Raises
    UserError.
    """
    tokenizer._ft_dagster_ends = [id_ for id_ in declared_ends(base) if id_ < len(tokenizer)]
    return tokenizer


def ends_known(tokenizer: Any) -> list[int]:
    """Return what `note_ends` noted; none of a tokenizer that was loaded otherwise."""
    noted: list[int] = getattr(tokenizer, "_ft_dagster_ends", [])
    return noted


def render(
    row: Row, tokenizer: Any, *, train_on: TrainOn = "completions", max_length: int | None = None
) -> Rendered:
    """Render one row as tokens, cut to `max_length`; see `render_rows`."""
    return next(render_rows([row], tokenizer, train_on=train_on, max_length=max_length))


def render_rows(
    rows: Sequence[Row], tokenizer: Any, *, train_on: TrainOn = "completions", max_length: int | None = None
) -> Iterator[Rendered]:
    """Render rows as tokens, in order. What is longer than `max_length` tokens is cut at its end and says so.

    Raises UserError for a tokenizer without chat template or end-of-sequence token where one is
    needed, and for a row that the template refuses or renders in a way that cannot be split.
    """
    marked = in_time(tokenizer, lambda: [_marked(row, tokenizer, train_on) for row in rows], len(rows))
    eos: int | None = tokenizer.eos_token_id
    for special, group in groupby(marked, key=lambda item: item.special):
        items = list(group)
        encoded = encode([item.text for item in items], tokenizer, special)
        for item, ids, encoding in zip(items, encoded["input_ids"], encoded.encodings, strict=True):
            yield cut(*spanned(item, ids, encoding, eos), max_length)


def render_turn(row: Row, tokenizer: Any) -> Turn:
    """Render the last turn of a row as text. A text row has an empty prompt. Raises UserError."""
    if row.kind != "messages":
        prompt = row.prompt if row.kind == "prompt_completion" else ""
        answer = row.completion if row.kind == "prompt_completion" else row.text
        return Turn(prompt, "", answer, eos_token(row, tokenizer), True)
    row = upto_trained(row)
    whole = _chat(row, row.messages, tokenizer)
    start, at, stop, end, _ = _answer(row, len(row.messages) - 1, whole, tokenizer)
    ends = whole[stop:end] or eos_token(row, tokenizer)
    thought = _thought(row, len(row.messages) - 1, tokenizer)
    closes = whole[start:at].rpartition(thought)[2].strip() if thought else ""
    return Turn(whole[:start], whole[start:at], whole[at:stop], ends, False, closes)


def has_control_tokens(row: Row, tokenizer: Any) -> bool:
    """Say whether the row's own words hold a special token (as `<|im_end|>`): it would be read as one."""
    return special_pattern(tokenizer).search(row.whole_text) is not None


def added_after(tokenizer: Any) -> int:
    """Count the tokens that the tokenizer itself puts after a text (an end of sequence, with
    `add_eos_token`).
    """
    added = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return sum(1 for _ in takewhile(bool, reversed(added)))


def prompt_tokens(text: str, tokenizer: Any, *, special: bool = True) -> list[int]:
    """Return the token ids of a text that an answer continues; `special`: with what belongs before it."""
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids[: len(ids) - added_after(tokenizer)] if special else ids


def _marked(row: Row, tokenizer: Any, train_on: TrainOn) -> Marked:
    if row.kind == "text":
        eos_token(row, tokenizer)
        return Marked(row.text, ((0, len(row.text)),), True, True)
    if row.kind == "prompt_completion":
        eos_token(row, tokenizer)
        text = row.prompt + row.completion
        return Marked(text, ((len(row.prompt), len(text)),), True, True)
    row = upto_trained(row)
    _refuse_calls(row, tokenizer)
    whole, turns = _chat(row, row.messages, tokenizer), _trained_turns(row, train_on)
    _refuse_lost(row, whole, turns, tokenizer)
    answers = [_answer(row, i, whole, tokenizer) for i in turns]
    return _with_ends(row, whole, answers, tokenizer)


def _with_ends(row: Row, whole: str, answers: Sequence[_AnswerSpan], tokenizer: Any) -> Marked:
    """Return a conversation with an end of each trained answer; what follows the last where nothing marks its
    end is left out.
    """
    text, spans, taken = "", [], 0
    for answer in answers:
        text += whole[taken : answer.start]
        start, taken = len(text), answer.end
        text += whole[answer.start : answer.end]
        if not answer.ended and answer is not answers[-1]:
            text += eos_token(row, tokenizer)
        spans.append((start, len(text)))
    if answers[-1].ended:
        return Marked(text + whole[taken:], tuple(spans), False, False)
    eos_token(row, tokenizer)
    return Marked(text, tuple(spans), False, True)


def _trained_turns(row: Row, train_on: TrainOn) -> list[int]:
    """Return the numbers of the messages that are trained; the last of them is the last message."""
    if train_on == "assistant_turns":
        # An answer to nothing, as the first message, has no prompt to be learned from.
        turns = enumerate(row.messages)
        return [i for i, turn in turns if i and turn.role == "assistant" and turn.is_trained]
    return [len(row.messages) - 1]


def _refuse_lost(row: Row, whole: str, turns: Sequence[int], tokenizer: Any) -> None:
    """Raise UserError where the template leaves out what the row says."""
    if not row.says_more:
        return
    field = lost_field(
        row, whole, turns, tokenizer, lambda other: render_chat(other.messages, tokenizer, tools=other.tools)
    )
    if field is not None:
        raise _lost(row, field)


def _refuse_calls(row: Row, tokenizer: Any) -> None:
    """Raise UserError for calls where the template takes them in no form: it may then refuse the row by other
    words.
    """
    calls = next((i for i, turn in enumerate(row.messages) if '"tool_calls":' in turn.more), None)
    if calls is not None and tokenizer.chat_template and not takes_calls(tokenizer):
        raise _lost(row, f"messages[{calls}].tool_calls")


def _lost(row: Row, field: str) -> UserError:
    thought = ["declare data.reasoning: drop"] if field.endswith("reasoning_content") else []
    ways = [*thought, "use a base whose template takes it", "remove it from the rows"]
    problem = f"the base's chat template does not write {field}, so that a model would not learn from it"
    fix = ", or ".join(ways)
    return _row_error(row, problem, fix[0].upper() + fix[1:])


def _answer(row: Row, i: int, whole: str, tokenizer: Any) -> _AnswerSpan:
    """Find where the i-th message, an answer, stands in the rendered conversation. Raises UserError."""
    span = _span(row, i, whole, tokenizer)
    if span is None:
        raise _untold(row, i, tokenizer)
    return span


def _span(row: Row, i: int, whole: str, tokenizer: Any) -> _AnswerSpan | None:
    """Return where an answer stands; None where the template does not tell it from its prompt. Raises
    UserError.
    """
    before = _chat(row, row.messages[:i], tokenizer, prompt=True) if i else ""
    upto = whole if i == len(row.messages) - 1 else _chat(row, row.messages[: i + 1], tokenizer)
    if not upto.startswith(before):
        return None
    content = row.messages[i].content.strip()
    start = len(before)
    begins, thought = (
        start + len(lead_at(upto, start, tokenizer)),
        _thought_ends(row, i, upto, start, tokenizer),
    )
    at = upto.find(content, thought or begins)
    found = special_pattern(tokenizer).search(upto, at + len(content) if at >= 0 else begins)
    if "tool_calls" in row.messages[i].said:  # they stand after the text, and may hold special tokens
        found = _last_special(upto, tokenizer)
    stop, end = (found.start(), found.end()) if found else (len(upto.rstrip()), len(upto))
    if whole[:end] != upto[:end]:
        return None
    if thought:
        begins = max(at, thought) if content else thought
        start = thought if chat_noted(tokenizer).reasoning == "context" else start
    return _AnswerSpan(start, begins, stop, end if found else stop, found is not None)


def _thought_ends(row: Row, i: int, upto: str, start: int, tokenizer: Any) -> int:
    """Return where the reasoning of an answer ends, white space after it included; 0 where there is none."""
    thought = _thought(row, i, tokenizer)
    at = upto.find(thought, start) if thought else -1
    if at < 0:
        return 0
    end = at + len(thought)
    return end + len(upto[end:]) - len(upto[end:].lstrip())


def _thought(row: Row, i: int, tokenizer: Any) -> str:
    """Return the reasoning of a turn as it is rendered, "" where there is none."""
    dropped = chat_noted(tokenizer).reasoning == "drop"
    return "" if dropped else str(row.messages[i].said.get("reasoning_content", "")).strip()


def _last_special(upto: str, tokenizer: Any) -> re.Match[str] | None:
    """Return the special token that a text ends in, None where it ends in none."""
    found = list(special_pattern(tokenizer).finditer(upto))
    return found[-1] if found and not upto[found[-1].end() :].strip() else None


def _untold(row: Row, i: int, tokenizer: Any) -> UserError:
    """Return the error that says why a message's answer cannot be told from its prompt, and a way out that is
    one.
    """
    before, asked = (_chat(row, row.messages[:i], tokenizer, prompt=prompt) for prompt in (False, True))
    upto, last = _chat(row, row.messages[: i + 1], tokenizer), len(row.messages) - 1
    opens = opening(tokenizer)
    if asked.startswith(before) and upto.startswith(before) and not upto.startswith(asked):
        why = f"'s generation prompt ends with {opens[-40:]!r}, and this answer is rendered without it"
    else:
        why = " renders earlier turns differently once an answer follows"
    ways = (
        "another base or template (chat_template.jinja beside the tokenizer), "
        "or prompt_completion rows with data.render: plain"
    )
    if i < last and _is_told(row, last, tokenizer):
        ways = f"data.train_on: completions, {ways}"
    ways = "".join(f"{declared}, " for declared in _declared_ways(row, i, tokenizer)) + ways
    problem = f"the chat template{why}, so the answer of message {i} cannot be told from its prompt"
    return _row_error(row, problem, f"Use {ways}")


def _declared_ways(row: Row, i: int, tokenizer: Any) -> list[str]:
    """Return what may be declared by which the template tells an answer from its prompt."""
    options = chat_noted(tokenizer)
    silent = options._replace(kwargs={**options.kwargs, "enable_thinking": False})
    tried = {
        "data.chat_template_kwargs: {enable_thinking: false}": silent,
        "data.reasoning: drop": options._replace(reasoning="drop"),
    }
    try:
        return [way for way, other in tried.items() if _is_told(row, i, note_chat(tokenizer, other))]
    finally:
        note_chat(tokenizer, options)


def _is_told(row: Row, i: int, tokenizer: Any) -> bool:
    try:
        return _span(row, i, _chat(row, row.messages, tokenizer), tokenizer) is not None
    except UserError:
        return False


def _chat(row: Row, messages: tuple[Message, ...], tokenizer: Any, prompt: bool = False) -> str:
    """Render a conversation by the template. Raises UserError where it does not take it."""
    if not tokenizer.chat_template:
        raise _row_error(
            row,
            "the base model's tokenizer has no chat template, and this row is a conversation",
            "Use a chat model as the base, put chat_template.jinja beside its tokenizer, "
            "or declare prompt_completion rows",
        )
    try:
        return render_chat(messages, tokenizer, prompt=prompt, tools=row.tools)
    except (UserError, ImportError):
        raise
    except Exception as error:  # whatever a template can cause
        fix = (
            "Change the row, or use a base whose template takes it; "
            "prompts with completions need none with data.render: plain"
        )
        problem = f"the chat template refuses the row: {refusal(error, tokenizer)}"
        raise _row_error(row, problem, fix) from None


def eos_token(row: Row, tokenizer: Any) -> str:
    """Return the token that ends a text. Raises UserError for a tokenizer that has nothing to end it with."""
    if tokenizer.eos_token is None:
        fix = "Set eos_token in the base's tokenizer_config.json"
        raise _row_error(row, "the tokenizer has no end-of-sequence token", fix)
    return str(tokenizer.eos_token)


def _row_error(row: Row, problem: str, fix: str) -> UserError:
    return UserError(problem, file=row.named, field=f"record {row.identity.hex()[:16]}", fix=fix)
