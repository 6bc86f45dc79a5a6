"""What a writer of the store may try, done as he would: with an editor, `cp`, `ln` and a second host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.base import locate_base
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.provenance import hash_cache
from ft_dagster.provenance.digest import FileDigest, payload_digest, sha256_file, sha256_json
from ft_dagster.stages.release import check_base
from ft_dagster.store import (
    Artifact,
    Attempt,
    Place,
    Store,
    exclusive,
    find_artifact,
    read_head,
    verify_artifact,
    write_head,
)
from ft_dagster.store.make import Recipe, make_artifact
from tests import releases
from tests.conditional_s3 import honour_conditions
from tests.present import present
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

RECIPE = Recipe("fine_tuned_model", "tenants/acme/support", {"training_plan": "a" * 64}, {"seed": 1})
GOOD, EVIL = "good weights", "evil weights"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def remote(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    return Store(f"s3://{s3_server.bucket}/{tmp_path.name}", s3_server.options, tmp_path / "locks")


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "model").mkdir()
    (attempt.payload / "model" / "adapter.safetensors").write_text(GOOD)
    (attempt.evidence / "log.txt").write_text("it went well")
    return {}


def made(store: Store, tmp_path: Path) -> Artifact:
    artifact = make_artifact(store, tmp_path / "work", RECIPE, build)
    artifact.folder(store, tmp_path / "cache")
    return artifact


def edit(store: Store, change: Callable[[dict[str, Any]], object], place: Place = RECIPE.place) -> None:
    """Change the manifest's predicate where it lies."""
    statement = store.read_json(place.manifest)
    change(statement["predicate"])
    with suppress(KeyError, TypeError):  # what other tools read fits too
        listed = statement["predicate"]["payload"]
        statement["subject"] = [{"name": f["path"], "digest": {"sha256": f["sha256"]}} for f in listed]
    store.write_json(place.manifest, statement)


def refused(store: Store, tmp_path: Path, said: str, place: Place = RECIPE.place) -> None:
    """Neither what uses an artifact nor what verifies it takes this one."""
    for use in (Artifact.folder, lambda found, *rest: verify_artifact(rest[0], found, rest[1])):
        with pytest.raises(UserError, match=said):
            use(present(find_artifact(store, place)), store, tmp_path / "cache")


# The manifest, with an editor.


def swap_the_bytes_and_one_hash(store: Store, tmp_path: Path) -> None:
    file = Path(store.root) / made(store, tmp_path).path / "payload/model/adapter.safetensors"
    file.write_text(EVIL)
    edit(store, lambda predicate: predicate["payload"][0].update(sha256=sha256_file(file)))


