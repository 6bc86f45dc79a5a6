"""Whether a tenant's record is in another tenant's mixture is shown from record trees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.audit.crossings import NEAR, CrossingsAnswer, Given, crossings, is_given
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import rotate
from ft_dagster.settings import AllowedSources, Settings
from tests.audit.histories import History, question
from tests.e2e.project import write_lines

pytestmark = pytest.mark.slow
PLANTED = question(7)


class Tenants(History):
    """acme.one and globex.two, each trained on rows of its own folder, released."""

    def train(self, variant: str, rows: Sequence[Any], corpus: Any = None, file: str = "") -> None:
        tenant = variant.split(".", maxsplit=1)[0]
        source = file or f"data/{tenant}/rows.jsonl"
        write_lines(self.folder / source, list(rows))
        (self.folder / "tenants" / tenant).mkdir(parents=True, exist_ok=True)
        splits = {"validation": 0.0, "test": 0.0, "minimum": 1}
        dataset = self.dataset(variant, rows, sources=[source], splits=splits)
        base = self.base()
        weights = self.model(variant, self.mixture(variant, dataset, corpus), base)
        self.release(variant, weights, base)

    def found(self, tenant: str | None = None) -> CrossingsAnswer:
        return crossings(self.audit(), tenant)


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    made = Tenants(tmp_path / "project")
    made.train("acme.one", [question(number) for number in range(20)])
    return made


def others(*more: Any) -> list[Any]:
    return [*(question(number) for number in range(100, 120)), *more]


def test_no_record_crosses_where_each_has_its_own(tenants: Tenants) -> None:
    tenants.train("globex.two", others())
    found = tenants.found()
    assert found.holds
    assert (found.tenants, found.pairs, found.mixtures) == (("acme", "globex"), 2, 2)
    assert (found.crossings, found.given, found.unshown) == ((), (), ())


@pytest.mark.parametrize(
    ("stage", "said"), [("training_mixture", "manifest.json"), ("task_dataset", "the data set of mixture ")]
)
def test_what_of_a_tenant_cannot_be_read_is_not_called_free_of_others(
    tenants: Tenants, stage: str, said: str
) -> None:
    tenants.train("globex.two", others(PLANTED))
    for variant in ("acme/one", "globex/two"):
        [manifest] = (tenants.folder / ".ft_dagster").rglob(f"tenants/{variant}/{stage}/*/manifest.json")
        if stage == "task_dataset":
            shutil.rmtree(manifest.parent)
        else:
            manifest.write_text("{", "utf-8")
    found = tenants.found()
    assert not found.crossings
    assert not found.holds
    assert sum(said in line for line in found.unshown) == 2


def test_a_planted_record_is_found_with_variant_version_and_place(tenants: Tenants) -> None:
    tenants.train("globex.two", others(PLANTED))
    found = tenants.found()
    assert not found.holds
    crossed = {one.owner: one for one in found.crossings}
    assert set(crossed) == {"acme", "globex"}  # the record is each one's, and in the other's mixture
    planted = crossed["acme"]
    assert (planted.tenant, planted.variant, planted.records) == ("globex", "globex.two", 1)
    assert planted.places == ("data/globex/rows.jsonl:21",)
    [release] = planted.releases
    assert (release.variant, release.version) == ("globex.two", 1)
    assert len(planted.models) == 1


def test_a_near_copy_is_not_found_and_that_is_said(tenants: Tenants) -> None:
    tenants.train("globex.two", others({**PLANTED, "completion": "Item 7 is some thing."}))
    assert tenants.found().holds
    shown = run(tenants)
    assert shown.exit_code == 0
    assert NEAR in shown.output.replace("\n", " ")


def test_a_planted_record_is_found_after_retention_removed_the_rows(tenants: Tenants) -> None:
    tenants.train("globex.two", others(PLANTED))
    removed = tenants.remove("task_dataset", "training_mixture")
    assert len(removed) == 4
    [planted] = [one for one in tenants.found().crossings if one.owner == "acme"]
    assert (planted.variant, planted.records) == ("globex.two", 1)


def test_a_file_that_the_platform_gives_to_both_is_no_crossing(tmp_path: Path) -> None:
    made = Tenants(tmp_path / "project")
    rows = [question(number) for number in range(20)]
    made.train("acme.one", rows, file="data/given.jsonl")
    made.train("globex.two", rows[:5], file="data/given.jsonl")
    found = made.found()
    assert found.holds
    assert Given("acme", "globex", rows=5, texts=0) in found.given


def test_a_file_of_one_tenant_that_another_read_crosses(tmp_path: Path) -> None:
    made = Tenants(tmp_path / "project")
    rows = [question(number) for number in range(20)]
    made.train("acme.one", rows)
    made.train("globex.two", rows[:5], file="data/acme/rows.jsonl")
    found = made.found()
    assert [one.records for one in found.crossings if one.owner == "acme"] == [5]
    assert found.given == ()


def test_one_file_that_both_declare_crosses_by_declaration_unless_it_is_the_platforms(tmp_path: Path) -> None:
    """A file of acme's own is none that the platform gives to both, in whichever direction one looks."""
    made = Tenants(tmp_path / "project")
    rows = [question(number) for number in range(20)]
    made.train("acme.one", rows)
    made.train("globex.two", rows, file="data/acme/rows.jsonl")
    found = made.found()
    assert {(one.owner, one.records, one.by_declaration) for one in found.crossings} == {
        ("acme", 20, 20),
        ("globex", 20, 20),
    }
    assert found.given == ()
    said = run(made)
    assert said.exit_code == 1
    words = " ".join(said.output.split())
    assert "20 by declaration: acme declares the same file" in words
    assert "what the platform gives to both" not in words
    made.train("globex.two", [*others(), rows[3]])
    assert [one.by_declaration for one in made.found().crossings if one.records == 1] == [0]


