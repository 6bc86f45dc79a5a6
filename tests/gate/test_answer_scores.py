"""Scores of answers, by table: no model is needed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.skills import skills
from ft_dagster.gate import answer_scores as scores
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import (
    Sample,
    Score,
    label_aggregates,
    main_metric,
    read_aggregates,
    write_scores,
)
from ft_dagster.spec.variant import AnswerKind, GatesSpec
from tests.evaluation.questions import sample, write_database


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The bank.", "bank", 1.0, 1.0),
        ("a passport and a form", "the passport", 0.0, 0.5),
        ("whale", "bank", 0.0, 0.0),
        ("", "bank", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("bank bank", "bank", 0.0, 2 / 3),
    ],
)
def test_texts_are_compared_as_squad_does(answer: str, reference: str, exact: float, f1: float) -> None:
    assert scores.exact_match(answer, reference) == exact
    assert scores.token_f1(answer, reference) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Billing", "billing", 1.0),
        (" billing.\n", "billing", 1.0),
        ("billing!?", "Billing.", 1.0),
        ("the billing", "billing", 0.0),
        ("billing, refund", "billing", 0.0),
        ("A00.1", "A001", 0.0),
        ("STRASSE", "straße", 1.0),
        ("", "billing", 0.0),
    ],
)
def test_labels_are_compared_without_case_and_ending(answer: str, reference: str, expected: float) -> None:
    assert scores.label_match(answer, reference) == expected


PAIRS = [
    ("billing", "billing"),
    ("Billing.", "billing"),
    ("refund", "billing"),
    ("refund", "refund"),
    ("I do not know", "refund"),
    ("other", "other"),
    ("billing", "other"),
    ("", "rare"),
]


@pytest.mark.slow
def test_f1_over_the_labels_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score, precision_score, recall_score

    said, wanted = ([scores.label_of(text) for text in side] for side in zip(*PAIRS, strict=True))
    known = sorted(set(wanted))
    options = {"labels": known, "zero_division": 0.0}
    assert scores.macro_f1(PAIRS) == pytest.approx(f1_score(wanted, said, average="macro", **options))
    assert scores.micro_f1(PAIRS) == pytest.approx(f1_score(wanted, said, average="micro", **options))
    table = scores.label_scores(PAIRS)
    assert [row.label for row in table] == known
    assert [row.questions for row in table] == [3, 2, 1, 2]
    for name, by in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert [getattr(row, name) for row in table] == pytest.approx(
            by(wanted, said, average=None, **options)
        )


def test_a_model_that_always_says_the_commonest_label_has_a_low_macro_f1() -> None:
    pairs = [("billing", "billing")] * 9 + [("billing", "refund")]
    assert scores.micro_f1(pairs) == pytest.approx(0.9)
    assert scores.macro_f1(pairs) == pytest.approx(0.5 * 18 / 19)


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "valid"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1.0, 1.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 2 / 3, 1.0),
        ('{"a": 1, "b": 2, "c": 3}', '{"a": 1}', 0.5, 1.0),
        ('{"a": {"b": [1, 2]}}', '{"a": {"b": [1, 3]}}', 0.5, 1.0),
        ('{"a": [2, 1]}', '{"a": [1, 2]}', 0.0, 1.0),
        ('{"a": "1"}', '{"a": 1}', 0.0, 1.0),
        ('{"a": 1.0}', '{"a": 1}', 1.0, 1.0),
        ('{"a": true}', '{"a": 1}', 0.0, 1.0),
        ('{"0": 1}', "[1]", 0.0, 1.0),
        ('{"a": {}}', '{"a": {}}', 1.0, 1.0),
        ('{"a": []}', '{"a": {}}', 0.0, 1.0),
        ("null", "null", 1.0, 1.0),
        ("[]", '{"a": 1}', 0.0, 1.0),
        ('{"a": 1} done', '{"a": 1}', 0.0, 0.0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 0.0, 0.0),
        ('{"a": NaN}', '{"a": 1}', 0.0, 0.0),
        ('{"a": 1', '{"a": 1}', 0.0, 0.0),
        ("[" * 100_000, '{"a": 1}', 0.0, 0.0),
        ("1" * 5000, '{"a": 1}', 0.0, 0.0),
        ("", '{"a": 1}', 0.0, 0.0),
    ],
)
def test_json_is_compared_field_by_field(answer: str, reference: str, f1: float, valid: float) -> None:
    found = scores.json_scores(answer, reference)
    assert found == {"json_f1": pytest.approx(f1), "valid_json": valid}


def test_a_reference_that_is_no_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        scores.json_scores("{}", "{'a': 1}")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "the towns?.db")


def accuracy(answer: str, reference: str, database: Path) -> float:
    result = scores.run_query(database, reference)
    return scores.execution_accuracy(answer, result, database, ordered=scores.is_ordered(reference))


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("select NAME from TOWN", "SELECT name FROM town;", 1.0),
        ("SELECT name FROM town ORDER BY name", "SELECT name FROM town", 1.0),
        ("SELECT name FROM town", "SELECT name FROM town ORDER BY name", 0.0),
        ("SELECT name FROM town ORDER BY people", "SELECT name FROM town ORDER BY people ASC", 1.0),
        ("SELECT DISTINCT name FROM town", "SELECT name FROM town", 0.0),
        ("SELECT people, name FROM town", "SELECT name, people FROM town", 0.0),
        ("SELECT name AS n FROM town", "SELECT name FROM town", 1.0),
        ("SELECT 0.1 + 0.2 + 0.3", "SELECT sum(tax) FROM town", 1.0),
        ("SELECT count(*) * 1.0 FROM town", "SELECT count(*) FROM town", 1.0),
        ("SELECT '4'", "SELECT count(*) FROM town", 0.0),
        ("SELECT tax FROM town WHERE name = 'Lake'", "SELECT NULL", 1.0),
        ("SELECT 1, 2 WHERE 0", "SELECT 1 WHERE 0", 0.0),
        ("SELECT nme FROM town", "SELECT name FROM town", 0.0),
        ("", "SELECT name FROM town", 0.0),
        ("```sql\nSELECT name FROM town\n```", "SELECT name FROM town", 0.0),
    ],
)
def test_queries_are_compared_by_what_they_return(
    database: Path, answer: str, reference: str, expected: float
) -> None:
    assert accuracy(answer, reference, database) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE town",
        "DELETE FROM town",
        "INSERT INTO town VALUES ('a', 1, 1)",
        "CREATE TEMP TABLE t (a)",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_table_info('town')",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT random()",
        "SELECT name FROM town; DROP TABLE town",
        "SELECT zeroblob(1000)",
        "SELECT 'a\0b'",
        "SELECT '\udcff'",
        "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r",
        "SELECT count(*) FROM " + ", ".join(f"town AS t{i}" for i in range(14)),
        "SELECT 1 FROM " + ", ".join(f"town AS t{i}" for i in range(8)),
        "SELECT replace(hex(" + "hex(" * 20 + "name" + ")" * 20 + "), '3', '3333') FROM town",
        "SELECT a.name || " + " || ".join("hex(hex(hex(hex(hex(name)))))" for _ in range(40)) + " AS x FROM "
        "town AS a, town AS b, town AS c, town AS d, town AS e, town AS f, town AS g, town AS h ORDER BY x",
    ],
)
def test_a_query_that_does_more_than_read_a_little_fails_and_leaves_the_file_alone(
    database: Path, query: str
) -> None:
    before = database.read_bytes()
    with pytest.raises(scores.QueryError):
        scores.run_query(database, query)
    assert accuracy(query, "SELECT name FROM town", database) == 0.0
    assert database.read_bytes() == before
    assert [file.name for file in database.parent.iterdir()] == [database.name]


def test_an_endless_query_is_stopped_by_its_steps(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MOST_STEPS", 20_000)
    with pytest.raises(scores.QueryError, match="interrupted"):
        scores.run_query(database, "SELECT count(*) FROM " + ", ".join(f"town AS t{i}" for i in range(9)))
    assert scores.run_query(database, "SELECT count(*) FROM town").rows == [(4,)]


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n by a limit 3", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT a, rank() OVER (PARTITION BY f(b) ORDER BY (a)) FROM t", False),
        ("SELECT 'order by' FROM t", False),
        ('SELECT "it\'s" FROM t -- order by a', False),
        ("SELECT a FROM t /* ) */ ORDER BY a", True),
        ("SELECT a FROM border WHERE by = 1", False),
    ],
)
def test_an_order_counts_where_the_whole_query_has_one(query: str, ordered: bool) -> None:
    assert scores.is_ordered(query) is ordered


def test_a_database_is_found_from_the_project_folder(database: Path) -> None:
    assert scores.find_database(database.name, database.parent) == database


def test_a_missing_or_wrong_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("CREATE TABLE town (name TEXT);")
    for name, problem in (("towns.db", "no such file"), ("dump.sql", "not a SQLite file")):
        with pytest.raises(UserError, match=problem) as caught:
            scores.find_database(name, tmp_path, "acme.yaml")
        assert (caught.value.file, caught.value.field) == ("acme.yaml", "evaluation.database")


def test_a_database_with_content_in_its_log_is_refused(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO town VALUES ('New', 1, 1)")
        connection.commit()
        with pytest.raises(UserError, match="write-ahead log"):
            scores.find_database(database.name, database.parent)
    assert scores.run_query(scores.find_database(database.name, database.parent), "SELECT 1").rows == [(1,)]


@pytest.mark.parametrize(
    ("metrics", "main"),
    [
        (["completion_loss", "exact_match", "token_f1"], "completion_loss"),
        (["completion_loss", "exact_match"], "exact_match"),
        (["completion_loss", "json_f1", "valid_json"], "json_f1"),
        (["completion_loss", "execution_accuracy"], "execution_accuracy"),
        (["completion_loss"], "completion_loss"),
        (["general_loss"], "general_loss"),
        (["exact_match"], "exact_match"),
        (["exact_match", "acc"], "acc"),
        (["acc", "acc_norm"], "acc_norm"),
        (["bleu", "exact_match"], "bleu"),
    ],
)
def test_a_task_is_judged_by_what_its_kind_of_answer_says(metrics: list[str], main: str) -> None:
    assert main_metric(metrics) == main


def test_f1_over_the_labels_is_kept_beside_the_means(tmp_path: Path) -> None:
    asked = [sample(0, 1.0), sample(1, 0.0)]
    found = label_aggregates(PAIRS)
    write_scores(asked, tmp_path, found)
    rows = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert [(row["metric"], row["questions"]) for row in rows] == [
        ("acc", 2),
        ("macro_f1", 8),
        ("micro_f1", 8),
    ]
    assert read_aggregates(tmp_path) == found
    assert found[0] == Score(
        "test_split_task", "test_split_task", "macro_f1", scores.macro_f1(PAIRS), 8, True
    )
    assert label_aggregates([]) == []


def test_queries_lost_and_gained_are_skills() -> None:
    made = {"role": "test_split_task", "task": "test_split_task", "metric": "execution_accuracy"}
    base, tuned = (
        [sample(n, value, **made) for n, value in enumerate(side)] for side in ([1.0, 0.0], [0.0, 1.0])
    )
    (skill,) = skills(base, tuned)
    assert (skill.metric, len(skill.lost), len(skill.gained)) == ("execution_accuracy", 1, 1)


@pytest.mark.parametrize(
    ("metric", "rival"), [("exact_match", None), ("json_f1", "valid_json"), ("execution_accuracy", None)]
)
def test_the_gate_judges_an_answer_by_its_kind(metric: str, rival: str | None) -> None:
    def asked(value: float) -> list[Sample]:
        own = {"role": "test_split_task", "task": "test_split_task"}
        found = [
            sample(n, 9.0 - value, **own, metric="completion_loss", higher_is_better=False) for n in range(9)
        ]
        found += [sample(n, value, **own, metric=metric) for n in range(9)]
        return found + ([sample(n, 1.0, **own, metric=rival) for n in range(9)] if rival else [])

    (rule,) = judge(asked(0.9), asked(0.1), GatesSpec()).rules
    assert (rule.metric, rule.passed) == (metric, False)


@pytest.mark.parametrize(
    ("answer", "expected", "kind", "right"),
    [
        ("It costs 1,200–2,500 SEK each.", ["1,200-2,500 sek"], "text", True),
        ("within two years, completed within five years", ["two years", "five years"], "text", True),
        ("within two years", ["two years", "five years"], "text", False),
        ("twenty-two yearslong", ["two years"], "text", False),
        ("建築許可は二年間有効です", ["二年間"], "text", True),
        ("S50.", ["s50"], "label", True),
        ("S50 or S51", ["S50"], "label", False),
        ('{"b": 1.0, "a": 2}', ['{"a": 2, "b": 1}'], "json", True),
        ('{"a": 2}', ['{"a": 2, "b": 1}'], "json", False),
    ],
)
def test_an_answer_is_right_where_it_says_all_that_is_expected(
    answer: str, expected: list[str], kind: AnswerKind, right: bool
) -> None:
    assert scores.is_right(answer, expected, kind) is right


def test_a_query_is_right_where_it_returns_what_the_expected_one_returns(database: Path) -> None:
    name = "SELECT count(*) FROM sqlite_master"
    assert scores.is_right(f"{name} WHERE 1", [name], "sql", database)
    assert not scores.is_right("SELECT -1", [name], "sql", database)
    with pytest.raises(ValueError, match="the query fails"):
        scores.is_right("", ["SELECT nothing"], "sql", database)


@pytest.mark.parametrize(
    ("expected", "kind"), [(["?!"], "text"), (["..."], "label"), (["{a"], "json"), (["S1", "S2"], "label")]
)
def test_what_no_answer_can_be_is_not_expected(expected: list[str], kind: AnswerKind) -> None:
    with pytest.raises(ValueError, match=r"no word|property name|2 texts"):
        scores.is_right("anything", expected, kind)