def test_swapped_bytes_are_not_released_under_the_original_digest(store: Store, tmp_path: Path) -> None:
    swap_the_bytes_and_one_hash(store, tmp_path)
    refused(store, tmp_path, r"manifest\.json: a manifest that does not hold: its digest is not that of its")


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another key": (lambda p: p.update(key="b" * 64), "and lies elsewhere"),
    "another stage": (lambda p: p.update(stage="model_export"), "and lies elsewhere"),
    "another tenant": (
        lambda p: p.update(variant="globex.support"),
        "it is of globex.support, and lies",
    ),
    "nobody's": (lambda p: p.update(variant=None), "and lies under tenants/acme/support"),
    "other inputs": (lambda p: p["inputs"].update(training_plan="c" * 64), "its key is not that of what"),
    "another seed": (lambda p: p["spec"].update(seed=2), "its key is not that of what it was made from"),
    "a file twice": (lambda p: p["evidence"].append(p["evidence"][0]), "a file is listed twice"),
    "no size": (lambda p: p["evidence"][0].update(size="12"), r"evidence\.0\.size: .*another type"),
    "no payload": (lambda p: p.pop("payload"), "payload: .*a field is absent"),
    "text for a list": (lambda p: p.update(evidence="log.txt"), "evidence: .*a field of another type"),
    "an attempt elsewhere": (lambda p: p.update(attempt="../../.."), "is no name of a folder"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(store: Store, tmp_path: Path, lie: str) -> None:
    made(store, tmp_path)
    change, said = LIES[lie]
    edit(store, change)
    refused(store, tmp_path, said)


def test_a_statement_about_other_files_is_refused(store: Store, tmp_path: Path) -> None:
    """in-toto's tools read the subject; the digest is over the list in the predicate."""
    made(store, tmp_path)
    statement = store.read_json(RECIPE.place.manifest)
    statement["subject"][0]["digest"]["sha256"] = "e" * 64
    store.write_json(RECIPE.place.manifest, statement)
    refused(store, tmp_path, "its subject is not its list of files")


@pytest.mark.parametrize("key", ["../../x", "x", "", "a" * 63, "/etc"])
def test_a_head_of_no_key_is_one_message(store: Store, tmp_path: Path, key: str) -> None:
    write_head(store, RECIPE.prefix, made(store, tmp_path), None)
    point(store, key=key)
    with pytest.raises(UserError, match="not a head: its key is none"):
        read_head(store, RECIPE.prefix, RECIPE.stage)


@pytest.mark.parametrize("content", [[], "x", {"predicate": [], "predicateType": "x"}, {"predicate": None}])
def test_what_is_no_manifest_is_one_message(store: Store, content: Any) -> None:
    store.write_json(RECIPE.place.manifest, content)
    with pytest.raises(UserError, match="not a manifest of this project"):
        find_artifact(store, RECIPE.place)


def test_an_artifact_copied_to_another_place_is_refused(store: Store, tmp_path: Path) -> None:
    made(store, tmp_path)
    for place in (
        Place("tenants/globex/support", RECIPE.stage, RECIPE.place.key),
        Place(RECIPE.prefix, "model_export", RECIPE.place.key),
        Place(RECIPE.prefix, RECIPE.stage, "d" * 64),
    ):
        shutil.copytree(store.path(RECIPE.place.path), store.path(place.path))
        refused(store, tmp_path, "a manifest that does not hold", place)


@pytest.mark.parametrize("path", ["{outside}", "../../../../../../outside", "model/../../x", "./x", "", "."])
def test_a_path_out_of_the_artifact_makes_no_worker_write_there(
    remote: Store, tmp_path: Path, path: str
) -> None:
    artifact = made(remote, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    named = path.format(outside=tmp_path / "outside")

    def name_it(predicate: dict[str, Any]) -> None:
        predicate["payload"][0]["path"] = named
        predicate["digest"] = payload_digest([FileDigest(**file) for file in predicate["payload"]])

    edit(remote, name_it)
    with pytest.raises(UserError, match="is no path inside an artifact"):
        find_artifact(remote, artifact.place)
    assert not (tmp_path / "outside").exists()


def point(store: Store, **changes: Any) -> None:
    path = f"{RECIPE.prefix}/heads/{RECIPE.stage}.json"
    store.write_json(path, {**store.read_json(path), **changes})


@pytest.mark.parametrize("prefix", ["tenants/globex/support", "tenants/acme/sup", "shared/x", "..", ""])
def test_a_head_points_at_no_other_variant(store: Store, tmp_path: Path, prefix: str) -> None:
    write_head(store, RECIPE.prefix, made(store, tmp_path), None)
    point(store, prefix=prefix)
    with pytest.raises(UserError, match="a head that points into"):
        read_head(store, RECIPE.prefix, RECIPE.stage)


def test_an_artifact_made_over_under_its_key_is_not_the_one_that_the_head_says(
    store: Store, tmp_path: Path
) -> None:
    write_head(store, RECIPE.prefix, made(store, tmp_path), None)
    swap_the_bytes_and_one_hash(store, tmp_path)

    def fit(predicate: dict[str, Any]) -> None:
        predicate["digest"] = payload_digest([FileDigest(**file) for file in predicate["payload"]])

    edit(store, fit)
    with pytest.raises(UserError, match=r"fine_tuned_model\.json: points at [0-9a-f]{12}, where"):
        read_head(store, RECIPE.prefix, RECIPE.stage)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_what_is_no_head_is_one_message(store: Store, content: str) -> None:
    store.write(f"{RECIPE.prefix}/heads/{RECIPE.stage}.json", content.encode())
    with pytest.raises(UserError, match=r"fine_tuned_model\.json: not a head"):
        read_head(store, RECIPE.prefix, RECIPE.stage)


# The files, with cp and ln.


def of(store: Store, name: str) -> Path:
    found = find_artifact(store, RECIPE.place)
    assert found is not None
    return Path(store.path(found.path)) / name


def test_a_file_that_nobody_judged_is_named(store: Store, tmp_path: Path) -> None:
    made(store, tmp_path)
    for name in ("payload/model/tokenizer.json", "payload/.hidden", "evidence/more.txt", "elsewhere.txt"):
        of(store, name).write_text("{}")
        refused(store, tmp_path, rf"{name}: a file that the manifest beside it does not list")
        of(store, name).unlink()
    present(find_artifact(store, RECIPE.place)).folder(store, tmp_path / "cache")


@pytest.mark.parametrize(
    "name", ["payload/model/adapter.safetensors", "payload/model", "payload", "", "..", "../manifest.json"]
)
def test_a_link_to_equal_bytes_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    made(store, tmp_path)
    linked = Path(os.path.normpath(of(store, name)))
    elsewhere = linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(elsewhere)
    refused(store, tmp_path, "a link.*, where files alone belong")


@pytest.mark.parametrize(
    "name", ["tenants/acme/support/fine_tuned_model", "tenants/acme/support/heads", "shared"]
)
def test_a_linked_folder_makes_no_worker_write_elsewhere(store: Store, tmp_path: Path, name: str) -> None:
    linked = Path(store.root) / name
    linked.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    linked.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link, or a path through one, where files alone belong"):
        write_head(store, RECIPE.prefix, made(store, tmp_path), None)
    assert list((tmp_path / "elsewhere").rglob("*")) == []


def test_a_linked_folder_among_the_files_is_seen(store: Store, tmp_path: Path) -> None:
    made(store, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    of(store, "payload/more").symlink_to(tmp_path / "elsewhere")
    refused(store, tmp_path, r"payload/more: a link, where files alone belong")


def test_a_stage_cannot_commit_a_link(store: Store, tmp_path: Path) -> None:
    def link(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "data").symlink_to(tmp_path)
        return {}

    with pytest.raises(UserError, match="a link, where files alone belong"):
        make_artifact(store, tmp_path / "work", RECIPE, link)
    assert store.names(RECIPE.place.path) == []


def cp_p(source: str, target: Path) -> None:
    """`cp -p`: other bytes of the same length, with the times of what was there."""
    found = target.stat()
    target.write_text(source)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("name", ["payload/model/adapter.safetensors", "evidence/log.txt"])
def test_other_bytes_of_the_same_size_and_time_are_refused_before_they_are_used(
    store: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", -1.0)  # all is remembered
    made(store, tmp_path)
    cp_p(EVIL, of(store, name))
    refused(store, tmp_path, "has other bytes than when it was made")


def test_the_base_is_known_by_its_bytes_before_a_release(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", -1.0)
    weights = tmp_path / "project" / "models" / "x" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text(GOOD)
    file = FileDigest(weights.name, len(GOOD), sha256_file(weights))._asdict()
    record = {"reference": "models/x", "revision": None, "files": [file]}
    base = releases.put(store, "base_model", "shared", {"base.json": record}, {})
    desk: Any = SimpleNamespace(
        store=store,
        project=tmp_path / "project",
        cache=tmp_path / "cache",
        looking=False,
        upstream=lambda stage: base,
    )
    export = releases.put(store, "model_export", "shared", {"x": 1}, {"base_model": base.digest})
    check_base(desk, export)
    cp_p(EVIL, weights)
    with pytest.raises(UserError, match="base model changed on disk: the file has other bytes"):
        check_base(desk, export)
    with pytest.raises(UserError, match="base model changed on disk"):
        locate_base(BaseRecord.model_validate(record), desk.project, desk.cache)


def test_an_export_on_another_base_is_refused(store: Store, tmp_path: Path) -> None:
    record: dict[str, Any] = {"reference": "models/x", "revision": None, "files": []}
    base = releases.put(store, "base_model", "shared", {"base.json": record}, {})
    export = releases.put(store, "model_export", "shared", {"x": 1}, {"base_model": "e" * 64})
    desk: Any = SimpleNamespace(store=store, upstream=lambda stage: base)
    with pytest.raises(UserError, match="the export was made on another base"):
        check_base(desk, export)


# A remote store, whose files a worker has in its cache.


def test_a_remote_store_is_verified_by_what_lies_there(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote, tmp_path)
    verify_artifact(remote, artifact, tmp_path / "cache")
    remote.write(f"{artifact.path}/payload/model/adapter.safetensors", EVIL.encode())
    with pytest.raises(UserError, match=r"s3://.*adapter\.safetensors: a stored file has other bytes"):
        verify_artifact(remote, artifact, tmp_path / "cache")


def test_a_file_added_to_a_remote_store_is_named(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote, tmp_path)
    remote.write(f"{artifact.path}/payload/model/tokenizer.json", b"{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: a file that the manifest beside it does not list"):
        verify_artifact(remote, artifact, tmp_path / "cache")


def swap_a_file(folder: Path, outside: Path) -> None:
    (folder / "payload/model/adapter.safetensors").write_text(EVIL)


def cut_a_file(folder: Path, outside: Path) -> None:
    (folder / "payload/model/adapter.safetensors").write_text("")


def add_a_file(folder: Path, outside: Path) -> None:
    (folder / "payload/model/tokenizer.json").write_text("{}")


def link_it(folder: Path, outside: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(outside)


@pytest.mark.parametrize("damage", [swap_a_file, cut_a_file, add_a_file, link_it])
def test_a_cache_that_is_not_as_it_was_is_fetched_anew(
    remote: Store, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    artifact = made(remote, tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    damage(artifact.folder(remote, tmp_path / "cache"), tmp_path / "outside")
    folder = artifact.folder(remote, tmp_path / "cache")
    assert (folder / "payload/model/adapter.safetensors").read_text() == GOOD
    assert not (folder / "payload/model/tokenizer.json").exists()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]


def test_swapped_bytes_are_not_taken_into_the_cache(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    remote.write(f"{artifact.path}/payload/model/adapter.safetensors", EVIL.encode())
    with pytest.raises(UserError, match=r"s3://.*adapter\.safetensors: a stored file has other bytes"):
        artifact.folder(remote, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("adapter.safetensors"))


# Two hosts.


@pytest.fixture(params=["folder", "locked", "conditional"])
def hosts(
    request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Store]]:
    """A store as two writers open it. `conditional`: two hosts, through a proxy that enforces conditions."""
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    if request.param == "folder":
        yield [Store(str(tmp_path / "store")) for _ in range(2)]
    elif request.param == "locked":
        yield [Store(url, s3_server.options, tmp_path / "locks") for _ in range(2)]
    else:
        with honour_conditions(s3_server) as (server, _):
            yield [Store(url, server.options, tmp_path / f"locks of {host}") for host in range(2)]


def test_of_two_hosts_one_commits_and_the_other_goes_on_with_what_stands(
    hosts: list[Store], tmp_path: Path
) -> None:
    together = Barrier(2)

    def commit(host: int) -> Artifact:
        def build(attempt: Attempt) -> dict[str, Any]:
            (attempt.payload / "adapter.safetensors").write_text(f"of host {host}")
            together.wait(30)
            return {}

        return make_artifact(hosts[host], tmp_path / f"work of {host}", RECIPE, build)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(commit, range(2))
    assert one.digest == other.digest
    assert sorted((one.reused, other.reused)) == [False, True]
    assert [store.names(f"{RECIPE.place.path}/divergences") for store in hosts] == [
        hosts[0].names(f"{RECIPE.place.path}/divergences")
    ] * 2
    (name,) = hosts[0].names(f"{RECIPE.place.path}/divergences")
    lost = hosts[0].read_json(f"{RECIPE.place.path}/divergences/{name}")["predicate"]
    assert lost["digest"] != one.digest
    for host, store in enumerate(hosts):
        verify_artifact(store, one, tmp_path / f"cache of {host}")


def test_of_two_releases_at_once_one_is_version_1_and_one_is_version_2(
    hosts: list[Store], tmp_path: Path
) -> None:
    def release(host: int) -> ReleaseEntry:
        return releases.release(
            hosts[host],
            "acme.support",
            releases.adapter(host),
            str(host) * 64,
            work=tmp_path / f"work of {host}",
        )

    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(release, range(2)))
    assert sorted(entry.version for entry in entries) == [1, 2]
    for store in hosts:
        assert [entry.version for entry in history(store, "tenants/acme/support")] == [1, 2]
        assert {entry.export for entry in history(store, "tenants/acme/support")} == {
            entry.export for entry in entries
        }


# What lies beside a payload.


def test_a_release_binds_the_manifests_and_the_certificate(store: Store) -> None:
    entry = releases.release(store, "acme.support", releases.adapter())
    assert entry.verdict == sha256_json(Verdict(True, "pass", ()).to_json())
    assert entry.export_manifest == sha256_file(manifest_of(store, "model_export"))
    assert entry.evaluation_manifest == sha256_file(manifest_of(store, "evaluation"))


def test_a_manifest_binds_those_of_its_inputs(store: Store, tmp_path: Path) -> None:
    before = made(store, tmp_path)
    recipe = Recipe("evaluation", RECIPE.prefix, manifests={"fine_tuned_model": before.manifest})
    after = make_artifact(store, tmp_path / "work", recipe, build)
    assert recipe.place == Recipe("evaluation", RECIPE.prefix).place  # in no key
    found = after.predicate["input_manifests"]["fine_tuned_model"]
    assert found == sha256_file(manifest_of(store, "fine_tuned_model"))


def manifest_of(store: Store, stage: str) -> Path:
    (found,) = Path(store.root).glob(f"tenants/acme/support/{stage}/*/manifest.json")
    return found
