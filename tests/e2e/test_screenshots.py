"""The pictures of docs/ui.md are those that `make screenshots` makes, and small."""

from __future__ import annotations

import re

from tests.e2e.screenshots import FOLDER, LARGEST, ROOT, SHOTS


def test_the_page_shows_each_picture_that_is_made_and_no_other() -> None:
    shown = re.findall(r"\(images/ui/(\w+)\.webp\)", (ROOT / "docs" / "ui.md").read_text("utf-8"))
    assert sorted(shown) == sorted(shot.name for shot in SHOTS)
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(shown)
    assert all(file.stat().st_size < LARGEST for file in FOLDER.iterdir())
