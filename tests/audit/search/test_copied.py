"""A record is found however it was copied, and what nobody saw is not."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.audit.answers import RecordAnswer
from ft_dagster.audit.records import record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from tests.audit.histories import History

pytestmark = pytest.mark.slow
QUESTION = 'Where is the Zürich café number {}?\nPlease be "exact".'
ANSWER = "In street {}, behind the mill."


def turns(number: int, system: str = "") -> list[dict[str, str]]:
    said = [("system", system), ("user", QUESTION.format(number)), ("assistant", ANSWER.format(number))]
    return [{"role": role, "content": text} for role, text in said if text]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RecordAnswer]:
    made = History(tmp_path_factory.mktemp("copied") / "project")
    made.dataset("acme.one", [{"id": n, "messages": turns(n)} for n in range(20)])
    made.dataset("acme.two", [{"messages": turns(n, "Be a pirate.")} for n in range(100, 120)])
    audit = made.audit()

    def answer(given: str) -> RecordAnswer:
        asked = parse_record(given, audit.readings())
        return replace(record(audit, asked), search=look_through(audit, asked).search)

    return answer


def as_json(content: Any, **options: Any) -> str:
    return json.dumps(content, ensure_ascii=False, **options)


ROW = {"id": 4, "messages": turns(4)}
REVERSED = {"messages": [dict(reversed(turn.items())) for turn in turns(4)]}
EQUAL = {
    "its turns alone": as_json(turns(4)),
    "an element of a list": f"{as_json(ROW)},\n",
    "over several lines": as_json(ROW, indent=2),
    "between quotes of a shell": f"'{as_json(ROW)}'",
    "as Python shows it": repr(ROW),
    "its fields alone": as_json(ROW)[1:-1],
    "a list of one": as_json([ROW]),
    "within what says more of it": as_json({"row_idx": 4, "row": ROW}),
    "in another order of keys": as_json(REVERSED),
    "decomposed": unicodedata.normalize("NFD", as_json(ROW)),
    "after a byte order mark": f"\ufeff{as_json(ROW)}\r\n",
}
INSIDE = {
    "a text as JSON has it": json.dumps(QUESTION.format(4)),
    "the same without its quotes": json.dumps(QUESTION.format(4))[1:-1],
    "the question alone": as_json({"messages": turns(4)[:1]}),
    "without the last turn": as_json({"messages": turns(104, "Be a pirate.")[:2]}),
    "without the system turn": as_json({"messages": turns(104)}),
    "with one of an application": as_json({"messages": turns(4, "You are my bank.")}),
    "roles of another name": as_json(
        {"messages": [{**turn, "role": f"x-{turn['role']}"} for turn in turns(4)]}
    ),
    "one turn below the other": f"{QUESTION.format(4)}\n{ANSWER.format(4)}",
    "turns with labels": f"User: {QUESTION.format(4)}\nAssistant: {ANSWER.format(4)}",
    "turns beside each other": f"{QUESTION.format(4)}\t{ANSWER.format(4)}",
    "from a page": "<p>Where is the Z&uuml;rich</p>\n<p>café number 4?</p>",
}


@pytest.mark.parametrize("given", EQUAL.values(), ids=EQUAL)
def test_a_row_is_found_however_it_was_copied(told: Callable[[str], RecordAnswer], given: str) -> None:
    assert told(given).equal


@pytest.mark.parametrize("given", INSIDE.values(), ids=INSIDE)
def test_what_a_row_contains_is_found_however_it_was_copied(
    told: Callable[[str], RecordAnswer], given: str
) -> None:
    found = told(given)
    assert found.seen
    assert found.search is not None
    assert found.search.rows == 1


@pytest.mark.parametrize("given", [*EQUAL.values(), *INSIDE.values()], ids=[*EQUAL, *INSIDE])
def test_the_same_with_other_words_was_never_seen(told: Callable[[str], RecordAnswer], given: str) -> None:
    for one, other in (("Where", "When"), ("number", "chapter")):
        given = given.replace(one, other)
    assert told(given).seen is False
