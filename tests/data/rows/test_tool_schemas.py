"""A schema that comes with rows holds what it says, and holds nobody up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from ft_dagster.data.files import time_limit
from ft_dagster.data.rows import tool_schemas
from ft_dagster.data.rows.tool_schemas import UNUSABLE, takes, why_not
from ft_dagster.errors import UserError

SLOW = "(a+)+$"
LONG = "a" * 60 + "!"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
SLOW_SCHEMAS = {
    "a pattern": ({"properties": {"a": {"pattern": SLOW}}}, {"a": LONG}, "'pattern'"),
    "a pattern of names": (
        {"patternProperties": {SLOW: {"type": "null"}}, "additionalProperties": False},
        {LONG: 1},
        "'additionalProperties'",
    ),
    "names that a pattern does not name": (
        {"patternProperties": {SLOW: {}}, "additionalProperties": {"type": "null"}},
        {LONG: 1},
        "'type'",
    ),
    "an older dialect": (
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"pattern": SLOW}}},
        {"a": LONG},
        "'pattern'",
    ),
    "a dialect within another": (
        {"properties": {"a": {"$schema": DRAFT_7, "pattern": SLOW}}},
        {"a": LONG},
        "'pattern'",
    ),
    "a dialect that is referred to": (
        {
            "$ref": "#/$defs/d",
            "$defs": {
                "d": {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": [{"pattern": SLOW}]}
            },
        },
        LONG,
        "'pattern'",
    ),
    "a large pattern in a long text": (
        {"pattern": "(?:[a-z]{1,100}){1,500}x"},
        "a" * 100_000,
        "a pattern that is too large for a text so long",
    ),
    "names that are left": (
        {"patternProperties": {SLOW: {}}, "unevaluatedProperties": False},
        {LONG: 1},
        "unevaluatedProperties beside patternProperties",
    ),
}
CHILD = """
import json, sys
from ft_dagster.data.rows.tool_schemas import why_not
print(why_not(*json.loads(sys.stdin.read())))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_SCHEMAS)
def test_a_pattern_that_goes_back_and_forth_ends(name: str) -> None:
    """In a process of its own, which is ended where it does not."""
    schema, value, said = SLOW_SCHEMAS[name]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps([value, schema]),
        check=True, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said in done.stdout


@pytest.mark.parametrize(
    ("schema", "value", "broken"),
    [
        ({"pattern": "b$"}, "a b", None),
        ({"pattern": "^b"}, "a b", "pattern"),
        ({"pattern": r"^\d{4}-\d{2}$"}, "2026-12", None),
        ({"pattern": r"^\p{L}+$"}, "Łódź", None),
        ({"pattern": "b"}, 7, None),
        ({"patternProperties": {"^n": {"type": "integer"}}}, {"n1": "a", "b": "a"}, "type"),
        ({"patternProperties": {"^n": {"type": "integer"}}}, {"n1": 1, "b": "a"}, None),
        ({"patternProperties": {"^n": {}}, "additionalProperties": False}, {"n1": 1}, None),
        ({"patternProperties": {"^n": {}}, "additionalProperties": False}, {"b": 1}, "additionalProperties"),
        (
            {"properties": {"b": {}}, "patternProperties": {"^n": {}}, "additionalProperties": False},
            {"b": 1, "n": 2},
            None,
        ),
        (
            {"patternProperties": {"^n": {}}, "additionalProperties": {"type": "null"}},
            {"n": 1, "b": 2},
            "type",
        ),
        ({"additionalProperties": {"type": "null"}}, {"b": 2}, "type"),
    ],
)
def test_patterns_say_what_json_schema_says(schema: Any, value: Any, broken: str | None) -> None:
    assert why_not(value, schema) == (
        f"its arguments break {broken!r} of the tool's schema" if broken else ""
    )


@pytest.mark.parametrize("pattern", ["(?!a)", "(?<=a)", r"(a)\1", "(", "a++", r"\Aa", r"\B", "[a", "\\"])
def test_a_pattern_that_needs_another_engine_is_named(pattern: str) -> None:
    said = why_not({"a": "b"}, {"properties": {"a": {"pattern": pattern}}})
    assert said.startswith(f"{UNUSABLE} (a pattern that looks around or back")


