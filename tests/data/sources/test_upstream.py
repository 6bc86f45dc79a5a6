"""Snapshots of upstream assets: by content, whatever made the rows, and read as any other source."""

from __future__ import annotations

import json
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.fingerprint import check_unchanged, fingerprint, pinned
from ft_dagster.data.sources.locations import NOWHERE, DeclaredAt
from ft_dagster.data.sources.upstream import (
    Materialization,
    forget_snapshots,
    read_snapshot,
    table_rows,
    take_snapshot,
)
from ft_dagster.errors import UserError
from ft_dagster.roots import Roots
from ft_dagster.spec.data import SourceSpec

NAME = "warehouse/tickets"
SOURCE = SourceSpec.model_validate({"asset": NAME})
ROWS = [{"instruction": "Where is it?", "output": "Here."}, {"instruction": "And that?", "output": "There."}]


def made(event: int, version: str | None = "v1") -> Materialization:
    return Materialization(event, "2026-11-26T12:00:00+00:00", "run", version)


def test_equal_rows_are_one_snapshot_whatever_their_order_of_columns_and_version(tmp_path: Path) -> None:
    first = take_snapshot(tmp_path, NAME, ROWS, made(1))
    again = take_snapshot(tmp_path, NAME, [dict(reversed(row.items())) for row in ROWS], made(2, "v2"))
    assert (first.sha256, first.rows) == (again.sha256, 2)
    assert read_snapshot(tmp_path, NAME) == again
    other = take_snapshot(tmp_path, NAME, ROWS[::-1], made(3))
    assert other.sha256 != first.sha256


def test_what_was_taken_of_a_newer_materialization_stays_the_newest(tmp_path: Path) -> None:
    newer = take_snapshot(tmp_path, NAME, ROWS, made(7))
    assert take_snapshot(tmp_path, NAME, ROWS[:1], made(6)) == newer
    assert read_snapshot(tmp_path, NAME) == newer


def test_a_source_is_read_as_its_fingerprint_pinned_it(tmp_path: Path) -> None:
    then = take_snapshot(tmp_path, NAME, ROWS, made(1))
    frozen = fingerprint(SOURCE, tmp_path)
    assert frozen == [{"path": "asset://warehouse/tickets", "size": then.size, "sha256": then.sha256}]
    take_snapshot(tmp_path, NAME, ROWS[:1], made(2))
    assert len(list(read_rows(SOURCE, tmp_path))) == 1
    rows = list(read_rows(pinned(SOURCE, frozen), tmp_path))
    assert [row.whole_text for row in rows] == ["Where is it?\nHere.", "And that?\nThere."]
    check_unchanged(SOURCE, tmp_path, frozen, NOWHERE, None)
    forget_snapshots(tmp_path, NAME, before=float("inf"))
    with pytest.raises(UserError, match="that snapshot is gone"):
        list(read_rows(pinned(SOURCE, frozen), tmp_path))


def test_old_snapshots_go_and_the_newest_stays(tmp_path: Path) -> None:
    old, newest = (take_snapshot(tmp_path, NAME, rows, made(n)) for n, rows in enumerate((ROWS, ROWS[:1])))
    killed = newest.file(tmp_path).with_name(".taking-x")  # as a try leaves it that was killed
    killed.write_text("half a row")
    for file in (old.file(tmp_path), newest.file(tmp_path), killed):
        os.utime(file, (0, 0))
    assert forget_snapshots(tmp_path, NAME, before=1.0) == 2
    assert not old.file(tmp_path).exists()
    assert not killed.exists()
    assert newest.file(tmp_path).exists()


def test_a_newest_snapshot_whose_file_is_gone_is_said(tmp_path: Path) -> None:
    take_snapshot(tmp_path, NAME, ROWS, made(1)).file(tmp_path).unlink()
    with pytest.raises(UserError, match="the asset's snapshot is gone"):
        fingerprint(SOURCE, tmp_path)


