"""Where an answer ends, for whoever writes one: a judged base or model, a look while training, a server.

Most templates end a turn with the tokenizer's end of sequence and print no date, and most tokenizers end no
text themselves. Of the others `chat_rules` says what an answer depends on beside prompt and weights, so that
answers by other rules are not mixed.
"""

from __future__ import annotations

from typing import Any

from ft_dagster.data.render import DATE, added_after, render_chat
from ft_dagster.data.rows import Message

_MARK = "ANSWER"
_DATED = ("strftime_now", "date_string")  # in a template that may print a date


def stop_token_ids(tokenizer: Any, declared: int | list[int] | None = None) -> list[int]:
    """Tokens that end an answer, sorted: the tokenizer's eos, the template's end of turn, those declared."""
    ids = set(declared if isinstance(declared, list) else [] if declared is None else [declared])
    ids |= {tokenizer.eos_token_id, _end_of_turn(tokenizer)} - {None}
    return sorted(ids)


def chat_rules(tokenizer: Any) -> dict[str, Any]:
    """`ends`: the tokens that end an answer, where eos is not the only one; `date`: what a template that may
    print one is given; `left_out`: how many tokens the tokenizer itself puts after what is asked. Empty for
    most.
    """
    rules: dict[str, Any] = {}
    ends = stop_token_ids(tokenizer)
    if set(ends) - {tokenizer.eos_token_id}:
        rules["ends"] = tokenizer.convert_ids_to_tokens(ends)
    if any(word in str(tokenizer.chat_template) for word in _DATED):
        rules["date"] = DATE
    if added := added_after(tokenizer):
        rules["left_out"] = added
    return rules


def _end_of_turn(tokenizer: Any) -> int | None:
    """The first special token that the chat template writes after an assistant's answer, if any."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    try:
        text = render_chat([Message("user", _MARK), Message("assistant", _MARK)], tokenizer)
    except (TemplateError, TypeError, ValueError):  # it takes no such conversation
        return None
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = tokenizer(text.rpartition(_MARK)[2], add_special_tokens=False)["input_ids"]
    return next((id_ for id_ in ids if id_ in special), None)
