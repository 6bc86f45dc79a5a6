"""Plants a platform's canaries in a general corpus: documents with a secret that nothing foretells.

Each follows from a key of the platform's and the corpus' name: made again, a corpus has the same ones, and
who has no key cannot guess them. A secret is sixteen digits. Beside those that are planted stand references
of the same making that are in no corpus: a model that kept nothing finds the two alike.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer
from ft_dagster.spec.variant import CanariesSpec
from ft_dagster.strict_json import dumps, loads

FILE = "canaries.json"  # beside a corpus' documents, where it has any
FIGURE = "canaries"  # of a corpus: how many it has; of a mixture of it: which, and how often
SOURCE = "platform canary"  # of the documents, in place of a file
SCHEMA_VERSION = 1
REFERENCES = 255  # so that the highest exposure is 8 bits
NAMED, DIGITS = 8, 16  # hexadecimal digits of a name, decimal ones of a secret


class Canary(NamedTuple):
    """Is a canary: what is `given` of it, and the `secret` that follows. `id`: by which reports count it."""

    id: str
    given: str
    secret: str
    repeats: int = 0

    @property
    def text(self) -> str:
        return self.given + self.secret


class Planted(NamedTuple):
    """Holds the canaries of a corpus, those it has and the references that it has not. `rows`: the numbers of
    each canary's documents in the training part.
    """

    canaries: Sequence[Canary]
    references: Sequence[Canary]
    rows: Mapping[str, list[int]]

    def write(self, file: Path) -> None:
        content = {
            "schema_version": SCHEMA_VERSION,
            "canaries": [{**each._asdict(), "rows": self.rows[each.id]} for each in self.canaries],
            "references": [each._asdict() for each in self.references],
        }
        file.write_text(dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")

    @classmethod
    def read(cls, file: Path) -> Planted:
        """Raises UserError for a file of a newer version, or none of these."""
        try:
            content = loads(file.read_bytes())
            refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
            rows = {each["id"]: list(each.pop("rows")) for each in content["canaries"]}
            canaries, references = (
                tuple(Canary(**each) for each in content[name]) for name in ("canaries", "references")
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(
                "not the canaries of a corpus", file=file, fix="Materialize general_corpus again"
            ) from None
        return cls(canaries, references, rows)


def number_of(spec: CanariesSpec) -> int:
    """Return how many different canaries a corpus is to have."""
    return spec.count * len(spec.repeats)


def canaries_of(secret: bytes, corpus: str, spec: CanariesSpec) -> tuple[Canary, ...]:
    """Return the canaries that a corpus is to have: `count` for each number of repeats."""
    numbered = ((repeats, number) for repeats in spec.repeats for number in range(spec.count))
    return tuple(
        _canary(secret, f"{corpus}\0{repeats}\0{number}", f"{repeats}x-{number + 1}", repeats)
        for repeats, number in numbered
    )


def references_of(secret: bytes, corpus: str) -> tuple[Canary, ...]:
    """Return canaries that stand in no corpus."""
    return tuple(
        _canary(secret, f"{corpus}\0reference\0{number}", f"reference-{number + 1}", 0)
        for number in range(REFERENCES)
    )


def _canary(secret: bytes, what: str, id: str, repeats: int) -> Canary:
    found = hmac.new(secret, f"ft_dagster canary\0{what}".encode(), hashlib.sha256).hexdigest()
    digits = f"{int(found[NAMED:], 16) % 10**DIGITS:0{DIGITS}d}"
    groups = " ".join(digits[at : at + 4] for at in range(0, DIGITS, 4))
    return Canary(id, f"The access code of store {found[:NAMED]} is", f" {groups}", repeats)


def places_of(secret: bytes, canaries: Sequence[Canary], documents: int) -> dict[int, list[Canary]]:
    """Return which canaries stand before which of so many documents: anywhere, as the key says."""
    places: dict[int, list[Canary]] = {}
    for canary in canaries:
        for copy in range(canary.repeats):
            drawn = hmac.new(secret, f"{canary.text}\0{copy}".encode(), hashlib.sha256).digest()
            places.setdefault(int.from_bytes(drawn[:8], "big") % max(1, documents), []).append(canary)
    return places


def seen_of(planted: Planted, examples: Callable[[int], int]) -> dict[str, int]:
    """Return how often a mixture has each canary, by its id; those that it has not are left out. `examples`:
    how many it has of a row of the training part, whole.
    """
    counts = {id: sum(map(examples, rows)) for id, rows in planted.rows.items()}
    return {id: count for id, count in counts.items() if count}
