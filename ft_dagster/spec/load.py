"""Read declarations: safe YAML without duplicate keys, defaults beneath, and where each value came from."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.variant import CorpusSpec, VariantSpec, not_yet

DEFAULTS = "defaults.yaml"
SHORTHANDS = {  # a plain string stands for this field
    "base_model": "source",
    "data.deduplicate": "method",
    "method": "name",
    "training.deepspeed": "stage",
    "export": "format",
}
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Declared:
    """A validated declaration and each leaf value's origin (dotted path -> file or "built-in")."""

    key: VariantKey
    file: Path
    spec: VariantSpec
    origins: dict[str, str]


def variant_files(project: Path) -> dict[VariantKey, Path]:
    """Every tenants/<tenant>/<variant>.yaml of the project, by key. Raises UserError on a bad name."""
    files: dict[VariantKey, Path] = {}
    for file in sorted((project / "tenants").glob("*/*.y*ml")):
        if file.suffix not in (".yaml", ".yml"):
            continue
        key = VariantKey.parse(f"{file.parent.name}.{file.stem}", file=file)
        if key in files:
            raise UserError(
                f"variant {key} is declared twice", file=file, fix=f"Remove this file or {files[key]}"
            )
        files[key] = file
    return files


def load_variant(project: Path, key: VariantKey) -> Declared:
    """Read tenants/<tenant>/<variant>.yaml over tenants/defaults.yaml. Raises UserError."""
    file = variant_files(project).get(key)
    if file is None:
        known = [str(other) for other in variant_files(project)]
        raise UserError(
            "no such variant",
            value=str(key),
            file=project / "tenants",
            fix=_nearest(str(key), known, "Declare it in tenants/<tenant>/<variant>.yaml"),
        )
    own = read_yaml(file)
    defaults_file = project / "tenants" / DEFAULTS
    merged, taken, defaults = _with_defaults(project, own)
    spec = _validate(VariantSpec, merged, lambda path: defaults_file if _within(path, taken) else file)
    waiting = not_yet(spec)
    if waiting:
        field, value = waiting
        raise UserError("not yet built", file=file, field=field, value=value, fix="Leave it out for now")
    if not spec.data.splits.test and not spec.evaluation.task:
        raise UserError(
            "no question is left for the task: there is no test split, and no task is declared",
            file=file,
            field="data.splits.test",
            value=spec.data.splits.test,
            fix="Give it a share of the rows, or declare evaluation.task",
        )
    name = f"tenants/{DEFAULTS}"

    def origin(path: str) -> str:
        if _within(path, taken):
            return name if _given(defaults, path) else "built-in"
        return file.name if _given(own, path) else "built-in"

    if spec.base_model.variant is not None:
        _check_parents(project, key, spec.base_model.variant)
    origins = {path: origin(path) for path in _leaves(spec.model_dump(mode="json"))}
    return Declared(key, file, spec, origins)


def _check_parents(project: Path, key: VariantKey, named: str) -> None:
    """Raises UserError for a parent that is undeclared or of another tenant, and for a cycle of parents."""
    files = variant_files(project)
    file, field = files[key], "base_model.variant"
    parent = VariantKey.parse(named, file=file)
    if parent.tenant != key.tenant:
        fix = "Publish its model as a folder, and name that as base_model.source"
        raise UserError(
            "a variant of another tenant: tenants are sealed", file=file, field=field, value=named, fix=fix
        )
    if parent not in files:
        known = [str(other) for other in files if other.tenant == key.tenant]
        fix = _nearest(named, known, f"Declare it in tenants/{parent.tenant}/")
        raise UserError("no such variant", file=file, field=field, value=named, fix=fix)
    chain: list[VariantKey] = [key]
    following: VariantKey | None = parent
    while following is not None and following in files:
        if following in chain:
            cycle = " → ".join(str(link) for link in [*chain[chain.index(following) :], following])
            fix = "Let one of them start from a base_model.source"
            raise UserError(f"a cycle of parents: {cycle}", file=file, field=field, value=named, fix=fix)
        chain.append(following)
        following = _named_parent(files[following], project)


