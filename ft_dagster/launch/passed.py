"""What is told to a cluster: nothing secret, for all who see the cluster can read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError

# In the names of options of file systems that are credentials.
SECRETS = ("key", "secret", "token", "passw", "username", "authorization", "credential", "cookie")
NO_SECRETS = ("ssekmskeyid",)  # names a key that S3 has
VARIABLE = re.compile(r"(^|_)(key|key_id|token|secret)$|password$|passwd$|.pwd$", re.IGNORECASE)
IN_ADDRESS = re.compile(r"(?<!ssh)://[^/\s@]*@")  # a user of SSH is no secret


def refuse_credentials(options: Mapping[str, Any], settings_file: Path) -> None:
    """Raises UserError where one of the store's options is a credential, or an address has some in it."""
    for field in _secrets(options, "store_options"):
        raise UserError(
            "is a credential, which is not passed to a cluster",
            file=settings_file,
            field=field,
            fix="Name a profile, and have it on each node, or let the nodes have the right by their role",
        )


def refuse_secret_variables(
    environment: Mapping[str, Any], field: str, settings_file: Path | None = None
) -> None:
    """Raises UserError where a variable is a secret by its name, or an address in one has a user in it."""
    for name, value in environment.items():
        if VARIABLE.search(name) or IN_ADDRESS.search(str(value)):
            raise UserError(
                "is a secret, and all who see the cluster could read it",
                file=settings_file,
                field=f"{field}.{name}",
                fix="Have it in the environment of the nodes; on Kubernetes in the Secret of a profile",
            )


def refuse_users_in_addresses(content: Mapping[str, Any], field: str, settings_file: Path) -> None:
    """Raises UserError where an address in what a cluster is told, however deep, has a user in it."""
    for place in _secrets(content, field, by_name=False):
        raise UserError(
            "has a user in its address, and all who see the cluster could read it",
            file=settings_file,
            field=place,
            fix="Name an address that needs none, or let the nodes have the right",
        )


def _secrets(content: Any, field: str, *, by_name: bool = True) -> Iterator[str]:
    """The fields that are secret, however deep: by their name, or as an address with a user in it."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            inner, plain = f"{field}.{name}", str(name).casefold()
            if by_name and plain not in NO_SECRETS and any(part in plain for part in SECRETS):
                yield inner
            else:
                yield from _secrets(value, inner, by_name=by_name)
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _secrets(value, f"{field}.{number}", by_name=by_name)
    elif isinstance(content, str) and IN_ADDRESS.search(content):
        yield field
