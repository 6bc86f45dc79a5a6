"""Reads all that a project declares, as its files say it now: each once, and again only when it changed.

A `Declarations` is a view: it looks at each file once, and says the same for as long as it lives. What a
file said is kept from one view to the next for as long as the file's stamp stays, so that a new view costs a
look at each file it is asked about. One broken file stops no other.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ft_dagster.errors import UserError, UserErrors, all_of
from ft_dagster.provenance.stamp import Stamp
from ft_dagster.spec.defaults import merge
from ft_dagster.spec.keys import RESERVED, VariantKey
from ft_dagster.spec.validation import nearest, validate
from ft_dagster.spec.variant import CorpusSpec, VariantSpec
from ft_dagster.spec.yaml_files import FIELDS, read_yaml

DEFAULTS = "defaults.yaml"
SUFFIXES = (".yaml", ".yml")
PATTERNS = ("*.y*ml", "*/*.*", "*/*/*.y*ml", "*/*/*/*.y*ml")  # below tenants/
MISTAKEN = (".json", ".yaml.txt", ".yml.txt", *SUFFIXES)  # in any case: what may be meant as a declaration
UNREADABLE = Stamp(0, 0, 0, 0, 0)  # of what stands in a folder that is closed to this process
MOST_READ = 1 << 16  # bytes of a file that may be meant as a declaration
SETTLED_NS = 2_000_000_000  # a file written since may be written again without a new stamp
T = TypeVar("T")


def corpus_files(project: Path) -> dict[str, Path]:
    """Return the declarations of general corpora by name: corpora/<name>.yaml, else .yml."""
    pairs = [(f.stem, f) for suffix in reversed(SUFFIXES) for f in (project / "corpora").glob(f"*{suffix}")]
    return dict(sorted(dict(pairs).items()))


def corpus_file(project: Path, name: str) -> Path:
    """Return the file that declares a general corpus, or would."""
    return corpus_files(project).get(name, project / "corpora" / f"{name}{SUFFIXES[0]}")


@dataclass(frozen=True)
class Declared:
    """Holds a validated declaration and each leaf value's origin (dotted path -> file or "built-in")."""

    key: VariantKey
    file: Path
    spec: VariantSpec
    origins: dict[str, str]


class ReadDeclaration(NamedTuple):
    """Holds what a declaration's own file comes to, over the defaults. `spec` is None where it is no
    declaration; `errors`: its mistakes, apart from those of its parents; `content`: as merged, empty where
    unreadable.
    """

    spec: VariantSpec | None
    origins: dict[str, str]
    errors: tuple[UserError, ...]
    content: dict[str, Any]
    file_of_base: Path

    @property
    def parent(self) -> str | None:
        """Return the variant that the declaration names as its base, valid or not."""
        base = self.content.get("base_model")
        named = base.get("variant") if isinstance(base, dict) else None
        return named if isinstance(named, str) else None


class _Remembered:
    """Remembers what was made of files, by name, with the stamps that they had then."""

    most = 50_000

    def __init__(self) -> None:
        self._made: dict[Path, tuple[tuple[Stamp | None, ...], Any]] = {}

    def get(self, name: Path, stamps: tuple[Stamp | None, ...]) -> Any:
        before = self._made.get(name)
        return before[1] if before is not None and before[0] == stamps else None

    def put(self, name: Path, stamps: tuple[Stamp | None, ...], made: Any) -> None:
        now = time.time_ns()
        if all(stamp is None or now - stamp.newest_ns > SETTLED_NS for stamp in stamps):
            if len(self._made) >= self.most:
                self._made.clear()
            self._made[name] = stamps, made


_REMEMBERED = _Remembered()


