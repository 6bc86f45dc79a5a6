"""The package's own source, as manifests name it and as the store keeps it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance import code
from ft_dagster.provenance.digest import hash_folder, payload_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one module in place of ft_dagster, of which this process knows nothing yet."""
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    (tmp_path / "module.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    code.source_digest.cache_clear()
    code.source_archive.cache_clear()


def test_what_is_kept_has_the_digest_that_names_it(
    package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(fileobj=io.BytesIO(code.source_archive())) as kept:
        kept.extractall(out, filter="data")
    assert payload_digest(hash_folder(out / "ft_dagster")) == code.source_digest()


def test_code_that_changed_while_a_process_ran_is_not_kept_under_another_digest(package: Path) -> None:
    code.source_digest()
    (package / "module.py").write_text("VALUE = 2\n")
    with pytest.raises(UserError, match="changed while this process ran"):
        code.source_archive()
