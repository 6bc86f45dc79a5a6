"""Publishes a released version as a folder of its own or a repository of a model hub: payload, card,
certificate.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.sources.hub import hub_errors
from ft_dagster.data.sources.locations import HUB_ID
from ft_dagster.errors import UserError
from ft_dagster.export.weights_signature import FILE as MODEL_SIG
from ft_dagster.export.weights_signature import can_sign, sign_weights
from ft_dagster.extras import of_train
from ft_dagster.lineage.release import export_of, history
from ft_dagster.lineage.served import aliases, versions_in
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey

CARD = "README.md"
BESIDE = (CARD, "certificate.json")  # of the evidence, what goes with the payload
UNNUMBERED = re.compile(r"^\| version \| the one that the release log gives .*$", re.MULTILINE)  # of a card


class Published(NamedTuple):
    """Says where a version was published. `where`: the folder, or the address of the commit; `digest`: of the
    payload.
    """

    version: int
    digest: str
    where: str


def publish_to_folder(settings: Settings, key: VariantKey, version: int | None, folder: Path) -> Published:
    """Write a version (None: the one in production) into a folder that is empty or not there. Its bytes are
    hashed again first; where this process has an elliptic key, `model.sig` signs them. Raises UserError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("not an empty folder", value=str(folder), fix="Name another, or empty it")
    version, digest = _copy(settings, key, version, folder)
    return Published(version, digest, str(folder))


def publish_to_hub(
    settings: Settings, key: VariantKey, version: int | None, repo: str, *, private: bool = True
) -> Published:
    """Upload a version (None: the one in production) as one commit of a repository, which is made where it is
    not there, in place of all that it held. Raises UserError, for one that is public, unless not `private`.
    """
    if not HUB_ID.fullmatch(repo):
        raise UserError("not a repository", value=repo, fix="Write it as org/name")
    with of_train():
        from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="ft_dagster-") as made:
        version, digest = _copy(settings, key, version, Path(made) / "model")
        with hub_errors(repo, "model"):
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            if private and not api.repo_info(repo).private:
                fix = "Name another one, or say --public"
                raise UserError("the repository is there, and everybody reads it", value=repo, fix=fix)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=Path(made) / "model",
                commit_message=f"{key} version {version} ({digest[:12]})",
                delete_patterns="*",
            )
    return Published(version, digest, str(done.commit_url))


def _copy(settings: Settings, key: VariantKey, version: int | None, folder: Path) -> tuple[int, str]:
    store = settings.open_store()
    if version is None:
        version = aliases(history(store, key.prefix))["production"]
    if version is None:
        fix = f"Run it and release it, or name a --version (see `ft-dagster history {key}`)"
        raise UserError("no version is in production", value=str(key), fix=fix)
    export = export_of(store, key.prefix, version, settings.cache_folder)
    lies = export.folder(store, settings.cache_folder)
    entry = versions_in(history(store, key.prefix))[version]
    signer = None if store.trust is None else store.trust.signer
    files = "these files are unsigned"
    if signer is not None and can_sign(signer):
        files = f"these files are signed by {signer.key.name} (`{MODEL_SIG}`)"
    try:
        shutil.copytree(lies / "payload", folder, dirs_exist_ok=True)
        for name in BESIDE:
            if (lies / "evidence" / name).is_file():
                shutil.copyfile(lies / "evidence" / name, folder / name)
        if (folder / CARD).is_file():
            card = with_version((folder / CARD).read_text("utf-8"), version, f"{entry.signed}; {files}")
            (folder / CARD).write_text(card, "utf-8")
        if signer is not None:
            sign_weights(signer, folder)
    except OSError as error:
        said = error.strerror or f"{error}"
        raise UserError(f"cannot be written: {said}", value=str(folder), fix="Name another folder") from None
    return version, export.digest


def with_version(card: str, version: int, signed: str) -> str:
    """Return a card with the number of its version, and with who signed: it was written before either."""
    return UNNUMBERED.sub(f"| version | {version} |\n| release | {signed} |", card)
