"""Keeps answers of an audit as pages of this host, which the audit page of `ft-dagster ui` lists.

They name records by their identity, never by their text: nothing of a record stays in them once it is erased.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.settings import Settings

NAME = re.compile(r"(\d{8}T\d{6}\d{6}Z)-([a-z]+)-([a-z0-9.@-]{0,100})\.html")
LONGEST, DIGITS = 100, 12  # characters of what was asked about in a name, and of its digest
STAMP = "%Y%m%dT%H%M%S%fZ"


class KeptAnswer(NamedTuple):
    """Names a page. `question`: the command that was asked; `of`: what about."""

    name: str
    at: datetime
    question: str
    of: str


def folder_of(settings: Settings) -> Path:
    return settings.work_folder / "audit" / "answers"


def keep_answer(settings: Settings, question: str, of: str, page: str) -> Path:
    """Write a page, for this user alone, and return its file. Raises UserError where it cannot be written."""
    folder = folder_of(settings)
    slug = _shortened(re.sub(r"[^a-z0-9.@-]+", "-", of.lower()))
    file = folder / f"{datetime.now(UTC).strftime(STAMP)}-{question}-{slug}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as opened:
            opened.write(page)
    except OSError as error:
        problem = f"the answer cannot be kept: {error.strerror or error}"
        raise UserError(problem, file=file, fix="Leave out --save, or make room there") from None
    return file


def _shortened(slug: str) -> str:
    """Return at most LONGEST characters, told apart from others that begin so by a digest."""
    if len(slug) <= LONGEST:
        return slug
    digest = hashlib.sha256(slug.encode()).hexdigest()[:DIGITS]
    return f"{slug[: LONGEST - DIGITS - 1]}-{digest}"


def kept_answers(settings: Settings) -> list[KeptAnswer]:
    """Return the pages that were kept, the newest first."""
    folder = folder_of(settings)
    names = sorted((file.name for file in folder.iterdir()), reverse=True) if folder.is_dir() else []
    return [answer for name in names if (answer := _parsed(name)) is not None]


def kept_answer(settings: Settings, name: str) -> str | None:
    """Return a page; None where none has that name."""
    file = folder_of(settings) / name
    return file.read_text("utf-8") if _parsed(name) is not None and file.is_file() else None


def forget_answers_on(settings: Settings, identities: Collection[bytes]) -> None:
    """Remove the pages that name one of these records, by at least DIGITS digits of its identity."""
    named = [identity.hex()[:DIGITS] for identity in identities]
    for answer in kept_answers(settings):
        page = kept_answer(settings, answer.name) or ""
        if any(each in page for each in named):
            (folder_of(settings) / answer.name).unlink(missing_ok=True)


def _parsed(name: str) -> KeptAnswer | None:
    found = NAME.fullmatch(name)
    if found is None:
        return None
    try:
        at = datetime.strptime(found[1], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return KeptAnswer(name, at, found[2], found[3])
