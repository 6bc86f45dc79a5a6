"""Holds the certificate of an export: what crosses rooms, and how it is stored.

`export.certificate` compares and makes it; the release log, the card and the reports read it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer
from ft_dagster.strict_json import loads

SCHEMA_VERSION = 1
_READ_ALIKE = {
    "token_ids_equal": "its tokenizer gives other token ids",
    "chat_ids_equal": "a chat that it renders gives other token ids",
    "template_equal": "its chat template is another",
}
_HOLD = {
    **dict.fromkeys(("mean_kl", "max_logit_difference", "top1_lost", "greedy_parted"), 0.0),
    **dict.fromkeys(_READ_ALIKE, 1.0),
    "base_kl": sys.float_info.max,
}  # in place of figures that an older certificate has not


@dataclass(frozen=True)
class Tolerance:
    """Sets the differences that are allowed between judged weights and export.

    `mean_kl`: KL(judged || export) in nats a token. `share_kl`: the same as a share of KL(judged || base), so
    that a merge that forgot the adapter never passes; below `noise_kl` it is not asked. `tie` in logits: a
    token may be another where the judged model preferred its own by no more. `top1_lost`: share of
    positions whose likeliest token may be another beyond a tie. `logit`: the largest difference of any logit,
    since a damaged row of the vocabulary shows in no other figure while its token is unlikely.
    """

    mean_kl: float
    share_kl: float
    noise_kl: float
    top1_lost: float
    tie: float
    logit: float


@dataclass(frozen=True)
class Certificate:
    """Certifies that `payload` (digest) behaves as `judged` (digest), or `failures` say where not.

    `figures` are plain numbers; one that is not finite is null where it is stored.
    """

    payload: str
    judged: str
    format: str
    figures: Mapping[str, float]
    tolerance: Tolerance
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def drifted(self) -> bool:
        """Say whether all that fails is how near it computes: such bytes may be judged by themselves."""
        near = math.isfinite(self.figures.get("mean_kl", math.nan)) and not misread(self.figures)
        return bool(self.failures) and near

    def to_json(self) -> dict[str, Any]:
        known = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "payload": self.payload,
            "judged": self.judged,
            "format": self.format,
            "figures": known,
            "tolerance": asdict(self.tolerance),
            "failures": list(self.failures),
            "passed": self.passed,
            "drifted": self.drifted,
        }

    @classmethod
    def from_json(cls, content: Any, *, file: object = None) -> Certificate:
        """Read what `to_json` wrote. `passed` and `drifted` are derived again: what the file says is not
        trusted.

        Raises UserError, naming `file`: no certificate, one of a newer ft-dagster, one that says it passed
        and names failures, or the other way round, or one that names none where its figures do not hold.
        """
        try:
            refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
            figures = {
                name: math.nan if value is None else float(value)
                for name, value in content["figures"].items()
            }
            found = cls(
                payload=str(content["payload"]),
                judged=str(content["judged"]),
                format=str(content["format"]),
                figures=figures,
                tolerance=Tolerance(**{name: float(value) for name, value in content["tolerance"].items()}),
                failures=tuple(map(str, content["failures"])),
            )
            holds = content["passed"] is found.passed
            holds &= not (found.passed and failures_of({**_HOLD, **figures}, found.tolerance))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _broken(file) from None
        if not holds:
            raise _broken(file)
        return found

    @classmethod
    def read(cls, file: Path) -> Certificate:
        """Read certificate.json of an export. Raises UserError as `from_json`."""
        try:
            content = loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            raise _broken(file) from None
        return cls.from_json(content, file=file)


def failures_of(figures: Mapping[str, float], tolerance: Tolerance) -> list[str]:
    """Return what does not hold, in words. A figure that is not a number holds nothing."""
    share = max(tolerance.noise_kl, tolerance.share_kl * figures["base_kl"])
    rules = [
        (
            figures["mean_kl"] <= tolerance.mean_kl,
            f"mean KL {figures['mean_kl']:.2g} nats a token, {tolerance.mean_kl:.2g} allowed",
        ),
        (
            figures["mean_kl"] <= share,
            f"mean KL {figures['mean_kl']:.2g}, but training itself changes only {figures['base_kl']:.2g}",
        ),
        (
            figures["max_logit_difference"] <= tolerance.logit,
            f"a logit differs by {figures['max_logit_difference']:.2g}, {tolerance.logit:.2g} allowed",
        ),
        (
            figures["top1_lost"] <= tolerance.top1_lost,
            f"another token is likeliest at {figures['top1_lost']:.1%} of the positions",
        ),
        (
            figures["greedy_parted"] == 0,
            f"it answers {figures['greedy_parted']:.0%} of the probes with other text",
        ),
    ]
    return [*misread(figures), *(said for holds, said in rules if not holds)]


def misread(figures: Mapping[str, float]) -> list[str]:
    """Return how an export's tokenizer reads otherwise than the judged one, which no score excuses."""
    return [said for name, said in _READ_ALIKE.items() if figures.get(name) != 1]


def _broken(file: object) -> UserError:
    return UserError(
        "not the certificate of an export", file=file, fix="Restore the file from a backup, or export again"
    )