class Declarations:
    """Gives the declarations of the project in folder `project`: variants, what tenants share, general
    corpora.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.folder = project / "tenants"
        self._stamps: dict[Path, Stamp | None] = {}
        self._judged: dict[VariantKey, ReadDeclaration] = {}
        self._cycles: dict[VariantKey, tuple[VariantKey, ...]] = {}  # (): its parents end

    @property
    def files(self) -> Mapping[VariantKey, Path]:
        """Return every tenants/<tenant>/<variant>.yaml whose name is a key, by key, in order of name."""
        return self._listed[0]

    @property
    def misnamed(self) -> Mapping[Path, UserError]:
        """Return the YAML files below tenants/ that declare nothing, for their place or name."""
        return self._listed[1]

    @cached_property
    def broken(self) -> Mapping[Path, UserError]:
        """Return every file that declares no variant as it stands, with its mistakes, also those of
        parents.
        """
        wrong = ((file, self.wrong(key)) for key, file in self.files.items())
        return {**self.misnamed, **{file: error for file, error in wrong if error is not None}}

    def __iter__(self) -> Iterator[VariantKey]:
        """Yield every declared key, whatever is wrong with its declaration."""
        return iter(self.files)

    def file(self, key: VariantKey) -> Path:
        """Return the file of a declaration, whatever is wrong in it. Raises UserError where there is none."""
        file = self._find(key)
        if file is None:
            raise UserError(
                "no such variant",
                value=str(key),
                file=self.folder,
                fix=nearest(
                    str(key), list(map(str, self.files)), "Declare it in tenants/<tenant>/<variant>.yaml"
                ),
            )
        return file

    def stamp(self, key: VariantKey) -> str:
        """Return a stamp that changes with the files that the declaration is read from, its own and its
        defaults.
        """
        return f"{_text(self._stamp(self.files.get(key) or self.file(key)))} over {self._shared_stamp}"

    @cached_property
    def _shared_stamp(self) -> str:
        return _text(self._stamp(self.folder / DEFAULTS))

    def edited(self, key: VariantKey) -> datetime:
        """Return when one of these files changed last, in UTC; long ago, where both went since they were
        listed.
        """
        file = self.files.get(key) or self.file(key)
        stamps = (self._stamp(file), self._stamp(self.folder / DEFAULTS))
        newest = max((stamp.newest_ns for stamp in stamps if stamp is not None), default=0)
        return datetime.fromtimestamp(newest / 1e9, UTC)

    def declared(self, key: VariantKey) -> Declared:
        """Return a variant's declaration. Raises UserError for all of its mistakes, or where there is
        none.
        """
        file = self.file(key)
        errors = self.errors(key)
        judged = self._judge(key, file)
        if errors or judged.spec is None:
            raise UserErrors.of(errors)
        return Declared(key, file, judged.spec, judged.origins)

    def errors(self, key: VariantKey) -> tuple[UserError, ...]:
        """Return the mistakes of a declaration. Raises UserError where there is no such variant."""
        file = self.file(key)
        judged = self._judge(key, file)
        parents = None if judged.parent is None else self._wrong_parents(key, judged)
        return judged.errors if parents is None else (*judged.errors, parents)

    def wrong(self, key: VariantKey) -> UserError | None:
        """Return all mistakes of a declaration as one error; None where it is valid."""
        errors = self.errors(key)
        return UserErrors.of(errors) if errors else None

    def content(self, key: VariantKey) -> Mapping[str, Any]:
        """Return the declaration over the defaults as the files say it, valid or not; empty where
        unreadable.
        """
        return self._judge(key, self.file(key)).content

    def corpus(self, name: str, *, asked_by: object = None) -> CorpusSpec:
        """Return the general corpus of that name. Raises UserError; `asked_by`: the file that names it."""
        files = corpus_files(self.project)
        if name not in files:
            raise UserError(
                "no such corpus",
                file=asked_by,
                field="data.general.corpus",
                value=name,
                fix=nearest(name, list(files), f"Declare it in corpora/{name}.yaml"),
            )
        file = files[name]
        if file.suffix == SUFFIXES[0] and os.path.lexists(other := file.with_suffix(SUFFIXES[1])):
            raise UserError("this corpus is declared twice", file=other, fix=f"Remove this file or {file}")
        fix = "See `ft-dagster schema --corpus` for what the field takes"
        return validate(
            CorpusSpec,
            read_yaml(file, fix=f"{FIELDS}; `ft-dagster schema --corpus` lists them"),
            lambda path: file,
            fix,
        )

    @cached_property
    def _listed(self) -> tuple[dict[VariantKey, Path], dict[Path, UserError]]:
        keys: dict[VariantKey, Path] = {}
        wrong: dict[Path, UserError] = {}
        for place in sorted(name.split("/") for pattern in PATTERNS for name in self._named(pattern)):
            stem, suffix = os.path.splitext(place[-1])
            if stem.startswith(".") or place == [DEFAULTS]:
                continue
            file = self.folder.joinpath(*place)
            if len(place) > 2:
                if suffix in SUFFIXES and not self._is_linked(place[:-1]) and _is_meant(file):
                    problem = "declares nothing: it is in a folder below its tenant's"
                    fix = f"Move it to tenants/{place[0]}/{file.name}"
                    wrong[file] = UserError(problem, file=file, fix=fix)
                continue
            if suffix not in SUFFIXES:
                if file.name.lower().endswith(MISTAKEN) and _is_meant(file):
                    fix = f"Name it {file.name.split('.')[0]}{SUFFIXES[0]}"
                    problem = f"declares nothing: a declaration's file ends in {SUFFIXES[0]}"
                    wrong[file] = UserError(problem, file=file, fix=fix)
                continue
            if len(place) == 1:
                fix = (
                    f"Move it to tenants/<tenant>/{file.name}, or name it {DEFAULTS} if all tenants share it"
                )
                wrong[file] = UserError("declares nothing: it is in no tenant's folder", file=file, fix=fix)
                continue
            try:
                keys.setdefault(VariantKey.parse(f"{place[0]}.{stem}", file=file), file)
            except UserError as error:
                wrong[file] = error
        return keys, wrong

    def _named(self, pattern: str) -> list[str]:
        """Return the files by their path below the folder, as text: to make and to sort a Path of each takes
        long.
        """
        return glob(pattern, root_dir=self.folder, include_hidden=True)

    def _is_linked(self, folders: list[str]) -> bool:
        """Say whether one of these folders, each in the one before it, is a link or hidden."""
        above = [self.folder.joinpath(*folders[: depth + 1]) for depth in range(len(folders))]
        return any(folder.is_symlink() or folder.name.startswith(".") for folder in above)

    def _find(self, key: VariantKey) -> Path | None:
        places = (self.folder / key.tenant / f"{key.variant}{suffix}" for suffix in SUFFIXES)
        return next((place for place in places if self._stamp(place) is not None), None)

    def _stamp(self, file: Path) -> Stamp | None:
        if file not in self._stamps:
            self._stamps[file] = _stamp_of(file)
        return self._stamps[file]

    def _judge(self, key: VariantKey, file: Path) -> ReadDeclaration:
        if key not in self._judged:
            other = file.with_suffix(SUFFIXES[1])
            defaults = self.folder / DEFAULTS
            stamps = (self._stamp(file), self._stamp(other), self._stamp(defaults))
            judged = _REMEMBERED.get(file, stamps)
            if judged is None:
                twice = other if other != file and stamps[1] not in (None, UNREADABLE) else None
                try:
                    judged = self._judge_anew(key, file, twice)
                    _REMEMBERED.put(file, stamps, judged)
                except Exception as error:  # nobody foresaw it: still it is of this declaration alone
                    judged = _unreadable(_unforeseen(error, file), file)
            self._judged[key] = judged
        return self._judged[key]

    def _judge_anew(self, key: VariantKey, file: Path, twice: Path | None) -> ReadDeclaration:
        inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(file.parent))
        if not inside and file.is_file():
            fix = "Put the declaration itself there"
            return _unreadable(UserError("a link out of the tenant's folder", file=file, fix=fix), file)
        if key.tenant == RESERVED:
            problem = "no tenant may be named so: costs of what all tenants share stand under this name"
            fix = f"Rename the folder tenants/{RESERVED}; what was made under it stays in the store as it is"
            return _unreadable(UserError(problem, file=file, value=RESERVED, fix=fix), file)
        if twice is not None:
            fix = f"Remove this file or {file}"
            return _unreadable(UserError(f"variant {key} is declared twice", file=twice, fix=fix), file)
        try:
            own = read_yaml(file, fix="Start from `ft-dagster init` or see `ft-dagster schema`")
            if isinstance(self._defaults, UserError):
                raise self._defaults
            merged = merge(own, self._defaults)
        except UserError as error:
            return _unreadable(error, file)
        shared = self.folder / DEFAULTS

        def file_of(path: str) -> Path:
            return shared if merged.from_defaults(path) else file

        said = file_of("base_model.variant")
        try:
            spec = validate(VariantSpec, merged.content, file_of)
        except UserError as error:
            return ReadDeclaration(None, {}, all_of(error), merged.content, said)
        origins = merged.origins(spec.model_dump(mode="json"), file.name, f"tenants/{DEFAULTS}")
        return ReadDeclaration(spec, origins, tuple(unfit(spec, file_of)), merged.content, said)

    @cached_property
    def _defaults(self) -> dict[str, Any] | UserError:
        file = self.folder / DEFAULTS
        stamp = self._stamp(file)
        known: dict[str, Any] | None = {} if stamp is None else _REMEMBERED.get(file, (stamp,))
        if known is None:
            try:
                known = read_yaml(file)
            except UserError as error:
                return error
            _REMEMBERED.put(file, (stamp,), known)
        return known

    def _wrong_parents(self, key: VariantKey, judged: ReadDeclaration) -> UserError | None:
        """Return the error of a parent that is undeclared or of another tenant, or of a cycle of parents."""
        named = str(judged.parent)

        def error(problem: str, fix: str) -> UserError:
            return UserError(
                problem, file=judged.file_of_base, field="base_model.variant", value=named, fix=fix
            )

        try:
            parent = VariantKey.parse(named)
        except UserError as wrong:
            return error(wrong.problem, wrong.fix)
        if parent.tenant != key.tenant:
            fix = "Publish its model as a folder, and name that as base_model.source"
            return error("a variant of another tenant: tenants are sealed", fix)
        if self._find(parent) is None:
            known = [str(other) for other in self.files if other.tenant == key.tenant and other != key]
            return error("no such variant", nearest(named, known, f"Declare it in tenants/{parent.tenant}/"))
        cycle = self._cycle(key)
        if cycle:
            shown = " → ".join(map(str, cycle))
            return error(f"a cycle of parents: {shown}", "Let one of them start from a base_model.source")
        return None

    def _cycle(self, key: VariantKey) -> tuple[VariantKey, ...]:
        """Return the cycle that a variant's parents come to, its first again at its end; () where they
        end.
        """
        path: dict[VariantKey, None] = {}
        at: VariantKey | None = key
        while at is not None and at not in self._cycles and at not in path:
            path[at] = None
            at = self._parent(at)
        if at in path:
            chain = list(path)
            found: tuple[VariantKey, ...] = (*chain[chain.index(at) :], at)
        else:
            found = () if at is None else self._cycles[at]
        self._cycles |= dict.fromkeys(path, found)
        return found

    def _parent(self, key: VariantKey) -> VariantKey | None:
        """Return the declared parent. Its other mistakes are reported for it, not for its children."""
        file = self._find(key)
        named = None if file is None else self._judge(key, file).parent
        try:
            return None if named is None else VariantKey.parse(named)
        except UserError:
            return None


def unfit(spec: VariantSpec, file_of: Callable[[str], Path]) -> Iterator[UserError]:
    """Yield each conflict between fields that are valid by themselves, as an error. What is declared now is
    judged: a frozen declaration from before a rule stays readable.
    """
    if not spec.data.splits.test and not spec.evaluation.task:
        yield UserError(
            "no question is left for the task: there is no test split, and no task is declared",
            file=file_of("data.splits.test"),
            field="data.splits.test",
            value=spec.data.splits.test,
            fix="Give it a share of the rows, or declare evaluation.task",
        )
    yield from _columns_twice(spec, file_of)
    yield from _idle_limits(spec, file_of)


def _columns_twice(spec: VariantSpec, file_of: Callable[[str], Path]) -> Iterator[UserError]:
    """Columns that are read under two names: a question that is its own answer teaches nothing."""
    for place, source in enumerate(spec.data.sources):
        columns = list(source.fields.values())
        for column in dict.fromkeys(each for each in columns if columns.count(each) > 1):
            ours = " and ".join(name for name, theirs in source.fields.items() if theirs == column)
            yield UserError(
                f"{ours} are the same column",
                file=file_of("data.sources"),
                field=f"data.sources[{place}].fields",
                value=column,
                fix="Name a column of its own for each",
            )


def _idle_limits(spec: VariantSpec, file_of: Callable[[str], Path]) -> Iterator[UserError]:
    """Limits of forgetting that nothing would be measured for."""
    watch, needed = spec.training.watch, dict[str, str]()
    if spec.data.general is None:
        needed["general_loss_limit"] = "data.general, on whose held-out text that loss is measured"
    if not spec.evaluation.general:
        needed["benchmark_limit"] = "a benchmark in evaluation.general, to ask questions of"
    for name, needs in needed.items():
        field, limit = f"training.watch.{name}", getattr(watch, name)
        if limit is not None:
            yield UserError(
                "a limit that could not act: nothing is measured that it limits",
                file=file_of(field),
                field=field,
                value=limit,
                fix=f"Declare {needs}, or set this to null in the variant",
            )


def _unreadable(error: UserError, file: Path) -> ReadDeclaration:
    return ReadDeclaration(None, {}, all_of(error), {}, file)


def _unforeseen(error: Exception, file: Path) -> UserError:
    raised = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{Path(raised.filename).name}:{raised.lineno}"
    problem = f"reading it failed with {type(error).__name__}: {error} (at {at})"
    return UserError(problem, file=file, fix="Report this as a bug of ft_dagster, with the file")


def _text(stamp: Stamp | None) -> str:
    return "none" if stamp is None else ".".join(map(str, stamp))


def _is_meant(file: Path) -> bool:
    """Say whether a file names a base, as declarations do; not, where it is a link or cannot be read."""
    if file.is_symlink() or not file.is_file():
        return False
    try:
        with file.open("rb") as content:
            return b"base_model" in content.read(MOST_READ)
    except OSError:
        return False


def _stamp_of(file: Path) -> Stamp | None:
    """Return a file's stamp. None: the file is not there; of a link to nothing, the link's own; UNREADABLE in
    a closed folder.
    """
    try:
        found = file.stat()
    except OSError:
        try:
            found = os.lstat(file)
        except PermissionError:
            return UNREADABLE
        except OSError:
            return None
    return Stamp.of(found)
