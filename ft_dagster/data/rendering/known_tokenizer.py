"""Remembers on this host what was asked of a base's tokenizer: the libraries that load one take seconds to
import.

A question is known by the bytes that a tokenizer is loaded from, the versions of the libraries that load it
and render by it, and this package's code that renders. No refusal is remembered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from ft_dagster.data.rendering.chat_rules import chats
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rendering.special_tokens import pattern_of, special_words
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import SETTINGS, tokenizer_files
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.findings import remembered
from ft_dagster.provenance.hash_cache import cached_digests

LIBRARIES = ("transformers", "tokenizers", "jinja2")
CODE = ("data/rendering", "objectives")
PACKAGE = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class KnownTokenizer:
    """Is the tokenizer of a model folder. `cache`: where answers are remembered; None: nowhere. Each method
    raises UserError for one that does not load.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self.folder, self.cache = folder, cache

    @cached_property
    def loaded(self) -> Any:
        """Return it as transformers loads it: by its class, where that is known, since the search for the
        class imports torch.
        """
        first = list[Any]()

        def find() -> list[str] | None:
            first.append(load_tokenizer(self.folder))
            return _class_alone(first[0], self.folder)

        named = remembered(self.cache, self._asked({"class": 1}), find)
        return first[0] if first else load_tokenizer(self.folder, kind=named and _imported(*named))

    def learn(self) -> None:
        """Load it, unless it was loaded on this host before."""
        _ = self._traits

    @property
    def chats(self) -> bool:
        """Say whether chats are rendered by a template."""
        return self._traits[0]

    def holds_control_tokens(self, row: Row) -> bool:
        """Say whether the row's own words hold a special token, see `render.has_control_tokens`."""
        return self._special.search(row.whole_text) is not None

    def answer(self, question: Mapping[str, Any], find: Callable[[Any], T]) -> T:
        """Return what `find` makes of the loaded tokenizer, plain JSON, or made of it before. `question`: all
        else that it depends on.
        """
        return remembered(self.cache, self._asked(question), lambda: find(self.loaded))

    def _asked(self, question: Mapping[str, Any]) -> dict[str, Any]:
        return {**question, "tokenizer": self._digest, "by": _makers()}

    @cached_property
    def _digest(self) -> str:
        """Return the digest of the files that a tokenizer is loaded from, config.json among them."""
        names = sorted([*tokenizer_files(self.folder), *(n for n in SETTINGS if (self.folder / n).is_file())])
        found = cached_digests([self.folder / name for name in names], self.cache)
        return sha256_json(dict(zip(names, found, strict=True)))

    @cached_property
    def _traits(self) -> tuple[bool, Sequence[str]]:
        found = self.answer({"traits": 1}, lambda tokenizer: [chats(tokenizer), special_words(tokenizer)])
        return bool(found[0]), found[1]  # type: ignore[return-value]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return pattern_of(self._traits[1])


def _class_alone(tokenizer: Any, folder: Path) -> list[str] | None:
    """Return the module and the name of a tokenizer's class, where the class by itself loads the same."""
    kind = type(tokenizer)
    try:
        alone = load_tokenizer(folder, kind=kind)
    except UserError:
        return None
    return [kind.__module__, kind.__name__] if _state(alone) == _state(tokenizer) else None


def _state(tokenizer: Any) -> tuple[str, str]:
    """Return all that a tokenizer holds, as text."""
    held = {name: value for name, value in vars(tokenizer).items() if name != "_tokenizer"}
    return tokenizer.backend_tokenizer.to_str(), repr(held)


def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


@cache
def _makers() -> dict[str, str]:
    """Return the versions of the libraries, and a digest of the code that renders."""
    code = hashlib.sha256()
    for folder in CODE:
        for file in sorted((PACKAGE / folder).glob("*.py")):
            code.update(hashlib.sha256(file.read_bytes()).digest())
    return {"code": code.hexdigest(), **{name: _version(name) for name in LIBRARIES}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
