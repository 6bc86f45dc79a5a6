"""Resolves base models: a reference plus the digest of each file, found again and checked wherever they are
used.

Safetensors only; code that comes with a model is never run.
"""

from __future__ import annotations

import difflib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.data.sources.hub import hub_errors, pin_revision
from ft_dagster.data.sources.locations import HUB_ID, HUB_LIST, DeclaredAt, is_s3, s3, s3_errors
from ft_dagster.errors import UserError
from ft_dagster.extras import of_train
from ft_dagster.files import expanded, refuse_special_files, what_is_there
from ft_dagster.model_files.weights import (
    CONFIG,
    INDEX,
    TEMPLATES,
    architecture_of,
    has_chat_template,
    measure_weights,
    no_weights,
    read_config,
    tokenizer_files,
    used_files,
    weight_files,
)
from ft_dagster.models.base_record import SCHEMA_VERSION, BaseRecord
from ft_dagster.models.load_report import unused_tensors
from ft_dagster.provenance.digest import FileDigest, payload_digest, sha256_json
from ft_dagster.provenance.hash_cache import cached_sha256
from ft_dagster.roots import Roots, of_elsewhere, outside
from ft_dagster.spec.variant import BaseModelSpec

FIELD = "base_model"


@dataclass(frozen=True)
class ResolvedBase:
    """Is a base on this machine. `reference` is its declared source, `revision` a hub commit or None.

    `content` is that of base.json, see `BaseRecord`. `unused`: stored tensors that its class has no place
    for.
    """

    folder: Path
    reference: str
    revision: str | None
    files: list[FileDigest]
    content: dict[str, Any]
    unused: tuple[str, ...] = ()

    @property
    def record(self) -> BaseRecord:
        return BaseRecord.model_validate(self.content)


def resolve_base(
    spec: BaseModelSpec,
    project: Path,
    cache: Path,
    *,
    declared_in: object = None,
    roots: Roots | None = None,
    bound: bool = False,
) -> ResolvedBase:
    """Find the base of a local folder, a hub id or an s3:// prefix, and hash the files that loading reads.

    `roots`: what the tenant who names it may read; None: all. `bound`: the platform lists bases, so that one
    of the hub has to be of its repository's default branch (as where `roots` list repositories).
    What is not local is downloaded below `cache`. Raises UserError for a base that is missing or has
    no config.json, no safetensors, no tokenizer, lacks a tensor, or needs code of its own.
    """
    if spec.source is None:
        fix = "Name a source, or ask for the variant's release"
        raise UserError("a variant, not a model folder", file=declared_in, field=f"{FIELD}.variant", fix=fix)
    revision = None
    if roots is not None:
        _check_place(spec, spec.source, project, roots, declared_in)
    if is_s3(spec.source):
        folder = _from_s3(spec.source, cache, DeclaredAt(declared_in, FIELD))
    elif _is_local(spec, spec.source, project):
        folder = _local(spec.source, project)
        _check_folder(folder, spec.source, declared_in, roots)
    else:
        listed = bound or (roots is not None and roots.lists_hub)
        field = f"{FIELD}.source"
        revision = pin_revision(
            spec.source, spec.revision, "model", file=declared_in, field=field, bound=listed
        )
        folder = _from_hub(spec.source, revision, cache, declared_in)
    _check_config(folder)
    content = describe_base(folder, spec.source, revision, cache)
    files = [FileDigest(**file) for file in content["files"]]
    unused = unused_tensors(folder, files, cache)
    return ResolvedBase(folder, spec.source, revision, files, content, unused)


def base_from(place: str, here: Path, field: str) -> str:
    """Return a base, named from the folder `here`, as it is named from anywhere: a folder's path is made
    absolute.

    An address and a repository of the hub stay as they are, unasked. Raises UserError (of `field`) for a
    folder that is not there or holds no model.
    """
    if not place:
        raise UserError("an empty name", field=field, fix="Name the base model")
    if is_s3(place) or not _is_local(BaseModelSpec(source=place), place, here):
        return place
    folder = Path(os.path.normpath(_local(place, here)))
    try:
        _check_folder(folder, place)
        _check_config(folder)
    except UserError as error:
        raise UserError(error.problem, field=field, value=str(folder), fix=error.fix) from None
    return str(folder)


