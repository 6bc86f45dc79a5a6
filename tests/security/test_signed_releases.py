"""With signatures asked for, who may only write the store puts nothing into production."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.launch.local import _environment
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.settings import load_settings
from ft_dagster.spec.trust import load_trust
from tests.kept_project import copied_project
from tests.security.pretend import KEY
from tests.security.served_story import PROMOTE, ROLLBACK, project, served, story, typed

__all__ = ["project", "story"]
pytestmark = pytest.mark.slow
REFUSED = r"nobody whom trust\.yaml trusts signed this"


@pytest.fixture
def keys(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A builder, an auditor who signed the history, and ann; the builder signs here. The keys' folder."""
    folder = project / ".ft_dagster/keys/signing"
    typed(project, "trust", "new-key", "ours")
    for more in (["books", "--role", "auditor"], ["ann", "--role", "approver", "--person", "ann"]):
        entry = (
            typed(project, "trust", "new-key", *more).partition("version:\n")[2].rpartition("The private")[0]
        )
        with (project / "trust.yaml").open("a") as file:
            file.write(entry)
    by(monkeypatch, folder, "books")
    assert "Signed" in typed(project, "trust", "sign", "--yes")
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("accepted  # or: refused", "refused"))
    by(monkeypatch, folder, "ours")
    return folder


