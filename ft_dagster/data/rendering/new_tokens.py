"""Adds a variant's tokens to its base's vocabulary: which are refused, and how a tokenizer takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ft_dagster.data.rendering.chat_template import render_chat
from ft_dagster.data.rows.rows import Message
from ft_dagster.errors import UserError

FIELD = "base_model.new_tokens"
WAY_OUT = "Leave it out, or add a token that ordinary text does not have, such as <|name|>"
SENTENCE = "The permit for a small building, no. 12, is given within thirty days.\n"


def check_tokens(tokens: Sequence[str], *, file: object = None) -> None:
    """Raises UserError for a token that is empty, whitespace alone, or given twice."""
    for number, token in enumerate(tokens):
        if not token.strip():
            raise _refused("an empty token, or whitespace alone", token, file, "Leave it out")
        if token in tokens[:number]:
            raise _refused("the token is given twice", token, file, "Name it once")


def pieces_of(tokens: Sequence[str], tokenizer: Any, *, file: object = None) -> list[list[int]]:
    """Return the ids into which `tokenizer`, not yet extended, splits each token: at least two.

    Raises UserError for a token that its vocabulary has already, or that stands in an ordinary sentence or in
    the chat template, and those of `check_tokens`.
    """
    check_tokens(tokens, file=file)
    vocabulary, ordinary = tokenizer.get_vocab(), f"{SENTENCE}{_chat(SENTENCE, tokenizer)}"
    pieces = []
    for token in tokens:
        ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
        if token in vocabulary or (len(ids) == 1 and ids[0] != tokenizer.unk_token_id):
            fix = "Leave it out: the base knows it as one token already"
            raise _refused("the token is in the base's vocabulary already", token, file, fix)
        if not ids:
            raise _refused("the base's tokenizer sees nothing in it", token, file, "Write it otherwise")
        if token in ordinary:
            problem = "the token stands in an ordinary sentence, or in the base's chat template"
            raise _refused(problem, token, file, WAY_OUT)
        pieces.append(ids)
    return pieces


def extend_tokenizer(source: Path, tokens: Sequence[str], target: Path, *, file: object = None) -> list[int]:
    """Write the tokenizer of folder `source`, with `tokens` as ordinary ones, to `target`; returns their ids.

    `tokens` are those that `pieces_of` takes. What was written is loaded again and tried. Raises UserError
    where one is not read as one token, or other text not as before.
    """
    from tokenizers import AddedToken

    from ft_dagster.data.rendering.render import load_tokenizer

    tokenizer = load_tokenizer(source)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    tokenizer.save_pretrained(target)
    before, after = load_tokenizer(source), load_tokenizer(target)
    ids: list[int] = after.convert_tokens_to_ids(list(tokens))
    for token, id_ in zip(tokens, ids, strict=True):
        if not _is_one(token, id_, after):
            fix = "Choose a token without the characters that this tokenizer changes (accents, odd spaces)"
            raise _refused("the base's tokenizer does not read it as one token", token, file, fix)
    texts = (SENTENCE, _chat(SENTENCE, before))
    if any(before(text)["input_ids"] != after(text)["input_ids"] for text in texts):
        raise UserError(
            "the tokenizer reads other text differently once tokens are added",
            file=source,
            field=FIELD,
            fix="Save the base's tokenizer once as a fast one with this transformers, and name that folder",
        )
    return ids


def refuse_said(tokens: Sequence[str], texts: Iterable[str], named: str, file: object = None) -> None:
    """Raises UserError where a token stands in any of the texts, which are called `named`: as characters, by
    which a tokenizer finds it. The base would read these otherwise than it learned to, so that nobody saw
    what a model forgets of them.
    """
    counted, looked_at = Counter[str](), 0
    for text in texts:
        counted.update(token for token in tokens if token in text)
        looked_at += 1
    if not counted:
        return
    [(token, found), *others] = counted.most_common()
    more = f", and {len(others)} more of the tokens in others" if others else ""
    problem = f"the token stands in {found} of {looked_at} {named}{more}: the base would read them otherwise"
    raise _refused(problem, token, file, WAY_OUT)


def _is_one(token: str, id_: int, tokenizer: Any) -> bool:
    """Say whether a token is one id alone, inside a word, in a sentence and in a conversation, and gives the
    same text back.
    """
    alone = tokenizer(token, add_special_tokens=False)["input_ids"]
    inside = [f"x{token}y", f"a {token} b", _chat(f"a {token} b", tokenizer)]
    found = [tokenizer(text, add_special_tokens=False)["input_ids"].count(id_) for text in inside]
    return alone == [id_] and found == [1, 1, 1] and tokenizer.decode([id_]).strip() == token.strip()


def _chat(text: str, tokenizer: Any) -> str:
    """Return the text as a user's turn, where the tokenizer has a template that takes one."""
    if not tokenizer.chat_template:
        return text
    try:
        return render_chat([Message("user", text)], tokenizer, prompt=True)
    except (UserError, ImportError):
        raise
    except Exception:  # whatever a template can cause
        return text


def _refused(problem: str, token: str, file: object, fix: str) -> UserError:
    return UserError(problem, file=file, field=FIELD, value=token, fix=fix)