FRAME = pd.DataFrame({"n": [1, 2], "day": [pd.Timestamp("2026-01-02"), pd.NaT], "x": [0.5, float("nan")]})
SAME = [{"n": 1, "day": "2026-01-02T00:00:00", "x": 0.5}, {"n": 2, "day": None, "x": None}]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (FRAME, SAME),
        (pa.Table.from_pandas(FRAME), SAME),
        (iter(ROWS), ROWS),
        (
            [{"day": date(2026, 1, 2), "price": Decimal("1.50"), "tags": np.array(["a"])}],
            [{"day": "2026-01-02", "price": "1.50", "tags": ["a"]}],
        ),
    ],
    ids=["pandas", "arrow", "iterator", "cells"],
)
def test_rows_are_those_of_a_frame_a_table_or_any_iterable(tmp_path: Path, value: Any, wanted: Any) -> None:
    taken = take_snapshot(tmp_path, NAME, table_rows(value), made(1))
    assert [json.loads(line) for line in taken.file(tmp_path).read_text().splitlines()] == wanted


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "the asset has no rows"),
        (None, "what the asset returns has no rows: NoneType"),
        ("rows.jsonl", "what the asset returns has no rows: str"),
        (["a text"], "row 1 of the asset is no mapping: str"),
        ([*ROWS, {"n": object()}], "row 3 of the asset is not JSON"),
        ([{"n": float("inf")}], "row 1 of the asset is not JSON"),
        ([{"text": "\ud800"}], "row 1 of the asset is not JSON"),
    ],
)
def test_what_has_no_rows_is_said_and_leaves_nothing(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        take_snapshot(tmp_path, NAME, table_rows(value), made(1))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_asset_without_a_snapshot_is_said_with_what_to_do(tmp_path: Path) -> None:
    asked = DeclaredAt("acme/support.yaml", "data.sources[0]")
    with pytest.raises(UserError, match="no snapshot of this asset was taken yet") as raised:
        fingerprint(SOURCE, tmp_path, asked)
    assert "acme/support.yaml: data.sources[0].path" in str(raised.value)
    assert "reload the code location" in raised.value.fix


def test_a_tenant_reads_the_assets_that_the_platform_names_alone(tmp_path: Path) -> None:
    take_snapshot(tmp_path, NAME, ROWS, made(1))
    roots = Roots(
        project=tmp_path, tenant="acme", folders=(tmp_path,), addresses=("asset://warehouse/tickets",)
    )
    assert len(fingerprint(SOURCE, tmp_path, DeclaredAt(roots=roots))) == 1
    for other in ("asset://warehouse/tickets2", "asset://warehouse", "asset://warehouse/../tickets"):
        with pytest.raises(UserError, match="outside of what the platform lets this tenant read"):
            fingerprint(SourceSpec(path=other), tmp_path, DeclaredAt(roots=roots))


def test_an_asset_that_is_allowed_opens_none_whose_key_begins_so(tmp_path: Path) -> None:
    take_snapshot(tmp_path, "hr/salaries", ROWS, made(1))
    roots = Roots(project=tmp_path, tenant="acme", folders=(tmp_path,), addresses=("asset://hr",))
    with pytest.raises(UserError, match="outside of what the platform lets this tenant read"):
        fingerprint(SourceSpec(path="asset://hr/salaries"), tmp_path, DeclaredAt(roots=roots))


@pytest.mark.parametrize("name", ["", "/a", "a//b", "../a", "a b"])
def test_what_is_no_key_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not the key of an asset"):
        fingerprint(SourceSpec(path=f"asset://{name}"), tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"asset": NAME, "path": "rows.jsonl"}, "either a path or an asset"),
        ({"asset": NAME, "revision": "0" * 40}, "no split and no revision"),
        ({"asset": NAME, "split": "test"}, "no split and no revision"),
        ({"asset": None}, "an asset is a text"),
        ({"asset": ["warehouse", "tickets"]}, "an asset is a text"),
    ],
)
def test_a_declared_asset_is_that_alone(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SourceSpec.model_validate(given)


def test_a_head_that_is_damaged_is_said(tmp_path: Path) -> None:
    take_snapshot(tmp_path, NAME, ROWS, made(1))
    head = tmp_path / ".ft_dagster" / "upstream" / NAME / "head.json"
    head.write_text("{}")
    with pytest.raises(UserError, match="not what a snapshot's head says"):
        read_snapshot(tmp_path, NAME)
