"""Runs a task's templates where they reach the values of a row, and nothing by which these reach further."""

from __future__ import annotations

from typing import Any

from jinja2.sandbox import SandboxedEnvironment

_PLAIN = frozenset({"builtins", "datetime", "decimal", "jinja2.runtime", "jinja2.utils", "markupsafe"})


class RowSandbox(SandboxedEnvironment):
    """Is Jinja's sandbox, in which an object of another library has no attributes: a time of pandas has
    methods that lead to one that writes a file.
    """

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return type(obj).__module__ in _PLAIN and super().is_safe_attribute(obj, attr, value)
