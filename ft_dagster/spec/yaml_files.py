"""Read YAML that people write: safe types, no key twice, and bounds on what a small file can grow into."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.errors import UserError
from ft_dagster.files import read_text

DEEPEST = 64  # levels of nesting: what reads the tree may recurse
LARGEST = 4_000_000  # bytes of a file
LONGEST_INT = 40  # digits
FIELDS = "Write a field on each line, as `name: value`"
MOST_VALUES = 200_000  # with aliases written out, which let ten lines stand for a billion values

SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times faster, where it is


class UniqueKeys(SafeLoader):
    """Loads YAML safely, and refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _at(key_node, "a key is a plain name, not a list or a mapping")
            if key in seen:
                raise _at(key_node, f"the key {key!r} is given twice")
            seen.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_yaml(
    file: Path, loader: Any = UniqueKeys, *, empty: bool = False, fix: str = FIELDS
) -> dict[str, Any]:
    """Load a mapping safely; with `empty`, an empty file is one without fields. `fix`: the way out where it
    is none.

    Raises UserError for a file that is no regular text file, duplicate keys, broken syntax, too many levels
    or values, another type than a mapping.
    """
    content = load_yaml(file, loader)
    if content is None and empty:
        return {}
    if not isinstance(content, dict):
        what = "empty" if content is None else "not a mapping of fields"
        raise UserError(what, file=file, fix=fix)
    return content


def load_yaml(file: Path, loader: Any) -> Any:
    """Return the content of a YAML file, of any type. Raises UserError as `read_yaml` does."""
    text = read_text(file, most=LARGEST)
    try:
        _check_depth(text, loader)
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        line = None if mark is None else mark.line + 1
        raise UserError(str(problem), file=file, line=line, fix=_fix(str(problem), text, mark)) from None
    except (ValueError, OverflowError) as error:  # of impossible dates and endless numbers
        raise UserError(f"a value that YAML cannot read: {error}", file=file, fix="Mend the YAML") from None
    except (TypeError, AttributeError, KeyError):  # of a `!!tag` on another kind of value
        raise UserError("a value that does not fit its tag", file=file, fix="Leave out the tag") from None


def _fix(problem: str, text: str, mark: Any) -> str:
    """Return the way out of what breaks YAML most often."""
    line = "" if mark is None else "".join(text.splitlines()[mark.line : mark.line + 1])
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "Indent by spaces, not by a tab"
    if "characters are not allowed" in problem:
        return "Save it as text in UTF-8, or write it anew: it holds bytes that are no text"
    if "{{" in line:
        return "Write the value itself: templates are not filled in here"
    if "another document" in problem:
        return "Leave out the line ---: a file holds one document"
    if "could not determine a constructor" in problem:
        return "Write a plain value, without the tag"
    if problem.startswith("mapping values"):
        return "Quote a text that has a colon in it, and indent fields of one part alike"
    if problem.startswith("did not find expected"):
        return "Indent fields of one part alike, and close each bracket and quote"
    return "Mend the YAML"


def _check_depth(text: str, loader: Any) -> None:
    """Check the depth from the events alone: the parser keeps a list, what comes after it recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise _at(event, f"nested more than {DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_size(root: yaml.Node) -> None:
    """Refuse aliases that stand for too many values or for what holds them, and unwritable texts."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise _at(node, "an alias stands for what it is part of")
        if id(node) not in sizes:
            if isinstance(node, yaml.ScalarNode):
                _check_scalar(node)
                sizes[id(node)] = 1
            else:
                mapping = isinstance(node, yaml.MappingNode)
                below = [part for pair in node.value for part in pair] if mapping else node.value
                inside = above | {id(node)}
                sizes[id(node)] = 1 + sum(size(part, inside) for part in below)
            if sizes[id(node)] > MOST_VALUES:
                raise _at(node, f"more than {MOST_VALUES:,} values, its aliases written out")
        return sizes[id(node)]

    size(root, frozenset())


def _check_scalar(node: yaml.ScalarNode) -> None:
    text = node.value
    if node.tag.endswith(":str"):
        if "\0" in text:
            raise _at(node, "a text with a NUL character")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise _at(node, "a text with half of a surrogate pair")
    elif node.tag.endswith(":int") and len(text) > LONGEST_INT:
        raise _at(node, f"a whole number of more than {LONGEST_INT} digits")


def _at(place: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, place.start_mark)
