"""A mistake in trust.yaml, or about a key, is one line that says the way out."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import VARIABLE, new_key
from ft_dagster.settings import Settings, load_settings
from tests.automation.declarations import declare

KEY_FILE = "ours.pem"


class Site:
    """A project whose trust root lists a builder, who signs here, and an approver."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        declare(folder, "acme.support")
        self.folder, self.root, self.key = folder, folder / "trust.yaml", folder / KEY_FILE
        self.set = monkeypatch.setenv
        private, public = new_key()
        self.key.write_bytes(private)
        self.key.chmod(0o600)
        self.root.write_text("version: 1\nkeys:\n")
        self.list("ours", public)
        self.list("ann", new_key()[1], role="approver", person="ann")
        self.set(VARIABLE, str(self.key))

    def list(self, name: str, public: str, **more: str) -> None:
        said = {"name": name, "role": "builder", "begins": "2026-01-01", **more}
        lines = [f"  {field}: {value}" for field, value in said.items()]
        pem = [f"    {line}" for line in public.splitlines()]
        with self.root.open("a") as file:
            file.write("\n".join(["- " + lines[0].strip(), *lines[1:], "  public: |", *pem]) + "\n")

    def change(self, old: str, new: str) -> None:
        assert old in self.root.read_text()
        self.root.write_text(self.root.read_text().replace(old, new, 1))

    @property
    def public(self) -> str:
        return load_settings(self.folder).open_store().trust.keys[0].pem  # type: ignore[union-attr]


def pem(private: Any) -> str:
    return str(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def link(site: Site, to: Path) -> None:
    site.root.unlink()
    site.root.symlink_to(to)


def pipe(site: Site) -> None:
    site.key.unlink()
    os.mkfifo(site.key, 0o600)


def in_settings(site: Site) -> None:
    text = "".join(f"  {line}\n" for line in site.key.read_text().splitlines())
    (site.folder / "ft_dagster.yaml").write_text(f"signing_key: |\n{text}")


MISTAKES: dict[str, tuple[Callable[[Site], object], str]] = {
    "the key itself in the settings": (in_settings, r"signing_key.*the private key itself"),
    "others may read it": (lambda s: s.key.chmod(0o644), r"others may read this private key.*chmod 600"),
    "not there": (lambda s: s.key.unlink(), r"signing_key.*No such file"),
    "a pipe": (pipe, r"ours\.pem: signing_key: not a regular file"),
    "no key": (lambda s: s.key.write_text("secret"), r"not a private key in PEM"),
    "of nobody": (lambda s: s.key.write_bytes(new_key()[0]), r"would sign here is not in the trust root"),
    "a home of nobody": (lambda s: s.set(VARIABLE, "~nosuchuser/x"), r"~nosuchuser/x: .* No such file"),
    "no trust root": (lambda s: s.root.unlink(), r"a key that nobody trusts"),
    "two trust roots": (
        lambda s: (s.folder / "trust.yml").write_text("version: 1\n"),
        r"trust\.yml: is not read",
    ),
    "a link that leads nowhere": (
        lambda s: link(s, s.folder / "nowhere"),
        r"trust\.yaml: cannot be read: No such file",
    ),
    "a link to itself": (
        lambda s: link(s, s.root),
        r"trust\.yaml: cannot be read: Too many levels of symbolic links",
    ),
    "a short key": (
        lambda s: s.list("small", pem(rsa.generate_private_key(65537, 2048))),
        r"an RSA key of 2048 bits: 3072 are the least",
    ),
    "a curve that is not taken": (
        lambda s: s.list("large", pem(ec.generate_private_key(ec.SECP521R1()))),
        r"a key on the curve secp521r1: secp256r1 or secp384r1 are taken",
    ),
    "an approver without a person": (
        lambda s: s.change("  person: ann\n", ""),
        r"an approver's key names its person",
    ),
    "a name twice": (lambda s: s.change("name: ann", "name: ours"), r"two keys have the name ours"),
    "a key by two names": (
        lambda s: s.list("again", f"as of today\n{s.public}"),
        r"two keys have one public part, of the id [0-9a-f]{64}",
    ),
    "a checkpoint of no witness": (
        lambda s: s.change(
            "person: ann\n", f"person: ann\n  revoked: {{witnessed: 3, sha256: {'a' * 64}}}\n"
        ),
        r"no witness is listed that could say what ann signed before: `revoked: true`",
    ),
    "a checkpoint by its number alone": (
        lambda s: s.change("person: ann\n", "person: ann\n  revoked: 3\n"),
        r"keys\.1\.revoked",
    ),
    "more signatures than keys": (
        lambda s: s.change("keys:", "threshold: {release: 3}\nkeys:"),
        r"a release needs 3 signatures, and 2 could sign",
    ),
    "more signatures than are asked for": (
        lambda s: s.change("keys:", "threshold: {release: 2}\nkeys:"),
        r"`threshold` without `unsigned: refused`",
    ),
    "strict without a witness": (
        lambda s: s.change("keys:", "strict: true\nkeys:"),
        r"`strict` without `witnesses`",
    ),
    "half of a checkpoint": (
        lambda s: s.change("person: ann\n", "person: ann\n  revoked: {witnessed: 3}\n"),
        r"keys\.1\.revoked\.sha256: needed, but not given. [^;]*$",
    ),
    "a witness in memory": (
        lambda s: s.change("keys:", "witnesses: ['memory://w']\nkeys:"),
        r"no kind of witness",
    ),
    "a witness in no repository": (
        lambda s: s.change("keys:", "witnesses: [git+]\nkeys:"),
        r"witnesses.*is none",
    ),
    "a day as a number": (
        lambda s: s.change("begins: 2026-01-01", "begins: 1728000"),
        r"keys\.0\.begins: not a day: write one as 2027-01-31 \(got 1728000\)",
    ),
    "a moment as a day": (
        lambda s: s.change("begins: 2026-01-01", "begins: 2026-01-01T10:00:00"),
        r"keys\.0\.begins: not a day",
    ),
    "a witness twice": (
        lambda s: s.change("keys:", "witnesses: [/elsewhere/w, /elsewhere/w/]\nkeys:"),
        r"witnesses: two witnesses are one place \(got '/elsewhere/w'\)",
    ),
    "a witness without a name": (lambda s: s.change("keys:", 'witnesses: [""]\nkeys:'), r"witnesses"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    site = Site(tmp_path, monkeypatch)
    make, said = MISTAKES[what]
    make(site)
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def as_one_line(private: str) -> str:
    return "".join(private.splitlines()[1:-1])


@pytest.mark.parametrize(
    "write", [as_one_line, lambda private: b64encode(private.encode()).decode()], ids=["bare", "twice"]
)
def test_a_key_in_place_of_the_name_of_its_file_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str], str]
) -> None:
    site = Site(tmp_path, monkeypatch)
    said = write(site.key.read_text())
    site.set(VARIABLE, said)
    with pytest.raises(UserError, match="it could be the key itself") as refused:
        opened(tmp_path)
    assert said[:40] not in str(refused.value)


