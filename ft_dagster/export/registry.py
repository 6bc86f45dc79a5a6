"""Releases in MLflow's model registry, for those who look there. The release log stays what counts.

A push brings a registered model, `acme.support`, to what the log says: a model version for each released
version, with its lineage as tags, and the aliases `production` and `candidate`. It may be made again at any
time, and adds only what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.release import export_of, history
from ft_dagster.lineage.served import aliases
from ft_dagster.lineage.serving import Standing, said
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Artifact

TAG = "ft_dagster."  # what the names of our tags begin with
VERSION = f"{TAG}version"
MAY_NOT_SERVE = f"{TAG}may_not_serve"  # of the version in production: why it may no longer be served
LONGEST = 500  # characters of that
FOLDER = "model"  # of a run's artifacts: the payload as it was released
MOST = 1000  # model versions that are read at once
EVIDENCE = ("README.md", "certificate.json")  # the model card, and what holds for the bytes
LINEAGE = (
    *("variant", "version", "format", "export", "weights", "evaluation", "verdict", "gates", "certificate"),
    *("run_id", "by", "reason", "at"),
)
# MLflow's client tries a server that does not answer for minutes, and prints where its runs are shown: a push
# is tried again by itself, and what a command prints is its own.
CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Pushed(NamedTuple):
    """Says what was pushed. `versions`: that were new to the registry; `moved`: aliases by what they name
    now, None: nothing; `left_out`: versions whose export is not in the store any more, or which are withheld,
    with the reason. `unserved`: the version in production, where it may no longer be served.
    """

    versions: tuple[int, ...]
    moved: dict[str, int | None]
    left_out: dict[int, str]
    unserved: Standing | None = None

    def to_json(self) -> dict[str, object]:
        unserved = None if self.unserved is None else self.unserved.to_json()
        return {**self._asdict(), "unserved": unserved}

    @property
    def said(self) -> str:
        parts = [f"version {version} registered" for version in self.versions]
        parts += [
            f"{name} is {'no version' if version is None else f'version {version}'}"
            for name, version in self.moved.items()
        ]
        parts += [f"version {version} left out: {why}" for version, why in self.left_out.items()]
        parts += [] if self.unserved is None else [self.unserved.said]
        return ", ".join(parts) or "as the release log says already"


def push_releases(
    settings: Settings, key: VariantKey, unserved_of: Callable[[VariantKey], Standing | None]
) -> Pushed:
    """Bring the registry to the log of a variant. A version in production that is withheld is not registered,
    and `production` is not moved to it; what names it already stays.

    Raises UserError: no registry is named, mlflow is not installed, the registry or the place of its files
    cannot be reached or refuses, or the log does not hold.
    """
    past = history(settings.open_store(), key.prefix)
    unserved = unserved_of(key) if past else None
    withheld = {unserved.version} if unserved is not None and unserved.withheld else set[int]()
    with _registry(settings) as client:
        name = str(key)
        known = _known(client, name)
        missing = [entry for entry in past if entry.action == RELEASE and entry.version not in known]
        if missing and not known:
            _make_model(client, name)
        left_out = dict[int, str]()
        for entry in missing:
            if unserved is not None and entry.version in withheld:
                left_out[entry.version] = said(unserved.findings)
                continue
            try:
                export = export_of(settings.open_store(), key.prefix, entry.version, settings.cache_folder)
            except UserError as error:
                left_out[entry.version] = error.problem
                continue
            known[entry.version] = _register(client, settings, name, entry, export)
        wanted = {alias: version for alias, version in aliases(past).items() if version not in withheld}
        moved = _move(client, name, known, wanted) if known else {}
        if known:
            _mark(client, name, unserved)
    new = (entry.version for entry in missing if entry.version not in left_out)
    return Pushed(tuple(new), moved, left_out, unserved)


def _mark(client: Any, name: str, unserved: Standing | None) -> None:
    """Let the version in production say why it may no longer be served, and no other one."""
    for one in client.search_model_versions(f"name = '{name}'", max_results=MOST):
        is_it = unserved is not None and one.tags.get(VERSION) == str(unserved.version)
        words = said(unserved.findings)[:LONGEST] if unserved is not None and is_it else None
        if words is None and MAY_NOT_SERVE in one.tags:
            client.delete_model_version_tag(name, one.version, MAY_NOT_SERVE)
        elif words is not None and one.tags.get(MAY_NOT_SERVE) != words:
            client.set_model_version_tag(name, one.version, MAY_NOT_SERVE, words)


@contextmanager
def _registry(settings: Settings) -> Iterator[Any]:
    address = settings.registry.mlflow
    if address is None:
        raise UserError(
            "no model registry is named", field="registry.mlflow", fix="Name one in ft_dagster.yaml"
        )
    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError:
        fix = "Install it: pip install 'ft-dagster[mlflow]'"
        raise UserError("mlflow is not installed here", value=address, fix=fix) from None
    try:
        yield MlflowClient(tracking_uri=address, registry_uri=address)
    except UserError:
        raise
    except Exception as error:  # of MLflow's client, and of whatever keeps the files of its server
        said = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the model registry took nothing more: {said}",
            field="registry.mlflow",
            value=address,
            fix="Every release stands; `ft-dagster register` pushes again",
        ) from None


def _known(client: Any, name: str) -> dict[int, str]:
    """Return released version -> its number in the registry."""
    found = client.search_model_versions(f"name = '{name}'", max_results=MOST)
    return {int(one.tags[VERSION]): str(one.version) for one in found if VERSION in one.tags}


def _make_model(client: Any, name: str) -> None:
    """Make the registered model, unless it is there: of that name, or left by a push that was killed."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, tags={f"{TAG}variant": name})


def _register(client: Any, settings: Settings, name: str, entry: ReleaseEntry, export: Artifact) -> str:
    """Upload an export, and make a model version of it with its lineage; returns its number."""
    tags = lineage_tags(entry, export.inputs)
    with export.held(settings.open_store(), settings.cache_folder) as folder:
        run = client.create_run(_experiment(client, settings), run_name=f"{name} v{entry.version}", tags=tags)
        client.log_artifacts(run.info.run_id, str(folder / "payload"), FOLDER)
        for file in EVIDENCE:
            if (folder / "evidence" / file).is_file():
                client.log_artifact(run.info.run_id, str(folder / "evidence" / file), "evidence")
    client.set_terminated(run.info.run_id)
    source = f"{run.info.artifact_uri}/{FOLDER}"
    made = client.create_model_version(name, source, run.info.run_id, tags=tags)
    return str(made.version)


def lineage_tags(entry: ReleaseEntry, inputs: Mapping[str, str]) -> dict[str, str]:
    """Return what of a release leads back to all that made it: digests of the store, and who released it."""
    content = entry.to_json()
    said = {f"{TAG}{name}": str(content[name]) for name in LINEAGE if content.get(name) is not None}
    return {**said, **{f"{TAG}made_of.{name}": digest for name, digest in inputs.items()}}


def _experiment(client: Any, settings: Settings) -> str:
    name = settings.registry.experiment
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _move(
    client: Any, name: str, known: Mapping[int, str], wanted: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Let each alias name the version that the log says; returns those that were moved."""
    there, moved = dict(client.get_registered_model(name).aliases), dict[str, int | None]()
    for alias, version in wanted.items():
        number = None if version is None else known.get(version)
        if number is None and alias in there:
            client.delete_registered_model_alias(name, alias)
            moved[alias] = None
        elif number is not None and str(there.get(alias)) != number:
            client.set_registered_model_alias(name, alias, number)
            moved[alias] = version
    return moved
