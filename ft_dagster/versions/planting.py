"""Plants the platform's canaries in a general corpus: declares them in its file, and says whom that concerns.

What a canary is follows from the platform's key and the name of the corpus (`data.rows.planted`), so that
nothing secret is written here: the corpus is made with them by the next run, or by materializing it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ft_dagster.data.rows.planted import REFERENCES, number_of
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import SHARED_OWNER, keys_of
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations
from ft_dagster.spec.load import corpus_files
from ft_dagster.spec.overrides import write_fields
from ft_dagster.spec.validation import nearest, validate
from ft_dagster.spec.variant import CanariesSpec
from ft_dagster.stages.general_corpus import refuse_other_key, stands_with_canaries

FIELD = "canaries"


@dataclass(frozen=True)
class PlantedCanaries:
    """Says what a corpus is declared to have: `count` canaries for each number of `repeats`, so many
    `documents`. `written`: whether its file was; `made`: whether the newest corpus has them; `key`: the name
    of the platform's key that they follow from; `asked`: what each evaluation on the corpus asks for them;
    `variants`: those that mix the corpus in.
    """

    corpus: str
    file: Path
    count: int
    repeats: tuple[int, ...]
    documents: int
    asked: int
    key: str
    written: bool
    made: bool
    variants: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            **asdict(self),
            "file": str(self.file),
            "repeats": [*self.repeats],
            "variants": [*self.variants],
        }


def plant(
    settings: Settings, corpus: str, count: int | None = None, repeats: tuple[int, ...] | None = None
) -> PlantedCanaries:
    """Declare canaries in corpora/<corpus>.yaml, where it declares none. None: as it declares them, else the
    usual number. Raises UserError where it declares others, and where the key of those that stand is gone.
    """
    declarations = Declarations(settings.project)
    file = _file_of(declarations, corpus)
    declared = declarations.corpus(corpus).canaries
    refuse_other_key(settings, corpus)
    given = {name: value for name, value in (("count", count), ("repeats", repeats)) if value is not None}
    before = {} if declared is None else declared.model_dump()
    wanted = validate(CanariesSpec, {**before, **given}, lambda path: file)
    if declared is not None and wanted != declared:
        raise UserError(
            "it declares other canaries, with which it may have been made",
            file=file,
            field=FIELD,
            value=_in_yaml(declared),
            fix="Leave --count and --repeats out, or change the file: by that the corpus is made again, and "
            "all variants on it train again",
        )
    if declared is None:
        fields = {f"{FIELD}.count": wanted.count, f"{FIELD}.repeats": [*wanted.repeats]}
        write_fields(
            file,
            fields,
            lambda: Declarations(settings.project).corpus(corpus).canaries == wanted,
            f"{FIELD}: {_in_yaml(wanted)}",
        )
    return PlantedCanaries(
        corpus,
        file,
        wanted.count,
        wanted.repeats,
        wanted.count * sum(wanted.repeats),
        number_of(wanted) + REFERENCES,
        keys_of(settings.keys_folder, SHARED_OWNER).keys[-1].id,
        declared is None,
        stands_with_canaries(settings, corpus),
        tuple(_on(declarations, corpus)),
    )


def _file_of(declarations: Declarations, corpus: str) -> Path:
    files = corpus_files(declarations.project)
    if corpus not in files:
        fix = nearest(corpus, list(files), f"Declare it in corpora/{corpus}.yaml first")
        raise UserError("no such corpus", file=declarations.project / "corpora", value=corpus, fix=fix)
    return files[corpus]


def _on(declarations: Declarations, corpus: str) -> list[str]:
    """Return the variants that mix a corpus in; none whose declaration is wrong."""
    found = list[str]()
    for key in declarations:
        with suppress(UserError):
            general = declarations.declared(key).spec.data.general
            found += [str(key)] if general is not None and general.corpus == corpus else []
    return found


def _in_yaml(canaries: CanariesSpec) -> str:
    return f"{{count: {canaries.count}, repeats: [{', '.join(map(str, canaries.repeats))}]}}"
