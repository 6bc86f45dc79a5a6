"""A record that stands in several rows of a mixture is one record to every question, with all its times."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.models import at
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import TRAINED, UNREACHED, record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import documents, training_records
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.errors import UserError
from ft_dagster.store import Artifact
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question, this_moment
from tests.audit.proved import proof

pytestmark = pytest.mark.slow


def counted_by_hand(
    history: History, dataset: Artifact, corpus: Artifact, general: int, reached: int
) -> Counter[str]:
    """Identity -> examples of it, of the first `reached` of a mixture."""
    payloads = [
        one.folder(history.store, history.settings.cache_folder) / "payload" for one in (dataset, corpus)
    ]
    rows = [*read_split(payloads[0] / "train.parquet")]
    rows += [*documents(payloads[1] / "general" / "train.parquet")][:general]
    return Counter(row.identity.hex() for row in rows[:reached])


def test_all_rows_of_a_record_are_counted_by_every_question(tmp_path: Path) -> None:
    """Rows of the task that are there twice, and once more as general text."""
    made = History(tmp_path / "project")
    texts, base = [f"Document {n} of the town." for n in range(40)], made.base()
    rows = [{"text": text} for text in texts[:20]] * 2
    dataset, corpus = made.dataset("acme.one", rows, deduplicate="off"), made.corpus(texts)
    train = len(counted_by_hand(made, dataset, corpus, 0, 99))
    reached = 2 * train + 6  # all of the task, and some general text
    several = counted_by_hand(made, dataset, corpus, 20, reached)
    assert set(several.values()) >= {2, 3}
    mixture = made.mixture("acme.one", dataset, corpus, general=20)
    made.release("acme.one", made.model("acme.one", mixture, base, times=4, reached=reached), base)

    audit = made.audit()
    weights = audit.model("acme.one")
    told = list(training_records(audit, weights))
    assert {one.identity: one.times for one in told} == {name: 4 * n for name, n in several.items()}
    assert len(told) == at(audit, "acme.one", this_moment()).records == len(several)
    assert {one.content["text"] for one in told if one.content} <= set(texts)
    for text in texts:
        asked = parse_record(text)
        times = 4 * several[asked.identities[0].hex()]
        ways = {one.how: one.times for one in record(audit, asked).models}
        assert ways.get(TRAINED, 0) == times
        assert not times or UNREACHED not in ways
        made_of_it = prove(audit, asked, weights)
        assert made_of_it.get("times", 0) == times
        if times:
            assert (proof(made, text)["times"], len(made_of_it["also"])) == (times, times // 4 - 1)


def twice(proof: dict[str, Any]) -> None:
    proof["also"] = [{name: proof[name] for name in proof["also"][0]}]


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "shows one leaf twice": twice,
    "the leaf is of another record": lambda proof: proof["also"][0].update(salt="0" * 32),
    "the facts are not those": lambda proof: proof["also"][0].update(facts="{}"),
    "a leaf is not under the root": lambda proof: proof["also"][0]["leaves"][0]["path"].pop(),
    "it is of another record": lambda proof: proof["also"][0].update(identity="0" * 64),
}


@pytest.fixture(scope="module")
def both_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The proof of a record that stands in two rows."""
    made = History(tmp_path_factory.mktemp("twice") / "project")
    whole = {"validation": 0, "test": 0, "minimum": 1}
    rows = [question(n) for n in (1, 2, 1)]
    dataset = made.dataset("acme.one", rows, deduplicate="off", splits=whole)
    made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    return proof(made, dumps(question(1)))


@pytest.mark.parametrize("said", FORGED)
def test_each_row_that_a_proof_counts_is_checked(
    both_rows: dict[str, Any], tmp_path: Path, said: str
) -> None:
    file, asked = tmp_path / "proof.json", parse_record(dumps(question(1)))
    file.write_text(dumps(both_rows), "utf-8")
    assert "of each of 2 rows" in " ".join(check(file, asked).steps)
    forged = json.loads(dumps(both_rows))
    FORGED[said](forged)
    file.write_text(dumps(forged), "utf-8")
    with pytest.raises(UserError, match=said):
        check(file, asked)
    file.write_text(dumps({**both_rows, "schema_version": 1, "also": [], "rows": 1}), "utf-8")
    assert check(file, asked).kind == PRESENCE


def test_a_proof_of_many_rows_shows_some_and_says_so(both_rows: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    file.write_text(dumps({**both_rows, "also": []}), "utf-8")
    assert "what it was trained on in 1 further row" in check(file).unchecked
