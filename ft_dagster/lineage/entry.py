"""Defines one entry of a release log: what was done to which version, and which one is served after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from ft_dagster.errors import UserError
from ft_dagster.schema_version import newer_error, refuse_newer
from ft_dagster.store.release_chain import MANIFESTS

SCHEMA_VERSION = 3
Action = Literal["release", "promote", "rollback"]
RELEASE: Action = "release"
PROMOTE: Action = "promote"
ROLLBACK: Action = "rollback"
ACTIONS: tuple[Action, ...] = get_args(Action)
# What only entries of one action have.
_BOUND = (*MANIFESTS, "certificate")  # since schema 3
_OWN: dict[Action, tuple[str, ...]] = {
    RELEASE: ("verdict", "gates", "run_id", *_BOUND),
    PROMOTE: ("forced",),
    ROLLBACK: ("from_version",),
}
_IF_ANY = ("unmeasured", "accepted")  # which most entries lack


@dataclass(frozen=True)
class ReleaseEntry:
    """Holds an entry as it is stored. `export`, `weights`, `evaluation`: digests; `export_key`: where the
    export lies.

    `production`: the version that is served after it; None while the first waits, and after a rollback to
    nothing, which is about the version that it took out. `at`: ISO 8601, UTC.
    `entry`: an id of the file itself (schema 1 had none). `previous`: what it was written after, see `log`
    (since schema 3). Of a release alone: `verdict`, the digest of the verdict's JSON, `gates`, that of the
    gates, `run_id`, the sha256 of the manifests of export and evaluation and of certificate.json (since
    schema 3), and `unmeasured`: why it could not be held against the version in production, where it could
    not. Of a promotion and a rollback: whether it was `forced`, and the rollbacks of releases beneath it in
    spite of which it was (`accepted`). Of a rollback: `from_version`, the one served before.
    In no file are `by_name_alone`, whether an approver's key ought to have signed what `by` did, and has not,
    and `signed_by`: what the trust root calls the keys by which it is signed.
    """

    action: Action
    variant: str
    version: int
    production: int | None
    export: str
    export_key: str
    format: str
    weights: str
    evaluation: str
    by: str
    reason: str
    at: str
    entry: str | None = None
    previous: str | None = None
    verdict: str | None = None
    gates: str | None = None
    run_id: str | None = None
    export_manifest: str | None = None
    evaluation_manifest: str | None = None
    certificate: str | None = None
    forced: bool = False
    from_version: int | None = None
    unmeasured: str | None = None
    accepted: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    by_name_alone: bool = field(default=False, compare=False)
    signed_by: tuple[str, ...] = field(default=(), compare=False)

    @property
    def doubt(self) -> str | None:
        """Return why a named approver has to decide on it; None where nobody has to."""
        return f"nothing passes unmeasured: {self.unmeasured}" if self.unmeasured else None

    @property
    def signed(self) -> str:
        """Say whose signature counts on it, in words."""
        return f"signed by {' and '.join(self.signed_by)}" if self.signed_by else "unsigned"

    def to_json(self) -> dict[str, object]:
        """Return the entry as it is stored: without what only other actions have."""
        others = {name for action in ACTIONS if action != self.action for name in _OWN[action]}
        others -= {"forced"} if self.forced else set()
        others |= {"by_name_alone", "signed_by", *(name for name in _IF_ANY if not getattr(self, name))}
        return {name: value for name, value in asdict(self).items() if name not in others}

    def then(
        self,
        action: Action,
        production: int | None,
        *,
        forced: bool = False,
        from_version: int | None = None,
        accepted: tuple[str, ...] = (),
    ) -> ReleaseEntry:
        """Return a later entry about the same version, before it is signed and dated."""
        return replace(
            self,
            action=action,
            production=production,
            forced=forced,
            from_version=from_version,
            accepted=accepted,
            verdict=None,
            gates=None,
            run_id=None,
            unmeasured=None,
            export_manifest=None,
            evaluation_manifest=None,
            certificate=None,
            signed_by=(),
            by_name_alone=False,
        )

    @classmethod
    def from_json(cls, content: Any, *, file: object = None) -> ReleaseEntry:
        """Read an entry of any schema. Raises UserError, naming `file`: no entry, or one of a newer
        ft-dagster.
        """
        try:
            refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
            if content["action"] not in ACTIONS:
                raise newer_error("action", content["action"], SCHEMA_VERSION, file=file)
            return cls._checked(content)
        except (ValueError, KeyError, TypeError):
            raise broken_entry(file) from None

    @classmethod
    def _checked(cls, content: Mapping[str, Any]) -> ReleaseEntry:
        """Raises KeyError and ValueError for what is absent or of another type."""
        words = ("variant", "export", "export_key", "format", "weights", "evaluation", "by", "reason", "at")
        action, version = content["action"], content["version"]
        chained = content["schema_version"] >= 3
        own = [name for name in _OWN[action] if chained or name not in _BOUND]
        production = content.get("production", version)  # in schema 1 a release was served at once
        found = cls(
            action=action,
            version=version,
            production=production,
            **{name: content[name] for name in words},
            **{name: content[name] for name in own},
            entry=content.get("entry"),
            unmeasured=content.get("unmeasured"),
            accepted=tuple(content.get("accepted", ())),
            previous=content["previous"] if chained else None,
            schema_version=content["schema_version"],
        )
        if action == ROLLBACK and content.get("forced"):
            found = replace(found, forced=True)
        numbers = [version, *([] if production is None else [production])]
        numbers += [found.from_version] if action == ROLLBACK else []
        if not all(type(number) is int for number in numbers):
            raise ValueError("a version is a whole number")
        if not all(isinstance(said, str) for said in (*(content[name] for name in words), *found.accepted)):
            raise ValueError("not text")
        return found


def broken_entry(file: object) -> UserError:
    return UserError("not an entry of a release log", file=file, fix="Restore the file from a backup")
