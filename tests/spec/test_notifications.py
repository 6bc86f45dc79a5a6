"""What the settings take as a target of notifications."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.notification_settings import NotificationSettings
from ft_dagster.settings import load_settings


def loaded(folder: Path, **notifications: Any) -> NotificationSettings:
    (folder / "tenants").mkdir(exist_ok=True)
    (folder / "ft_dagster.yaml").write_text(json.dumps({"notifications": notifications}))
    return load_settings(folder).notifications


def test_targets_are_taken_by_name(tmp_path: Path) -> None:
    hook = {"webhook": "https://hooks.example.com:8443/ft?a=b", "secret_env": "FT_OPS_SECRET"}
    found = loaded(
        tmp_path, targets={"ops": hook, "log": {"file": "x.jsonl"}}, ui="https://dagster.example.com"
    )
    assert found.targets["ops"].timeout_seconds == 5.0
    assert found.targets["log"].file == "x.jsonl"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "needs a webhook or a file"),
        ({"webhook": "https://a.example", "file": "x"}, "needs a webhook or a file"),
        ({"webhook": "file:///etc/passwd"}, "not an http:// or https:// address"),
        ({"webhook": "https://"}, "not an http:// or https:// address"),
        ({"webhook": "https://a.example:port/"}, "not an http:// or https:// address"),
        ({"webhook": "https://a.example/x\r\nHost: b"}, "not an http:// or https:// address"),
        ({"webhook": "https://user:word@a.example/"}, "credentials do not belong into an address"),
        ({"webhook": "https://a.example", "timeout_seconds": 0}, "greater than 0"),
        ({"webhook": "https://a.example", "timeout_seconds": 3600}, "less than or equal to 60"),
        ({"webhook": "https://a.example", "secret_env": "the secret itself"}, "should match pattern"),
        ({"file": "x", "secret_env": "NAME"}, "a file is not signed"),
        ({"file": "x", "command": "rm"}, "unknown field"),
    ],
)
def test_what_is_no_target_is_refused(tmp_path: Path, target: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        loaded(tmp_path, targets={"ops": target})
    assert words in refused.value.problem
    assert str(refused.value.field).startswith("notifications.targets.ops")
