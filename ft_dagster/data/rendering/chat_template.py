"""Renders turns by the chat template of a base, and tells what the template writes beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from ft_dagster.data.rendering.chat_form import ChatForm, chat_noted, form_of, kept_on, tools_in, turns_of
from ft_dagster.data.rendering.special_tokens import special_pattern
from ft_dagster.data.rendering.time_limit import EndlessTemplate, in_time
from ft_dagster.data.rows.rows import Message
from ft_dagster.errors import UserError
from ft_dagster.strict_json import JsonObject

DATE = "26 Jul 2024"  # what templates that print today's date get, as `date_string` too
SYSTEM = "You are a helpful assistant."  # before a question, where the template takes none without a system
_MISSING = re.compile(r"has no (?:attribute|element) '(\w+)'$")  # in the words of Jinja
MARK = "4821"  # a text that no template writes otherwise
LONGEST_LEAD = 1000  # characters: it stands in keys, and is looked for in each answer


def refusal(error: Exception, tokenizer: Any) -> str:
    """Say why a template refuses turns: in its own words where they stand in it as they are, for what it puts
    together may quote a row; by the field that it reads and that is missing; else by the kind of the error.
    """
    said, template = str(error).strip(), str(tokenizer.chat_template)
    if said and said in template:
        return said.rstrip(".")
    missing = _MISSING.search(said)
    if missing is not None and re.search(rf"\b{missing[1]}\b", template):
        return f"it reads {missing[1]!r}, which is missing there"
    return type(error).__name__


def render_chat(messages: Sequence[Message], tokenizer: Any, *, prompt: bool = False, tools: str = "") -> str:
    """Render a conversation through apply_chat_template's own renderer, without its checks for tools and
    images.

    `prompt`: up to where the next answer begins. `tools`: of the row, as JSON. Raises what the template
    raises, and EndlessTemplate.
    """

    def rendered() -> str:
        turns = turns_of(messages, chat_noted(tokenizer), _form(tokenizer))
        return _render_turns(tokenizer, turns, tools_in(tools), prompt=prompt)

    return in_time(tokenizer, rendered)


def takes_calls(tokenizer: Any) -> bool:
    """Say whether the template writes calls of tools, in whatever form. Raises EndlessTemplate."""
    return in_time(tokenizer, lambda: _form(tokenizer).calls is not None)


def _form(tokenizer: Any) -> ChatForm:
    """Return in which form the template takes turns."""
    return kept_on(tokenizer, "form", lambda: form_of(partial(_render_turns, tokenizer)))


def _render_turns(
    tokenizer: Any, turns: list[JsonObject], tools: list[JsonObject] | None, *, prompt: bool = False
) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts: list[str]
    texts, _ = render_jinja_template(
        conversations=[turns],
        tools=tools,
        chat_template=_dateless(tokenizer.get_chat_template()),
        add_generation_prompt=prompt,
        **{**tokenizer.special_tokens_map, "date_string": DATE, **chat_noted(tokenizer).kwargs},
    )
    return texts[0]


def render_asked(turns: Sequence[Message], tokenizer: Any, *, prompt: bool = True) -> str:
    """Render turns in the chat template, up to where the next answer begins; a system turn comes first where
    the template takes them with one alone. Raises UserError where it refuses both.
    """
    refused: list[str] = []
    tried = [turns] if turns[0].role == "system" else [turns, [Message("system", SYSTEM), *turns]]
    for each in tried:
        try:
            return render_chat(each, tokenizer, prompt=prompt)
        except (UserError, ImportError):
            raise
        except Exception as error:  # whatever a template can cause
            refused.append(refusal(error, tokenizer))
    raise UserError(
        f"the base's chat template refuses a question: {refused[0]}",
        field="base_model",
        fix="Use a base whose template takes a user's turn, alone or after a system turn",
    )


def opening(tokenizer: Any) -> str:
    """Return the generation prompt, of a question that is no row's."""
    try:
        before, asked = (
            render_asked([Message("user", MARK)], tokenizer, prompt=prompt) for prompt in (False, True)
        )
    except UserError:
        return ""
    return asked.removeprefix(before)


def lead_of(tokenizer: Any) -> str:
    """Return what the chat template itself writes between a prompt and an answer, such as an empty block of
    thought, or the beginning of a turn that it does not write for a prompt. Empty for most, and where it is
    white space.
    """
    return kept_on(tokenizer, "lead", lambda: _find_lead(tokenizer))


def _find_lead(tokenizer: Any) -> str:
    asked, answer = Message("user", MARK), Message("assistant", MARK)
    try:
        before = render_asked([asked], tokenizer)
        whole = render_asked([asked, answer], tokenizer, prompt=False)
    except EndlessTemplate:
        raise
    except UserError:  # it takes no such conversation, or there is none
        return ""
    lead = whole[len(before) : max(len(before), whole.rfind(MARK))] if whole.startswith(before) else ""
    return lead if lead.strip() and len(lead) <= LONGEST_LEAD else ""


def lead_at(text: str, place: int, tokenizer: Any) -> str:
    """Return the lead, where it stands at this place."""
    lead = lead_of(tokenizer)
    return lead if text.startswith(lead, place) else ""


def without_specials(text: str, tokenizer: Any) -> str:
    """Return a rendered text as it is when its tokens are decoded without the special ones."""
    return special_pattern(tokenizer).sub("", text)


def without_lead(lead: str, answer: str) -> str:
    """Return what is written after the template's own words, without special tokens, however these are
    spaced.
    """
    words = r"\s*".join(map(re.escape, lead.split()))
    return re.sub(rf"\A\s*{words}\s*", "", answer) if words else answer


def _dateless(template: str) -> str:
    """Return the template with `strftime_now` shadowed, so that the same row gives the same tokens on every
    day.
    """
    if "strftime_now" not in template:
        return template
    return f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n{template}"
