"""Defines what an audit answers: plain, typed, and the same in Python and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXACT, EQUIVALENT, DIVERGED = "EXACT", "EQUIVALENT", "DIVERGED"  # what a replay comes to, see `replay`
BASE_UNKNOWN = "nobody here knows what the base model itself was trained on"


@dataclass(frozen=True)
class Inclusion:
    """Proves that a leaf is in a tree. `path`: hex, from the leaf up to the root; `index` and `size` from 0
    and in leaves.
    """

    root: str
    index: int
    size: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class RecordIn:
    """Places a record in an artifact. `variant`: None of what is shared. `state`: of
    `artifact_records.STATES`. `facts`: what its leaf binds. `inclusion`: None of an artifact from before
    there were trees. `cut`: how much of it a mixture has, in words; empty of all of it. `alike`: found by
    identity 1 of a record that has an identity 2, so that it may be another record.
    """

    identity: str
    variant: str | None
    stage: str
    digest: str
    key: str
    state: str
    facts: Mapping[str, Any]
    inclusion: Inclusion | None
    cut: str = ""
    alike: bool = False


@dataclass(frozen=True)
class ReleasedAs:
    """Names a version of a variant. `production`: whether it is served now. `at`: when it was released, ISO
    8601.
    """

    variant: str
    version: int
    at: str
    production: bool


@dataclass(frozen=True)
class ModelThatHas:
    """Names a model that a record is part of. `how`: see `records`; `parent trained on` where the model
    started from the release of one that was. `times`: examples of it that were trained on before the exported
    checkpoint, of a child in its parent; None where the ledger cannot be read. `through`: the parent's
    weights. `measured`: "8 of 35", where the loss on some examples of the validation split alone chose the
    checkpoint, and nothing says on which. `cut`: on how much of it, in words; empty: on all. `alike`: see
    `RecordIn`.
    """

    variant: str
    weights: str
    created: str
    how: str
    times: int | None
    exports: tuple[str, ...]
    releases: tuple[ReleasedAs, ...]
    through: str | None = None
    measured: str = ""
    cut: str = ""
    alike: bool = False


@dataclass(frozen=True)
class Checked:
    """Counts what a record was compared with: how many data sets, corpora and mixtures, how many records, how
    many models, and how many evaluations, by all the questions that are kept of them.
    """

    artifacts: int
    records: int
    models: int
    unread: tuple[str, ...] = ()
    evaluations: int = 0


@dataclass(frozen=True)
class Transformed:
    """Names a source whose rows are known as a function returned them, not as they stand in its files."""

    variant: str
    source: str
    function: str

    def __str__(self) -> str:
        return (
            f"rows of {self.source} ({self.variant}) were transformed by {self.function}: "
            "give what it returns"
        )


@dataclass(frozen=True)
class ContainingRecord:
    """Is a record that has a text inside it. `found`: where it is, `models`: that have it."""

    identity: str
    found: tuple[RecordIn, ...]
    models: tuple[ModelThatHas, ...]


@dataclass(frozen=True)
class SearchAnswer:
    """Says what has a text inside it, of all text that was read. `rows`: how many records but the text
    itself, rows and documents; `records`: the first of them, and `models`, by the first `looked_up`.
    `questions`: how many stored questions, answers and texts of evaluations; `asked`: the first of these.
    `cannot`: what could not be read, in words. `part`: also inside words. `within`: the tenant or variant
    that alone was searched. `size`: bytes of text that were read, in `seconds`. `cut`: records that were cut
    where they were trained on, and are the text asked for as far as that.
    """

    rows: int
    records: tuple[ContainingRecord, ...]
    looked_up: int
    questions: int
    asked: tuple[RecordIn, ...]
    models: tuple[ModelThatHas, ...]
    cannot: tuple[str, ...]
    part: bool
    within: str | None
    size: int
    seconds: float
    cut: tuple[ContainingRecord, ...] = ()


@dataclass(frozen=True)
class RecordAnswer:
    """Says where a record is. Nothing `found`, see `seen`. `transformed`: in which sources it may be known as
    another: not of an identity, nor where it was found. `no_row`: why JSON was looked for as a text alone.
    `search`: in which texts it stands inside; None: nobody looked. `columns`: of a line of cells what they
    are, by each way that it was found, or else looked for. `unsure`: why what was not found may be there,
    read in a further way.
    """

    identities: tuple[str, ...]
    found: tuple[RecordIn, ...]
    models: tuple[ModelThatHas, ...]
    checked: Checked
    note: str = BASE_UNKNOWN
    transformed: tuple[Transformed, ...] = ()
    no_row: str = ""
    search: SearchAnswer | None = None
    columns: tuple[tuple[str, ...], ...] = ()
    unsure: tuple[str, ...] = ()

    @property
    def equal(self) -> bool | None:
        """Say whether a record equals it. None: not found, and not all could be read, rows were transformed
        before they were known, or it may be read in a further way.
        """
        unsure = self.checked.unread or self.transformed or self.unsure
        return True if self.found else None if unsure else False

    @property
    def seen(self) -> bool | None:
        """Say whether it was ever seen, also inside another text. None: not found, and not all was read."""
        inside = self.search
        if self.found or (inside is not None and (inside.rows or inside.questions or inside.cut)):
            return True
        whole = inside is not None and not inside.cannot and inside.within is None
        return False if whole and self.equal is False else None


@dataclass(frozen=True)
class Absence:
    """Proves that a record is not in an artifact of `records` records, the leaves of its tree. `leaves`: the
    two between which `identity` would be (one at an end), each with its index, its lookup and its path to the
    `root`, as a proof has them; who has the `key` (its id) sees by it that nothing is between them.
    `unproved`: why no proof could be made; empty where there is one.
    """

    variant: str | None
    stage: str
    digest: str
    records: int
    root: str = ""
    key: str = ""
    identity: str = ""
    leaves: tuple[Mapping[str, Any], ...] = ()
    unproved: str = ""


@dataclass(frozen=True)
class ModelName:
    """Names a model by its variant and the digest of its weights."""

    variant: str
    weights: str


@dataclass(frozen=True)
class HeldAgainst:
    """Lists what a record that nobody saw was compared with: all data sets, corpora and mixtures, and the
    models that were made of these. `unread`: of the absences, why a record tree could not be read, or is
    altered.
    """

    absences: tuple[Absence, ...]
    models: tuple[ModelName, ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class NearRecord:
    """Is a record that is nearly another. `similarity`: Jaccard, of the sets of their runs of words, 0
    to 1.
    """

    identity: str
    similarity: float
    found: tuple[RecordIn, ...]
    models: tuple[ModelThatHas, ...]


@dataclass(frozen=True)
class NearAnswer:
    """Lists records near another: `records` are the nearest of `near`, which are as similar as `threshold` or
    more, by runs of `run` words. `rows` of so many `artifacts` were read, in `seconds`; of `removed` others
    retention removed the text. `unread`: what could not be read, and why.
    """

    threshold: float
    records: tuple[NearRecord, ...]
    near: int
    rows: int
    artifacts: int
    removed: int
    seconds: float
    unread: tuple[str, ...] = ()
    run: int = 5


@dataclass(frozen=True)
class PartOf:
    """Names an artifact that a model was made of. `gone`: named as an input, and no longer in the store; its
    other fields are then empty. `removed`: when retention removed its files, ISO 8601; empty of one that
    stands. `code`: digest of the package that made it.
    """

    stage: str
    digest: str
    variant: str | None = None
    created: str = ""
    code: str = ""
    gone: bool = False
    removed: str = ""


@dataclass(frozen=True)
class SourceOf:
    """Names a source of a model's data. `files`: its fingerprint when it was declared. `rows`: read and
    kept.
    """

    path: str
    files: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Compute:
    """Counts the FLOPs of a training (`own`), and with those of the models that it starts from (`whole`);
    None: not counted. `base`: the model under all of them, as `base_training_flops` of the settings names it,
    empty where it is gone. `base_flops`: what that took, None: nobody said. `share`: of `whole` in it;
    `passes`: whether that is more than a third. None: not known.
    """

    own: float | None
    whole: float | None = None
    base: str = ""
    base_flops: float | None = None
    share: float | None = None
    passes: bool | None = None


@dataclass(frozen=True)
class ModelAnswer:
    """Says all that made a model. `parent`: the weights that its base starts from, whether they are `gone`
    from the store, and when retention `removed` them. `unread`: equal mixtures whose rows could not be read,
    on which it was trained as well. `in_part`: how many of its records it was trained on in part, and
    `perhaps_in_part` how many perhaps, for an older mixture does not say. `signed`: whose signatures its
    parts bear, in one line.
    """

    variant: str
    weights: str
    created: str
    exports: tuple[str, ...]
    releases: tuple[Mapping[str, Any], ...]
    parts: tuple[PartOf, ...]
    sources: tuple[SourceOf, ...]
    mixture: Mapping[str, Any]
    base: Mapping[str, Any]
    parent: Mapping[str, Any] | None
    recipe: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    environment: Mapping[str, Any]
    compute: Compute
    children: tuple[str, ...]
    unread: tuple[str, ...] = ()
    in_part: int = 0
    perhaps_in_part: int = 0
    signed: str = ""


@dataclass(frozen=True)
class AtAnswer:
    """Says what was in production at a time. `entry`: of the release log. `records`: how many were trained
    on. `note`: how the date was read, where it had no time zone.
    """

    variant: str
    at: str
    entry: Mapping[str, Any]
    model: ModelAnswer
    records: int
    note: str = ""


@dataclass(frozen=True)
class CameOf:
    """Says what came of a source: its files as they matched, and all artifacts made from it, models and
    releases. `unread`: manifests that could not be read, so that more may have come of it.
    """

    asked: str
    files: tuple[Mapping[str, Any], ...]
    artifacts: tuple[PartOf, ...]
    models: tuple[ModelThatHas, ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class TenantAnswer:
    """Says what a tenant owns (variant -> stage -> artifacts), and which shared artifacts its own were made
    of.
    """

    tenant: str
    owns: Mapping[str, Mapping[str, int]]
    records: int
    releases: tuple[ReleasedAs, ...]
    given: tuple[PartOf, ...]


@dataclass(frozen=True)
class DiffAnswer:
    """Says what differs from model `a` to model `b`: how many training records were added and removed, with
    the facts of the first of them; and values, name -> (of a, of b). `unread`: as of `ModelAnswer`.
    """

    a: str
    b: str
    added: int
    removed: int
    same: int
    examples: Mapping[str, tuple[Mapping[str, Any], ...]]
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageReplayed:
    """Compares a stage as it was recorded with how it came out again: digests of its payload. `rebuilt`:
    empty of one that was taken from the store as it is. `code`: digest of the package that made it. `said`:
    what is to be known of it, in words.
    """

    stage: str
    recorded: str
    rebuilt: str
    code: str
    said: str = ""


@dataclass(frozen=True)
class ReplayAnswer:
    """Says what came of making a model again. `verdict`: EXACT, EQUIVALENT or DIVERGED, see `replay`.
    `first`: the stage that diverged; `step`: of its training, the first that had another batch, or another
    loss (from 1). `differs`: what of the environment does, name -> (recorded, here). `figures`: name ->
    (recorded, rebuilt), where they differ. `folder`: where it was made, None where that is gone.
    """

    variant: str
    weights: str
    verdict: str
    said: str
    stages: tuple[StageReplayed, ...]
    first: str | None = None
    step: int | None = None
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    figures: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    folder: str | None = None
