"""What Python says of a TRL from before the fused output head."""

from __future__ import annotations

from pathlib import Path

import pytest

VERSION = "1.14.0"


def have_older_trl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a test, the version of TRL that is installed is this one."""
    metadata = folder / f"trl-{VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {VERSION}\n")
    monkeypatch.syspath_prepend(str(folder))