def by(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    monkeypatch.setenv("FT_DAGSTER_SIGNING_KEY", str(folder / f"{name}.pem"))


def verified(project: Path) -> str:
    """What a check says; of pretended trainings it misses the ledger."""
    return CliRunner().invoke(app, ["--project", str(project), "audit", "verify", "--all"]).output


def log(project: Path) -> Path:
    return Path(load_settings(project).open_store().root) / KEY.prefix / "releases"


def test_what_an_auditor_signed_is_served_and_verify_says_by_whom(project: Path, keys: Path) -> None:
    assert served(project)["production"] == 2
    assert typed(project, "trust", "unsigned") == "Everything is signed\n"
    assert "signed by whom version 1 of trust.yaml trusts" in verified(project)
    assert oct((keys / "ours.pem").stat().st_mode & 0o777) == "0o600"


def test_an_entry_that_the_stores_writer_appended_is_refused_by_all_who_read_the_log(
    project: Path, keys: Path
) -> None:
    folder = log(project)
    newest = sorted(folder.glob("0*.json"))[-1]
    number, content = int(newest.stem), newest.read_bytes()
    entry = json.loads(content)
    entry |= {"action": "promote", "production": entry["version"], "by": "ann", "forced": False}
    entry |= {"previous": hashlib.sha256(content).hexdigest(), "entry": "0" * 32}
    forged = json.dumps({name: value for name, value in entry.items() if name not in OF_RELEASE}).encode()
    (folder / f"{number + 1:06d}.json").write_bytes(forged)
    head = {"schema_version": 1, "entries": number + 1, "sha256": hashlib.sha256(forged).hexdigest()}
    (folder / HEAD).write_text(json.dumps(head))
    for words in (
        ["history", str(KEY)],
        ["publish", str(KEY), "--folder", str(project / "out")],
        ["catalogue"],
        ["report", str(KEY), "--version", "2", "--to", str(project / "report.html")],
        PROMOTE,
    ):
        done = CliRunner().invoke(app, ["--project", str(project), *words])
        assert isinstance(done.exception, UserError), done.output
        assert "trusts signed this" in str(done.exception)
    assert not (project / "out").exists()
    assert not (project / "report.html").exists()
    assert f"{number + 1:06d}.json: nobody whom trust.yaml trusts signed this" in verified(project)


OF_RELEASE = (
    "verdict", "gates", "run_id", "export_manifest", "evaluation_manifest", "certificate",
)  # fmt: skip


def test_an_approval_is_signed_by_who_gives_it(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="an approval by ann is signed by the key of ann"):
        typed(project, *PROMOTE)
    by(monkeypatch, keys, "ann")
    typed(project, *PROMOTE)
    assert served(project)["production"] == 3
    assert typed(project, "trust", "unsigned") == "Everything is signed\n"
    typed(project, "publish", str(KEY), "--folder", str(project / "out"))
    assert (project / "out/model.sig").is_file()
    card = (project / "out/README.md").read_text()
    assert "| release | signed by books; these files are signed by ann (`model.sig`) |" in card
    typed(project, "report", str(KEY), "--version", "2", "--to", str(project / "report.html"))
    assert "signed by books" in (project / "report.html").read_text()


def test_a_release_that_nobody_signed_is_said_where_all_manifests_are_signed(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("unsigned: refused", "unsigned: accepted"))
    assert "entries of logs and amendments signed by whom" in verified(project)
    monkeypatch.delenv("FT_DAGSTER_SIGNING_KEY")
    typed(project, *ROLLBACK, "--force", "--by", "ann")
    entries = len(list(log(project).glob("0*.json")))
    said = f"signatures: without a signature that counts: 1 of {entries} entries of logs and amendments"
    assert said in verified(project)


@pytest.fixture
def witness(project: Path, keys: Path) -> Path:
    """A folder elsewhere that was told of the log as it stands."""
    folder, root = project.parent / "witness", project / "trust.yaml"
    root.write_text(root.read_text().replace("keys:\n", f"witnesses: [{folder}]\nkeys:\n", 1))
    assert "knows 1 release log" in typed(project, "trust", "witness")
    assert f"{folder} knows 3 entries of {KEY}" in typed(project, "trust", "proof", str(KEY))
    return folder


def test_a_log_that_was_cut_is_said_by_its_witness_and_nothing_is_appended_to_it(
    project: Path, keys: Path, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's writer goes back to an older version: all that is left is signed, and fits."""
    by(monkeypatch, keys, "ann")
    typed(project, *PROMOTE)
    assert len(list(witness.rglob("0*.json"))) == 2
    assert "a witness" not in verified(project)
    newest = sorted(log(project).glob("0*.json"))[-1]
    newest.unlink()
    before = newest.with_name(f"{int(newest.stem) - 1:06d}.json")
    entries, sha256 = int(before.stem), hashlib.sha256(before.read_bytes()).hexdigest()
    head = {"schema_version": 1, "entries": entries, "sha256": sha256}
    (log(project) / HEAD).write_text(json.dumps(head))
    cut = f"{entries} entries, and the witness {witness} saw {int(newest.stem)}: it was cut"
    assert cut in verified(project)
    done = CliRunner().invoke(app, ["--project", str(project), *PROMOTE])
    assert cut in str(done.exception)
    assert "Restore the log's folder from a backup" in str(done.exception)


def test_of_two_copies_of_a_store_the_second_that_goes_on_is_refused_as_a_fork(
    project: Path, keys: Path, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(project, project.parent / "copy")
    by(monkeypatch, keys, "ann")
    typed(project, *PROMOTE)
    done = CliRunner().invoke(app, ["--project", str(copy), *PROMOTE])
    assert f"and the witness {witness} saw" in str(done.exception)
    assert "it was cut" in str(done.exception)


def test_a_witness_inside_the_store_is_none(project: Path, keys: Path) -> None:
    root, store = project / "trust.yaml", load_settings(project).open_store().root
    root.write_text(root.read_text().replace("keys:\n", f"witnesses: [{store}/w]\nkeys:\n", 1))
    with pytest.raises(UserError, match="a witness in the store itself shows nothing"):
        load_settings(project).open_store()


def test_what_a_revoked_key_signed_no_longer_counts_and_is_listed(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(monkeypatch, keys, "ann")
    typed(project, *PROMOTE)
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("    person: ann\n", "    person: ann\n    revoked: true\n"))
    by(monkeypatch, keys, "ours")
    with pytest.raises(UserError, match=REFUSED):
        served(project)
    done = CliRunner().invoke(app, ["--project", str(project), "trust", "unsigned", "--json"])
    [one] = json.loads(done.stdout)["unsigned"]
    assert "/releases/" in one["file"]
    assert one["kind"] == "release"


def test_what_a_witness_had_seen_before_a_key_was_stolen_stands(
    project: Path, keys: Path, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(monkeypatch, keys, "ann")
    typed(project, *PROMOTE)
    before, begun = json.loads(typed(project, "trust", "checkpoints", "--json"))["checkpoints"]
    assert [(one["number"], one["signed_by"], one["logs"]) for one in (before, begun)] == [
        (2, "ann", 1),
        (1, "ours", 1),
    ]
    root = project / "trust.yaml"
    as_it_was = root.read_text()
    for kept in (before, begun):
        said = f"revoked: {{witnessed: {kept['number']}, sha256: {kept['sha256']}}}"
        assert said in typed(project, "trust", "checkpoints")
        root.write_text(as_it_was.replace("    person: ann\n", f"    person: ann\n    {said}\n"))
        by(monkeypatch, keys, "ours")
        if kept is before:
            assert served(project)["production"] == 3
            assert typed(project, "trust", "unsigned") == "Everything is signed\n"
            assert "revoked but for checkpoint 2" in " ".join(typed(project, "trust", "list").split())
    with pytest.raises(UserError, match=REFUSED):
        served(project)


def test_a_version_that_two_have_to_sign_waits_for_the_second(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("keys:\n", "threshold: {release: 2}\nkeys:\n", 1))
    by(monkeypatch, keys, "ann")
    with pytest.raises(UserError, match=r"promote of version 3 by ann waits for 1 more signature"):
        typed(project, *PROMOTE)
    assert served(project)["production"] == 2
    waits = "000004.json: promote of version 3 by ann waits for 1 more signature"
    assert waits in typed(project, "history", str(KEY))
    assert waits in verified(project)
    by(monkeypatch, keys, "ours")
    assert "it counts" in typed(project, "trust", "countersign", str(KEY), "--yes")
    assert served(project)["production"] == 3
    done = CliRunner().invoke(app, ["--project", str(project), "trust", "countersign", str(KEY)])
    assert "no entry of this variant waits for a signature" in str(done.exception)


def test_where_the_key_of_the_only_approver_is_revoked_a_name_approves_nothing(
    project: Path, keys: Path
) -> None:
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("    person: ann\n", "    person: ann\n    revoked: true\n"))
    with pytest.raises(UserError, match="an approval by ann is signed by the key of ann"):
        typed(project, *PROMOTE)
    assert served(project)["production"] == 2


def test_signed_entries_of_an_old_log_fit_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not name what stands before them: the store's writer might repeat a rollback, or drop one."""
    old = copied_project(tmp_path, monkeypatch)
    typed(old, "trust", "new-key", "books", "--role", "auditor")
    by(monkeypatch, old / ".ft_dagster/keys/signing", "books")
    assert "Signed" in typed(old, "trust", "sign", "--yes")
    root = old / "trust.yaml"
    root.write_text(root.read_text().replace("accepted  # or: refused", "refused"))
    releases = Path(load_settings(old).open_store().root) / KEY.prefix / "releases"
    assert served(old)["production"] == 3
    again = shutil.copyfile(releases / "000003.json", releases / "000005.json")
    with pytest.raises(UserError, match=REFUSED):
        served(old)
    assert "000005.json: nobody whom trust.yaml trusts signed this" in verified(old)
    again.unlink()
    assert served(old)["production"] == 3
    shutil.move(releases / "000004.json", releases / "000003.json")
    with pytest.raises(UserError, match=REFUSED):
        served(old)
    assert "000003.json: nobody whom trust.yaml trusts signed this" in verified(old)


def test_no_program_that_a_run_starts_has_the_key(
    project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_DAGSTER_SIGNING_KEY", (keys / "ours.pem").read_text())
    assert load_settings(project).open_store().trust
    assert not [value for value in _environment(None, None).values() if "PRIVATE KEY" in value]


def test_tenants_read_neither_the_trust_root_nor_a_key(project: Path, keys: Path) -> None:
    never = load_settings(project).roots("acme").never
    assert {project / "trust.yaml", keys / "ours.pem"} <= set(never)


def test_without_keys_verify_says_that_nothing_is_signed(project: Path) -> None:
    assert load_trust(project, None) is None
    assert "nothing is signed: there is no trust.yaml" in verified(project)
    typed(project, "report", str(KEY), "--version", "2", "--to", str(project / "report.html"))
    assert ", unsigned" in (project / "report.html").read_text()
    typed(project, *PROMOTE)
    typed(project, "publish", str(KEY), "--folder", str(project / "out"))
    assert "| release | unsigned; these files are unsigned |" in (project / "out/README.md").read_text()
    told: dict[str, Any] = json.loads(typed(project, "trust", "list", "--json"))
    assert told == {"version": None, "unsigned": "accepted", "keys": []}
