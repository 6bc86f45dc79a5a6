"""`ft-dagster init` infers a declaration from the first rows, or asks for it in a terminal."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ft_dagster.cli import app
from ft_dagster.data.rows.infer import infer_fields
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.rows.splits import SPLITS, split_at
from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.spec.variant import VariantSpec
from tests.long import mostly_long
from tests.spec.small_base import lay_base

pytestmark = pytest.mark.slow

KEY = VariantKey("acme", "support")
DESKS = ("billing", "delivery", "support")
Fill = Callable[[int], Sequence[str]]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    return lay_base(tmp_path / "base", 135_000)


def write(columns: Sequence[str], fill: Fill, rows: int = 400, separator: str = ",") -> str:
    with open("rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([columns, *map(fill, range(rows))])
    return "rows.csv"


def answers(number: int) -> Sequence[str]:
    return f"Where is letter {number}?", f"Letter {number}, it lies on desk {number % 7}.", "north"


def labels(number: int) -> Sequence[str]:
    return f"Letter {number} never came.", DESKS[number % 3]


def init(data: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["init", "mine", "--base-model", "base", "--data", data, *more])


def declared(done: Result) -> VariantSpec:
    assert done.exit_code == 0, (done.output, done.exception)
    return load_variant(Path("mine"), KEY).spec


def error_of(done: Result) -> UserError:
    assert isinstance(done.exception, UserError), done.output
    assert not Path("mine").exists()
    return done.exception


def test_columns_of_other_names_are_mapped_and_what_is_not_read_is_said() -> None:
    done = init(write(("Question", "Answer", "Region"), answers))
    spec = declared(done)
    assert spec.data.sources[0].fields == {"instruction": "Question", "output": "Answer"}
    assert "your columns: Question as instruction, Answer as output\n" in done.stdout
    assert "not read: Region\n" in done.stdout


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (("Question", "Answer", "Region"), {"instruction": "Question", "output": "Answer"}),
        (("letter", "desk"), {"instruction": "letter", "output": "desk"}),
        (("Kysymys", "Vastaus"), {"instruction": "Kysymys", "output": "Vastaus"}),
        (("id", "text", "label"), {"instruction": "text", "output": "label"}),
        (("label", "text"), {"instruction": "text", "output": "label"}),
        (("input", "output"), {"instruction": "input", "output": "output"}),
        (("desk", "question"), {"instruction": "question", "output": "desk"}),
        (("messages", "id"), {}),
        (("Messages", "id"), {"messages": "Messages"}),
        (("Prompt", "Completion"), {"prompt": "Prompt", "completion": "Completion"}),
        (
            ("Instruction", "Input", "Output"),
            {"instruction": "Instruction", "input": "Input", "output": "Output"},
        ),
        (
            ("instruction", "Input", "output"),
            {"instruction": "instruction", "input": "Input", "output": "output"},
        ),
        (
            ("question", "input", "System", "answer"),
            {"instruction": "question", "input": "input", "system": "System", "output": "answer"},
        ),
        (("Content", "id"), {"text": "Content"}),
        (("Title", "Text"), {"text": "Text"}),
        (("prompt", "chosen", "rejected"), None),
        (("prompt", "completion", "id"), {}),
        (("instruction", "input", "output"), {}),
        (("id", "text"), {}),
        (("a", "b", "c"), None),
        (("ticket_no", "report", "team"), {"instruction": "report", "output": "team"}),
    ],
)
def test_question_and_answer_are_told_by_name_or_of_two_columns_by_order(
    columns: Sequence[str], fields: dict[str, str] | None
) -> None:
    assert infer_fields(columns) == fields


def test_labels_are_one_narrow_task_scored_right_or_wrong() -> None:
    spec = declared(init(write(("letter", "desk"), labels)))
    assert (spec.objective, spec.evaluation.kind) == ("task_specific", "label")
    assert spec.evaluation.max_new_tokens > max(map(len, DESKS))


def test_objects_are_scored_field_by_field_and_free_text_by_its_loss() -> None:
    rows = write(("ticket", "answer"), lambda n: (f"Ticket {n}", json.dumps({"desk": n % 3})))
    spec = declared(init(rows))
    assert (spec.objective, spec.evaluation.kind) == ("task_specific", "json")
    Path("mine/tenants/acme/support.yaml").unlink()
    spec = declared(init(write(("question", "answer", "region"), answers)))
    assert (spec.objective, spec.evaluation.kind) == ("instruction", "text")


@pytest.mark.parametrize(("calling", "kind"), [(1.0, "tool_calls"), (0.5, "tool_calls"), (0.2, "text")])
def test_answers_that_call_tools_are_scored_by_their_calls(calling: float, kind: str) -> None:
    """Also where a turn that is context follows them."""
    call = {"type": "function", "function": {"name": "find", "arguments": {"city": "Gdynia"}}}
    after = [{"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "Bye.", "weight": 0}]
    lines = []
    for number in range(400):
        answer: dict[str, Any] = {"role": "assistant", "content": f"It is {number} degrees."}
        if number < calling * 400:
            answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        turns = [
            {"role": "user", "content": f"How is town {number}?"},
            answer,
            *(after if number % 2 else ()),
        ]
        lines.append(json.dumps({"messages": turns, "tools": [{"name": "find"}]}) + "\n")
    Path("rows.jsonl").write_text("".join(lines), "utf-8")
    done = init("rows.jsonl")
    spec = declared(done)
    assert (spec.objective, spec.evaluation.kind) == ("instruction", kind)
    if kind == "tool_calls":
        assert f"{calling * 400:.0f} of 400 answers call tools" in done.stdout
        assert spec.evaluation.max_new_tokens > len(json.dumps(call["function"]))


@pytest.mark.parametrize("place", ["mine", "mine/tenants", "mine/tenants/acme"])
def test_a_file_in_place_of_a_folder_is_one_line(place: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text("a file")
    done = init(write(("letter", "desk"), labels))
    assert isinstance(done.exception, UserError), done.exception
    assert (done.exception.problem, done.exception.file) == ("not a folder", place)
    assert Path(place).read_text() == "a file"


def test_raw_text_is_taken_as_it_is() -> None:
    spec = declared(init(write(("text",), lambda n: (f"Passage {n} of the handbook.",))))
    assert (spec.objective, spec.data.sources[0].fields) == ("instruction", {})


def test_a_text_that_is_named_is_learned_alone_whatever_stands_beside_it() -> None:
    done = init(write(("text", "label"), labels), "--text", "text")
    source = declared(done).data.sources[0]
    assert next(read_rows(source, Path("mine"))).parts == (("text", "Letter 0 never came."),)
    assert "not read: label" in done.stdout


@pytest.mark.parametrize("columns", [("input", "output"), ("Input", "Output"), ("input", "label")])
def test_a_column_that_asks_is_read_once(columns: Sequence[str]) -> None:
    source = declared(init(write(columns, labels))).data.sources[0]
    assert next(read_rows(source, Path("mine"))).parts == (
        ("user", "Letter 0 never came."),
        ("assistant", DESKS[0]),
    )


@pytest.mark.parametrize(
    ("columns", "unread"),
    [
        (("text", "content"), "content"),
        (("prompt", "completion", "input"), "input"),
        (("question", "answer", "output"), "output"),
    ],
)
def test_every_column_that_is_not_read_is_named(columns: Sequence[str], unread: str) -> None:
    done = init(write(columns, lambda n: [f"{column} {n}" for column in columns]))
    source = declared(done).data.sources[0]
    assert f"not read: {unread}\n" in done.stdout
    assert f"{unread} 0" not in str(next(read_rows(source, Path("mine"))).parts)


def test_tools_are_read_of_conversations_and_of_nothing_else() -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    Path("chats.jsonl").write_text(json.dumps({"messages": turns, "tools": [tool], "desk": 1}) + "\n")
    assert "not read: desk\n" in init("chats.jsonl").stdout
    Path("mine/tenants/acme/support.yaml").unlink()
    assert "not read: tools\n" in init(write(("text", "tools"), lambda n: (f"Passage {n}.", ""))).stdout


def test_that_all_answers_are_the_same_is_said() -> None:
    done = init(write(("letter", "label"), lambda n: (f"Letter {n}", "spam")))
    assert "since all answers are the same" in done.stdout


@pytest.mark.parametrize(
    ("columns", "fill", "rows"),
    [
        (("letter", "desk"), labels, 400),
        (("letter", "desk"), labels, 150),
        (("q", "a", "region"), answers, 400),
        (("q", "a", "region"), answers, 3000),
    ],
)
def test_the_splits_give_each_part_its_least_and_the_gates_enough_to_decide(
    columns: Sequence[str], fill: Fill, rows: int
) -> None:
    done = init(write(columns, fill, rows), "--question", columns[0], "--answer", columns[1])
    spec = declared(done)
    assert "too few" not in done.stdout
    from ft_dagster.data.rows.splits import position_of

    fallen = [split_at(position_of(fill(n)[0]), spec.data.splits) for n in range(rows)]
    counts = {name: fallen.count(name) for name in SPLITS}
    assert min(counts.values()) >= spec.data.splits.minimum
    from ft_dagster.gate.power import too_few_rows

    assert too_few_rows(spec, counts["test"]) == ()
    assert (spec.gates.loss_tail, spec.gates.regression_margin) == {
        400: (0.05, 0.05) if fill is answers else (0.02, 0.05),
        150: (0.02, 0.15) if spec.gates.regression_margin == 0.15 else (0.02, 0.1),
        3000: (0.02, 0.05),
    }[rows]


@pytest.mark.parametrize(
    ("fill", "few", "least"), mostly_long([(answers, 8, 160), (labels, 30, 80)], [labels])
)
def test_of_too_few_rows_it_says_how_many_are_the_least_and_that_is_so(
    fill: Fill, few: int, least: int
) -> None:
    columns = ("question", "answer", "region")[: len(fill(0))]
    said = re.findall(
        rf"! {few} different rows are too few, and a run is refused: about (\d+) rows",
        said_of(columns, fill, few),
    )
    number = int(said[0])
    assert number <= least
    enough = [rows for rows in range(number, number + 20) if "too few" not in said_of(columns, fill, rows)]
    assert len(enough) >= 5  # where a row falls is by its hash
    assert "too few" in said_of(columns, fill, number // 2)


def said_of(columns: Sequence[str], fill: Fill, rows: int) -> str:
    Path("mine/tenants/acme/support.yaml").unlink(missing_ok=True)
    return init(write(columns, fill, rows)).stdout


def test_columns_that_tell_nothing_are_refused_with_the_options_that_name_them() -> None:
    rows = write(("a", "b", "c"), answers)
    error = error_of(init(rows))
    assert "a, b, c" in error.problem
    assert "--question" in error.fix
    spec = declared(init(rows, "--question", "a", "--answer", "b"))
    assert spec.data.sources[0].fields == {"instruction": "a", "output": "b"}
    assert "no such column" in str(init(rows, "--variant", "acme.x", "--text", "d").exception)


HEADLESS: dict[str, tuple[Fill, str]] = {
    "labels": (lambda n: (f"letter {n}", DESKS[n % 3]), "in column 2 it has what other rows have too"),
    "sentences": (answers, "in column 1 it has a sentence, as the rows below have"),
    "numbers": (lambda n: (f"letter {n}", str(n)), "in column 2 it has a number"),
    "objects": (lambda n: (f"letter {n}", json.dumps({"n": n})), "in column 2 it has JSON"),
    "long": (
        lambda n: (f"letter {n}", "north " * 20 + str(n)),
        "in column 2 it has a text of 121 characters",
    ),
}


@pytest.mark.parametrize("rows", HEADLESS)
def test_a_table_without_names_of_columns_is_noticed_unless_columns_are_named(rows: str) -> None:
    fill, why = HEADLESS[rows]
    first = fill(0)
    data = write(first, lambda number: fill(number + 1))
    refused = init(data)
    assert isinstance(refused.exception, UserError)
    assert why in refused.exception.problem
    assert "Put a line of names above it, such as question,answer" in refused.exception.fix
    assert not Path("mine").exists()
    assert init(data, "--question", first[0], "--answer", first[1]).exit_code == 0


@pytest.mark.parametrize(
    "names", [("What did the customer write to us?", "team"), ("0", "1"), ("question", "answer")]
)
def test_names_that_are_no_row_are_taken(names: Sequence[str]) -> None:
    assert init(write(names, labels)).exit_code == 0


def test_a_csv_with_semicolons_is_to_be_saved_with_commas() -> None:
    error = error_of(init(write(("Question", "Answer"), labels, separator=";")))
    assert (error.line, error.fix) == (1, "Save it with commas between the columns")


def test_a_malformed_row_is_refused_before_anything_is_written() -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    assert error_of(init("rows.jsonl")).line == 2


def test_a_base_is_measured_and_one_of_the_hub_is_not_read() -> None:
    rows = write(("letter", "desk"), labels)
    said = init(rows).stdout
    assert "base: LlamaForCausalLM, 135k parameters, 0.3 MB on disk\n" in said
    given = ["init", "mine", "--base-model", "org/model", "--data", rows, "--variant", "acme.hub"]
    done = CliRunner().invoke(app, given)
    assert "taken for a repository of the hub, which `check` asks for it" in done.stdout
    assert "on disk" not in done.stdout


def test_the_declaration_is_short_commented_and_fits_80_columns() -> None:
    done = init(write(("Question", "Answer", "Region"), answers))
    text = Path("mine/tenants/acme/support.yaml").read_text("utf-8").replace(os.getcwd(), "")
    lines = text.splitlines()
    assert len(lines) <= 14
    assert sum("   # " in line for line in lines) >= 6
    assert max(map(len, lines)) <= 80
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Next: `ft-dagster --project ")
    assert last.endswith("mine run acme.support`")


def test_hostile_columns_are_quoted() -> None:
    names = ('q", x: [1]\n#', "a: {b}")
    spec = declared(init(write(names, labels), "--question", names[0].strip(), "--answer", names[1]))
    assert spec.data.sources[0].fields == {"instruction": names[0].strip(), "output": names[1]}
    assert names[1] in spec.description


def test_what_is_missing_is_one_error_where_nobody_can_be_asked() -> None:
    done = CliRunner().invoke(app, ["init", "mine", "--data", write(("letter", "desk"), labels), "--json"])
    assert error_of(done).field == "--base-model"


def test_settings_that_allow_a_place_already_are_not_to_be_changed() -> None:
    rows = write(("letter", "desk"), labels)
    assert "lies outside of the project" in init(rows).stdout
    assert "lies outside" not in init(rows, "--variant", "acme.other").stdout


TYPED = "from ft_dagster.cli import main; import sys; sys.argv[1:] = ['init']; main()"


def in_terminal(answers: Iterable[str]) -> str:
    """What init says in a terminal where a person answers each question when it is asked."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", TYPED])
    said, waiting = "", list(answers)
    while True:
        try:
            part = os.read(terminal, 4096).decode()
        except OSError:
            break
        said += part
        if said.endswith(": "):
            assert waiting, said
            os.write(terminal, f"{waiting.pop(0)}\n".encode())
            said += "\n"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert not waiting, said
    return said


def test_in_a_terminal_each_question_has_what_was_inferred_and_a_mistake_is_asked_again() -> None:
    rows = write(("Region", "Letter", "Category"), lambda n: ("north", *labels(n)))
    said = in_terminal(["mine", "bse", "base", "rows.cvs", rows, "", "", "Categry", "Category"])
    for asked in ("[project]", "[acme.support]", "[Letter]", "no such base model folder", "no such column"):
        assert asked in said
    document: Any = yaml.safe_load(Path("mine/tenants/acme/support.yaml").read_text())
    assert document["data"]["sources"][0]["fields"] == {"instruction": "Letter", "output": "Category"}
    assert document["evaluation"]["kind"] == "label"


def test_a_column_that_nothing_tells_is_not_asked_again_without_a_word() -> None:
    rows = write(("one", "two", "three"), lambda n: ("north", *labels(n)))
    said = in_terminal(["mine", "base", rows, "", "", "two", "three"])
    assert "no such column; there are: one, two, three" in said