@pytest.mark.parametrize("around", ["\n", "  ", '"'])
def test_a_key_with_something_around_it_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    site = Site(tmp_path, monkeypatch)
    site.set(VARIABLE, f"{around}{site.key.read_text()}{around}")
    assert opened(tmp_path).trust.signer.key.name == "ours"


def test_a_private_key_in_the_trust_root_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)
    private = site.key.read_text()
    site.list("wrong", private)
    with pytest.raises(UserError, match=r"keys\.2\.public: a private key") as refused:
        opened(tmp_path)
    assert as_one_line(private)[:40] not in str(refused.value).replace("\\n", "")


def in_the_way(site: Site) -> None:
    (site.folder / ".ft_dagster/keys").mkdir(parents=True)
    (site.folder / ".ft_dagster/keys/signing").write_text("")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda site: link(site, site.folder / "nowhere/trust.yaml"), "cannot be read"),
        (lambda site: site.root.rename(site.root.with_suffix(".yml")), "is not read"),
        (in_the_way, "no folder"),
    ],
    ids=["a link that leads nowhere", "another name", "a file in the way"],
)
def test_no_key_is_made_beside_what_is_no_trust_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Site], object], said: str
) -> None:
    site = Site(tmp_path, monkeypatch)
    make(site)
    monkeypatch.delenv(VARIABLE)
    done = CliRunner().invoke(app, ["--project", str(tmp_path), "trust", "new-key", "new"])
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
    assert not list(tmp_path.rglob("new.pem"))


def typed(site: Site, *words: str) -> str:
    done = CliRunner().invoke(app, ["--project", str(site.folder), "trust", *words])
    return str(done.exception) if isinstance(done.exception, UserError) else done.output


@pytest.mark.parametrize("name", ["yes", "123", "1e3"])
def test_the_entry_of_a_new_key_is_read_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    site = Site(tmp_path, monkeypatch)
    person = "ann: b # c Ünal"
    monkeypatch.delenv(VARIABLE)
    said = typed(site, "new-key", name, "--role", "approver", "--person", person)
    site.root.write_text("version: 1\nkeys:\n" + said.partition("version:\n")[2].rpartition("The private")[0])
    [key] = opened(tmp_path).trust.keys
    assert (key.name, key.person) == (name, person)


def test_no_second_key_is_made_of_a_name_that_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)
    assert "a key of this name is listed (got 'ours')" in typed(site, "new-key", "ours")
    assert not list(tmp_path.rglob("signing/*"))


@pytest.mark.parametrize("command", ["sign", "unsigned"])
def test_a_tenant_of_whom_nothing_is_stored_is_not_said_to_be_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    site = Site(tmp_path, monkeypatch)
    opened(tmp_path).write("tenants/acme/support/heads.json", b"{}")
    said = typed(site, command, "--tenant", "acm")
    assert "nothing of this tenant is stored (got 'acm'). Did you mean acme?" in said


def test_who_is_no_auditor_is_told_so_before_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = typed(Site(tmp_path, monkeypatch), "sign")
    assert said.startswith(str(tmp_path)), said
    assert "only an auditor vouches" in said


def test_without_a_mistake_it_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(tmp_path, monkeypatch)
    assert opened(tmp_path).trust.signer.key.name == "ours"


def opened(folder: Path) -> Any:
    settings: Settings = load_settings(folder)
    return settings.open_store()
