"""Tells where an answer ends, for whoever writes one: a judged base or model, a look while training, a
server.

Most templates end a turn with the tokenizer's end of sequence and print no date, most bases declare no other
end, and most tokenizers end no text themselves. Of the others `chat_rules` says what an answer depends on
beside prompt and weights, so that answers by other rules are not mixed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ft_dagster.data.rendering.chat_template import DATE, MARK, lead_of, render_asked
from ft_dagster.data.rendering.render import added_after, ends_known
from ft_dagster.data.rendering.time_limit import EndlessTemplate
from ft_dagster.data.rows.rows import Message
from ft_dagster.errors import UserError

_DATED = ("strftime_now", "date_string")  # in a template that may print a date


class ChatTraits(NamedTuple):
    """Says what a base's chat template makes of rows beside their own texts. `chats`: whether there is one.
    `lead`: see `lead_of`. `ends`: whether it marks where a turn ends.
    """

    chats: bool
    lead: str
    ends: bool


def chat_traits(tokenizer: Any) -> ChatTraits:
    return ChatTraits(chats(tokenizer), lead_of(tokenizer), _end_of_turn(tokenizer) is not None)


def chats(tokenizer: Any) -> bool:
    """Say whether chats are rendered by a template; nothing is rendered to find out."""
    return bool(_template(tokenizer))


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer, sorted: the tokenizer's eos, the template's end of turn, and
    those that the base declares, which `render.load_tokenizer` notes.
    """
    return sorted({tokenizer.eos_token_id, _end_of_turn(tokenizer), *ends_known(tokenizer)} - {None})


def chat_rules(tokenizer: Any) -> dict[str, object]:
    """Return the rules that an answer depends on beside prompt and weights; empty for most. `ends`: the
    tokens that end an answer, where eos is not the only one; `date`: what a template that may print one is
    given; `left_out`: how many tokens the tokenizer itself puts after what is asked.
    """
    rules: dict[str, object] = {}
    ends = stop_token_ids(tokenizer)
    if set(ends) - {tokenizer.eos_token_id}:
        rules["ends"] = tokenizer.convert_ids_to_tokens(ends)
    if any(word in _template(tokenizer) for word in _DATED):
        rules["date"] = DATE
    if added := added_after(tokenizer):
        rules["left_out"] = added
    return rules


def _template(tokenizer: Any) -> str:
    """Return the template that renders chats; "" where there is none, or none by default."""
    try:
        return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    except ValueError:
        return ""


def _end_of_turn(tokenizer: Any) -> int | None:
    """Return the first special token that the chat template writes after an assistant's answer, if any."""
    if not tokenizer.chat_template:
        return None
    try:
        text = render_asked([Message("user", MARK), Message("assistant", MARK)], tokenizer, prompt=False)
    except EndlessTemplate:
        raise
    except UserError:  # it takes no such conversation
        return None
    _, found, after = text.rpartition(MARK)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    return next((id_ for id_ in ids if id_ in special), None)
