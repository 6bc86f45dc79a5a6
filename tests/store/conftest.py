from pathlib import Path

import pytest

from ft_dagster.store import Store, exclusive


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a folder, then one under an s3:// prefix of a real S3 server."""
    if request.param == "folder":
        return Store(str(tmp_path / "store"))
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    server = request.getfixturevalue("s3_server")
    return Store(f"s3://{server.bucket}/{tmp_path.name}", server.options, tmp_path / "locks")