def locate_base(record: BaseRecord, project: Path, cache: Path, *, verify: bool = False) -> Path:
    """Return the folder of a recorded base on this machine, downloaded where it must be.

    Sizes are always compared, hashes too: of a file that looks as it did when last hashed, the
    remembered one; `verify` hashes each again. Raises UserError when a file is not what it was.
    """
    reference, revision = record.reference, record.revision
    if is_s3(reference):
        folder = _from_s3(reference, cache, DeclaredAt(None, FIELD))
    elif revision:
        folder = _from_hub(reference, revision, cache, None)
    else:
        folder = _local(reference, project)
        _check_folder(folder, reference)
    for file in record.files:
        here = folder / file.path
        if not here.is_file():
            raise _changed(here, "is gone")
        if here.stat().st_size != file.size:
            raise _changed(here, "has another size")
        if cached_sha256(here, cache, fresh=verify) != file.sha256:
            raise _changed(here, "has other bytes")
    return folder


def _changed(file: Path, what: str) -> UserError:
    return UserError(
        f"base model changed on disk: the file {what} since it was recorded",
        file=file,
        fix="Restore the file, or materialize base_model again: what depends on it is then made again",
    )


def describe_base(
    folder: Path, reference: str, revision: str | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Return the content of base.json for a model folder; see ResolvedBase. Raises UserError for an unsafe
    one.
    """
    files = _digests(folder, cache)
    config = read_config(folder)
    weights = measure_weights(folder, weight_files(folder))
    tokenizer = set(tokenizer_files(folder))
    return {
        "schema_version": SCHEMA_VERSION,
        "reference": reference,
        "revision": revision,
        "files": [file._asdict() for file in files],
        "architecture": architecture_of(config),
        "parameters": weights.parameters,
        "weights_bytes": weights.nbytes,
        "dtype": weights.dtype,
        "chat_template": has_chat_template(folder),
        "tokenizer": payload_digest([file for file in files if file.path in tokenizer]),
    }


def _digests(folder: Path, cache: Path | None) -> list[FileDigest]:
    weights = weight_files(folder)
    index = [INDEX] if len(weights) > 1 or (folder / INDEX).is_file() else []
    config = used_files([path.name for path in folder.iterdir()])
    names = sorted({*weights, *index, *config, *tokenizer_files(folder)})
    return [
        FileDigest(name, (folder / name).stat().st_size, cached_sha256(folder / name, cache))
        for name in names
    ]


def _local(source: str, project: Path) -> Path:
    return project.absolute() / expanded(source)


def _is_local(spec: BaseModelSpec, source: str, project: Path) -> bool:
    """Say whether a source is a folder: `models/x` is a missing folder, not a hub id, where the project has
    `models` and names no revision.
    """
    if _local(source, project).exists() or not HUB_ID.fullmatch(source):
        return True
    return spec.revision is None and (project / source.split("/", maxsplit=1)[0]).is_dir()


def check_place(spec: BaseModelSpec, project: Path, roots: Roots, declared_in: object) -> None:
    """Raises UserError for a base that the tenant may not name, of which nothing is looked at."""
    if spec.source is not None:
        _check_place(spec, spec.source, project, roots, declared_in)


def _check_place(spec: BaseModelSpec, source: str, project: Path, roots: Roots, declared_in: object) -> None:
    """Raises UserError for a base that the tenant may not name; of a folder outside nothing is looked at."""
    outer = not HUB_ID.fullmatch(source)  # an absolute path, or one that leaves the project
    if is_s3(source):
        allowed = roots.may_fetch(source, base=True)
    elif outer or _is_local(spec, source, project):
        allowed = roots.may_read(_local(source, project), base=True)
    elif roots.may_ask_hub(source):
        allowed = True
    else:
        raise DeclaredAt(declared_in, FIELD).error(
            "not a repository of the platform's list", source, HUB_LIST, "source"
        )
    if not allowed:
        raise outside(source, file=declared_in, field=f"{FIELD}.source", base=True)


def _check_folder(folder: Path, source: str, declared_in: object = None, roots: Roots | None = None) -> None:
    if folder.is_dir():
        refuse_special_files(folder)
        files = (*folder.iterdir(), *(folder / TEMPLATES).glob("*"))
        if roots is not None and not all(roots.may_read(file, base=True) for file in files):
            raise outside(source, file=declared_in, field=f"{FIELD}.source", base=True)
        return
    parent = folder.parent
    seen = parent.is_dir() and (roots is None or roots.may_read(parent, base=True))
    names = sorted(path.name for path in parent.iterdir() if path.is_dir()) if seen else []
    close = difflib.get_close_matches(folder.name, names, n=1)
    fix = f"Did you mean {parent / close[0]}?" if close else "Name a folder, a hub id or an s3:// prefix"
    fix = of_elsewhere(source) or fix
    what = "a file, not a model folder" if folder.is_file() else what_is_there(folder, "base model folder")
    raise UserError(what, file=declared_in, field=f"{FIELD}.source", value=source, fix=fix)


def _check_config(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        fix = "Name the folder that holds config.json and the weights"
        if any(folder.glob("*.gguf")):
            fix += ": GGUF is made from them for inference, and cannot be trained"
        raise UserError("a base model without config.json", file=folder, field=f"{FIELD}.source", fix=fix)


def _from_hub(repo: str, revision: str, cache: Path, declared_in: object) -> Path:
    """Return the snapshot of a hub repository at a commit: from the cache, or downloaded without pickles."""
    with of_train():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = {
        "repo_id": repo,
        "revision": revision,
        "cache_dir": cache / "hub",
        "allow_patterns": ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"],
        "ignore_patterns": ["*/*.safetensors", "*/*.json", "consolidated*"],
    }
    with hub_errors(repo, "model", file=declared_in, field=f"{FIELD}.source"):
        try:
            folder = Path(snapshot_download(**wanted, local_files_only=True))
            weight_files(folder)
        except (LocalEntryNotFoundError, UserError):
            folder = Path(snapshot_download(**wanted))
    if not any(folder.glob("*.safetensors")):
        raise no_weights(f"{repo}@{revision[:12]}", _hub_names(repo, revision))
    return folder


def _hub_names(repo: str, revision: str) -> list[str]:
    from huggingface_hub import HfApi

    with hub_errors(repo, "model"):
        return list(HfApi().list_repo_files(repo, revision=revision))


def _from_s3(url: str, cache: Path, asked: DeclaredAt) -> Path:
    """Return a copy of an s3:// prefix. Its folder is named by the objects' sizes and ETags, so it never
    changes.
    """
    root = url[5:].rstrip("/")
    if not root:
        raise asked.error("names no bucket", url, "Write s3://bucket/prefix", "source")
    with s3_errors(url, asked):
        fs = s3()
        found = {path[len(root) + 1 :]: info for path, info in fs.find(root, detail=True).items()}
        names = used_files(list(found)) + [n for n in found if n.endswith(".safetensors") and "/" not in n]
        names += [INDEX] if INDEX in found else []
        if CONFIG not in found:
            raise asked.error("no config.json there", url, "Name the prefix of a model folder", "source")
        if not any(name.endswith(".safetensors") for name in names):
            raise no_weights(url, [*found])
        listing = [[name, found[name]["size"], found[name].get("ETag")] for name in sorted(names)]
        folder = cache / "bases" / sha256_json([url, listing])
        if not folder.is_dir():
            _download(fs, root, sorted(names), folder)
    return folder


def _download(fs: Any, root: str, names: list[str], folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        (draft / TEMPLATES).mkdir(parents=True)
        for name in names:
            fs.get_file(f"{root}/{name}", str(draft / name))
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