def _named_parent(file: Path, project: Path) -> VariantKey | None:
    """The parent that a declaration names. What else is wrong there is said when it is loaded."""
    try:
        base = _with_defaults(project, read_yaml(file))[0].get("base_model")
        named = base.get("variant") if isinstance(base, dict) else None
        return None if named is None else VariantKey.parse(str(named))
    except UserError:
        return None


def load_corpus(project: Path, name: str, *, asked_by: object = None) -> CorpusSpec:
    """Read corpora/<name>.yaml. Raises UserError."""
    known = sorted(file.stem for file in (project / "corpora").glob("*.yaml"))
    if name not in known:
        raise UserError(
            "no such corpus",
            file=asked_by,
            field="data.general.corpus",
            value=name,
            fix=_nearest(name, known, f"Declare it in corpora/{name}.yaml"),
        )
    file = project / "corpora" / f"{name}.yaml"
    return _validate(CorpusSpec, read_yaml(file), lambda path: file)


def read_yaml(file: Path) -> dict[str, Any]:
    """Safe-load a mapping; duplicate keys, other types and broken syntax raise UserError."""
    try:
        content = yaml.load(file.read_text("utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(
            f"{problem}", file=file, line=None if mark is None else mark.line + 1, fix="Mend the YAML"
        ) from None
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", file=file, fix="Save the file as UTF-8") from None
    if not isinstance(content, dict):
        what = "empty" if content is None else "not a mapping of fields"
        raise UserError(what, file=file, fix="Start from `ft-dagster init` or see `ft-dagster schema`")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _with_defaults(project: Path, own: dict[str, Any]) -> tuple[dict[str, Any], set[str], dict[str, Any]]:
    """(the declaration over the defaults, the paths that these supplied, the defaults)"""
    file = project / "tenants" / DEFAULTS
    defaults = read_yaml(file) if file.exists() else {}
    return *_merge(own, defaults), defaults


def _merge(own: dict[str, Any], defaults: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """`own` over `defaults`, field by field; with the dotted paths that `defaults` supplied."""
    merged, taken = dict(own), set()
    for name, value in defaults.items():
        if name not in own:
            merged[name] = value
            taken.add(name)
        elif isinstance(value, dict) and isinstance(own[name], dict):
            merged[name], below = _merge(own[name], value)
            taken |= {f"{name}.{path}" for path in below}
    return merged, taken


def _validate(model: type[T], content: dict[str, Any], file_of: Callable[[str], Path]) -> T:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        field = ".".join(str(part) for part in path)
        raise UserError(
            _problem(first),
            file=file_of(field),
            field=field or None,
            value=_value(first),
            fix=_fix(model, path, first),
        ) from None


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "needed, but not given"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _value(error: Any) -> object:
    return None if error["type"] in ("missing", "extra_forbidden") else error["input"]


def _fix(model: type[BaseModel], path: list[Any], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        known = list(_model_at(model, path[:-1]).model_fields)
        return _nearest(str(path[-1]), known, f"Known here: {', '.join(known)}")
    return "See `ft-dagster schema` for what the field takes"


def _model_at(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = None if field is None else _inner_model(field.annotation)
        model = inner or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in get_args(annotation) if (m := _inner_model(arg))), None)


def _nearest(name: str, known: list[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else otherwise


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict) or not tree:
        return [prefix]
    return [
        leaf
        for name, value in tree.items()
        for leaf in _leaves(value, f"{prefix}.{name}" if prefix else name)
    ]


def _within(path: str, taken: set[str]) -> bool:
    return any(path == given or path.startswith(given + ".") for given in taken)


def _given(own: dict[str, Any], path: str) -> bool:
    """Whether a file says `path`, or says a shorthand that stands for it."""
    tree: Any = own
    names = path.split(".")
    for depth, name in enumerate(names):
        if not isinstance(tree, dict):
            return SHORTHANDS.get(".".join(names[:depth])) == name
        if name not in tree:
            return False
        tree = tree[name]
    return True
