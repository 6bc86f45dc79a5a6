"""Shows one variant's newest state in a row, as `ft-dagster run`, `status` and `compare` do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.gate.verdict_words import verdict_sentence, verdict_word
from ft_dagster.lineage.verdict import Rule, Verdict


@dataclass(frozen=True)
class VariantRow:
    """Holds what a person asks of a variant first; a value is None where its stage has not run.

    `general_share`: realized, of the tokens that `data.general.share_of` names. `validation_loss`: nats a
    token, before the training and at its best. `size_bytes`, `digest`: of the export. `version`: in
    production. `stale`: why the newest model is out of date. `older_stages`: those whose newest artifact an
    older version of the stage made.
    """

    variant: str
    method: str | None = None
    rows_kept: int | None = None
    rows_dropped: int | None = None
    general_share: float | None = None
    trained_tokens: int | None = None
    validation_loss: tuple[float | None, float | None] = (None, None)
    verdict: Verdict | None = None
    export: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    version: int | None = None
    stale: str | None = None
    older_stages: tuple[str, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Return the rules it was judged by; none before it was."""
        return () if self.verdict is None else self.verdict.rules

    @property
    def judged(self) -> str | None:
        """Return the word of its verdict, see `verdict_word`."""
        return None if self.verdict is None else verdict_word(self.verdict)

    @property
    def sentence(self) -> str | None:
        """Return the sentence of its verdict, as every page has it."""
        return None if self.verdict is None else verdict_sentence(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; of the verdict `gate` (whether it passed), `outcome` (what was found), its
        sentence (`verdict`) and `rules`.
        """
        verdict = self.verdict
        return asdict(self) | {
            "validation_loss": list(self.validation_loss),
            "older_stages": list(self.older_stages),
            "gate": None if verdict is None else verdict.passed,
            "outcome": None if verdict is None else verdict.outcome,
            "verdict": self.sentence,
            "rules": [rule.to_json() for rule in self.rules],
        }