def test_rows_behind_an_address_of_one_tenant_are_no_gift_of_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all may read what is above it."""
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    settings = Settings(
        project=tmp_path,
        sources=AllowedSources(
            allow=("s3://data", "s3://acme"), per_tenant={"acme": ("s3://data/a7", "asset://crm/rows")}
        ),
    )
    roots = settings.roots("acme")
    for own in ("s3://data/a7/rows.jsonl", "s3://data/acme/x/rows.jsonl", "s3://acme/rows.jsonl"):
        assert not is_given(own, own, roots)
    assert not is_given("asset://crm/rows", ".ft_dagster/upstream/crm/rows/1.parquet", roots)
    for other in ("s3://data/a70/rows.jsonl", "s3://data/globex/acme", "asset://crm/rows2"):
        assert is_given(other, other, roots)


def test_general_text_that_a_tenant_has_too_is_no_crossing(tmp_path: Path) -> None:
    made = Tenants(tmp_path / "project")
    texts = [f"Document {number} of the town." for number in range(40)]
    made.train("acme.one", [{"text": text} for text in texts])
    made.train("globex.two", others(), corpus=made.corpus(texts))
    found = made.found()
    assert found.holds
    [given] = [one for one in found.given if one.owner == "acme"]
    assert (given.rows, given.texts) == (0, 5)


def test_a_lost_key_and_a_mixture_without_a_tree_are_not_shown(tenants: Tenants) -> None:
    older = Tenants(tenants.folder, kept="rows")
    older.train("globex.old", others())
    tenants.train("globex.two", others())
    (tenants.settings.keys_folder / "shared.json").unlink()
    found = tenants.found()
    assert not found.holds
    assert not found.crossings
    said = "\n".join(found.unshown)
    assert "in acme: the shared key" in said
    assert "of globex.old is older than record trees" in said
    assert run(tenants).exit_code == 1


def test_trees_of_an_older_key_are_searched_by_it(tenants: Tenants) -> None:
    tenants.train("globex.two", others(PLANTED))
    rotate(tenants.settings.keys_folder, "globex")
    assert [one.owner for one in tenants.found().crossings] == ["acme", "globex"]


def test_what_was_looked_through_is_remembered(tenants: Tenants) -> None:
    tenants.train("globex.two", others(PLANTED))
    said: list[str] = []
    first = crossings(tenants.audit(), None, said.append)
    assert len(said) == 2
    said.clear()
    assert crossings(tenants.audit(), None, said.append) == first
    assert not said
    tenants.train("globex.three", others())
    crossings(tenants.audit(), None, said.append)
    assert len(said) == 2  # acme in the new mixture, and globex, which has more now, in acme's


def test_the_command_says_and_writes_the_same(tenants: Tenants) -> None:
    tenants.train("globex.two", others(PLANTED))
    shown = run(tenants, "--tenant", "acme")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert "crosses 1 record of acme in mixture" in said
    assert "of globex.two, read from data/globex/rows.jsonl:21; trained on it:" in said
    assert "(v1)" in said
    content = json.loads(run(tenants, "--json").output)
    assert content["holds"] is False
    assert content["crossings"][0]["releases"][0]["version"] == 1


def test_a_tenant_that_has_nothing_is_an_error(tenants: Tenants) -> None:
    with pytest.raises(UserError, match="nothing of this tenant is in the store"):
        tenants.found("nobody")


def test_a_store_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="so nothing was compared"):
        Tenants(tmp_path / "project").found()


def run(tenants: Tenants, *options: str) -> Any:
    return CliRunner().invoke(app, ["--project", str(tenants.folder), "audit", "crossings", *options])
