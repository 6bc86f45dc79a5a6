"""A witness that gives no answer is named in one line, and what it says of logs is said of those alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import Store
from ft_dagster.store.witness import Witnesses
from tests.store.witness_host import FIRST, A, opened

ASK: dict[str, Callable[[Witnesses], object]] = {
    "checkpoints": lambda here: list(here.checkpoints(9)),
    "proofs": lambda here: here.proofs(A),
    "faults": lambda here: here.faults({}),
}


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "git+/nowhere.git"])
def test_one_that_is_down_is_named_by_who_asks_it(address: str, ask: str, tmp_path: Path) -> None:
    """And not the store, which has nothing to do with it."""
    here = opened(address, tmp_path / "here")
    try:
        said = str(ASK[ask](here))
    except UserError as error:
        said = str(error)
    assert f"trust.yaml: witnesses: the witness {address} could not be reached: " in said
    assert "the storage" not in said


def test_a_bucket_without_credentials_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(str(tmp_path / "witness"), tmp_path / "here")
    missing = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})

    def names(self: Store, relative: str) -> list[str]:
        raise missing("Unable to locate credentials")

    monkeypatch.setattr(Store, "names", names)
    said = f"witnesses: the witness {tmp_path / 'witness'}: the storage lets nobody in"
    [line] = here.faults({})
    assert said in line
    with pytest.raises(UserError, match=re.escape(said)):
        here.tell({A: Seen(1, FIRST)})


def test_a_log_that_cannot_be_read_is_not_said_to_be_gone(tmp_path: Path) -> None:
    here = opened(str(tmp_path / "witness"), tmp_path / "here")
    here.tell({A: Seen(1, FIRST), "tenants/acme/b": Seen(1, FIRST)})
    assert here.faults({A: ([FIRST], "the log")}, {"tenants/acme/b"}) == []
    [line] = here.faults({A: ([FIRST], "the log"), "tenants/acme/b": ([], "the other log")})
    assert line.startswith("the other log: 0 entries, and the witness")


def test_before_it_is_told_anything_it_proves_nothing_and_lists_nothing(tmp_path: Path) -> None:
    here = opened(str(tmp_path / "witness"), tmp_path / "here")
    assert (here.proofs(A), list(here.checkpoints(9))) == ({}, [])