@pytest.mark.parametrize(
    ("pattern", "held", "broken"),
    [
        (r"^\d$", "1", "\u0663"),
        (r"^[\d.]+$", "1.2", "\u0663"),
        (r"^[^\d]$", "\u0663", "1"),
        (r"^\D$", "\u0663", "1"),
        (r"^\w+$", "ab_1", "é"),
        (r"^\W$", "é", "a"),
        (r"\bfoo\b", "éfoo", "afoo"),
        (r"^\s$", "\ufeff", "\u0085"),
        (r"^[\S]$", "\u0085", "\u2028"),
        ("^a.b$", "a\u0085b", "a\rb"),
        ("^.$", "\U0001f600", "\u2028"),
        ("^[a&&b]$", "&", "c"),
        ("^[a-z&&[aeiou]]$", "b]", "b"),
        ("^[[a]$", "[", "b"),
        ("^[+--]$", ",", "."),
        (r"^[\w-]$", "-", "."),
        (r"^[\w-.]$", ".", "/"),
        (r"^[a-\d]$", "-", "b"),
        (r"^[a-c-e]$", "-", "d"),
        (r"^[\x41-\u0043]$", "B", "-"),
        ("^[a~~b]$", "~", "c"),
        ("^[^]$", "\n", ""),
        (r"^[\b]$", "\b", "b"),
        (r"^\cJ\0$", "\n\0", "J0"),
        (r"^\uD83D\uDE00\u{1F600}\x41$", "\U0001f600\U0001f600A", "A"),
        (r"^\/\-\#$", "/-#", r"\/"),
        ("^{}$", "{}", ""),
        (r"^\w{1,255}$", "a" * 255, "a" * 256),
        (r"^(?<y>\d{4})(?:-\d\d)??$", "2026-12", "2026-1"),
    ],
)
def test_letters_of_a_pattern_mean_what_they_mean_in_ecma_262(pattern: str, held: str, broken: str) -> None:
    assert why_not(held, {"pattern": pattern}) == ""
    assert why_not(broken, {"pattern": pattern}) == "its arguments break 'pattern' of the tool's schema"


def of_references(levels: int) -> dict[str, Any]:
    """A schema that is held 2**levels times."""
    below = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**below, f"d{levels}": {}}}


ENDLESS = {
    "references within references": (of_references(40), {}),
    "a long list of unlike members": ({"items": {}, "uniqueItems": True}, [{"n": n} for n in range(30_000)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_a_schema_that_does_not_end_is_one_user_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, seconds in (("SECONDS", 0.2), ("EACH", 0.0), ("TICK", 0.01)):
        monkeypatch.setattr(time_limit, constant, seconds)
    monkeypatch.setattr(tool_schemas, "_ACCOUNT", time_limit.Account(0.2))
    schema, value = ENDLESS[name]
    with pytest.raises(UserError, match=r"a tool takes more than 0\.2 seconds") as refused:
        why_not(value, schema)
    assert refused.value.field == "tools"


def test_one_tenants_schema_leaves_time_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_schemas, "_ACCOUNT", time_limit.Account(0.0))
    assert why_not({}, of_references(3)) == ""


def test_what_threads_took_at_once_is_not_taken_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads at one hostile schema each may leave an account that twenty seconds are missing of."""
    monkeypatch.setattr(time_limit, "TICK", 0.0)
    monkeypatch.setattr(tool_schemas, "_ACCOUNT", time_limit.Account(-20.0))
    for number in range(300):
        assert why_not(number, of_references(2)) == ""
    assert tool_schemas._ACCOUNT.left > 0


def test_a_schema_is_made_once_of_however_many_calls() -> None:
    schema = {"properties": {"a": {"type": "string", "title": "made once"}}}
    made = tool_schemas._compiled.cache_info().misses
    assert [why_not({"a": value}, dict(schema)) for value in ("b", "c", 1)][:2] == ["", ""]
    assert tool_schemas._compiled.cache_info().misses == made + 1


def test_an_argument_is_held_against_its_own_part_of_the_schema() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"pattern": "^b"}}}
    assert takes("b", schema, "a")
    assert not takes("c", schema, "a")
    assert takes("c", schema, "other")
