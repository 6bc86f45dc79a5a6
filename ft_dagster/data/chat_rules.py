"""Where an answer ends, for whoever writes one: a judged base or model, a look while training, a server.

Most templates end a turn with the tokenizer's end of sequence and print no date, most bases declare no other
end, and most tokenizers end no text themselves. Of the others `chat_rules` says what an answer depends on
beside prompt and weights, so that answers by other rules are not mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ft_dagster.data.render import DATE, added_after, ends_known, refusal, render_chat
from ft_dagster.data.rows import Message
from ft_dagster.errors import UserError

SYSTEM = "You are a helpful assistant."  # before a question, where the template takes none without a system
_MARK = "4821"  # an answer that no template writes otherwise
_DATED = ("strftime_now", "date_string")  # in a template that may print a date


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an answer, sorted: the tokenizer's eos, the template's end of turn, and those that the
    base declares, which `render.load_tokenizer` notes.
    """
    return sorted({tokenizer.eos_token_id, _end_of_turn(tokenizer), *ends_known(tokenizer)} - {None})


def chat_rules(tokenizer: Any) -> dict[str, Any]:
    """`ends`: the tokens that end an answer, where eos is not the only one; `date`: what a template that may
    print one is given; `left_out`: how many tokens the tokenizer itself puts after what is asked. Empty for
    most.
    """
    rules: dict[str, Any] = {}
    ends = stop_token_ids(tokenizer)
    if set(ends) - {tokenizer.eos_token_id}:
        rules["ends"] = tokenizer.convert_ids_to_tokens(ends)
    if any(word in _template(tokenizer) for word in _DATED):
        rules["date"] = DATE
    if added := added_after(tokenizer):
        rules["left_out"] = added
    return rules


def render_asked(turns: Sequence[Message], tokenizer: Any, *, prompt: bool = True) -> str:
    """Turns in the chat template, up to where the next answer begins; after a system turn where the template
    takes them with one alone. Raises UserError where it refuses both.
    """
    from jinja2 import TemplateError

    refused: list[str] = []
    tried = [turns] if turns[0].role == "system" else [turns, [Message("system", SYSTEM), *turns]]
    for each in tried:
        try:
            return render_chat(each, tokenizer, prompt=prompt)
        except (TemplateError, TypeError, ValueError) as error:
            refused.append(refusal(error, tokenizer))
    raise UserError(
        f"the base's chat template refuses a question: {refused[0]}",
        field="base_model",
        fix="Use a base whose template takes a user's turn, alone or after a system turn",
    )


def _template(tokenizer: Any) -> str:
    """By which chats are rendered; "" where there is none, or none by default."""
    try:
        return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    except ValueError:
        return ""


def _end_of_turn(tokenizer: Any) -> int | None:
    """The first special token that the chat template writes after an assistant's answer, if any."""
    if not tokenizer.chat_template:
        return None
    try:
        text = render_asked([Message("user", _MARK), Message("assistant", _MARK)], tokenizer, prompt=False)
    except UserError:  # it takes no such conversation
        return None
    _, found, after = text.rpartition(_MARK)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    return next((id_ for id_ in ids if id_ in special), None)
