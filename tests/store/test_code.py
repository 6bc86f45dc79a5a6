import io
import tarfile
from pathlib import Path

from ft_dagster.provenance.code import source_digest
from ft_dagster.store import Store
from ft_dagster.store.make import keep_source


def test_the_source_is_kept_once_and_unpacks_to_the_package(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    digest = keep_source(store)
    assert digest == keep_source(store) == source_digest()
    (name,) = store.names("shared/code")
    with tarfile.open(fileobj=io.BytesIO(store.read(f"shared/code/{name}"))) as tar:
        names = tar.getnames()
    assert "ft_dagster/provenance/code.py" in names
    assert not any("__pycache__" in name for name in names)
