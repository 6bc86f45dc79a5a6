"""docs/signing.md: to begin, a rotation, a revocation and a loss are done on a finished project by the page's
own commands, in its order, with the edits of trust.yaml that it names.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.provenance.signing import VARIABLE
from tests.security.pretend import KEY
from tests.security.served_story import project, served, story

__all__ = ["project", "story"]
pytestmark = pytest.mark.slow
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "signing.md").read_text("utf-8")
TODAY = datetime.now(UTC).date().isoformat()


def block(heading: str, words: str) -> list[str]:
    """The lines of the first commands after some words below a heading, without comments."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    text = text[text.index(words) :]
    found = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return [line.partition("  #")[0].strip() for line in found[1].splitlines()]


BEGIN, VOUCH = block("Begin", "```"), block("Begin", "What stood before")
ROTATE = block("A new key, a stolen one, a lost one", "**Rotation**")
REVOKE = block("A new key, a stolen one, a lost one", "**Revocation**")


class Said(NamedTuple):
    exit_code: int
    output: str


class Shell:
    """Runs lines of the page in a project, as a person types them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.root = folder / "trust.yaml"
        patch.chdir(folder)
        patch.delenv(VARIABLE, raising=False)

    def type(self, line: str) -> Said:
        """Run a line; what it says. A release is asked of the variant of the story."""
        line = line.replace("$PWD", str(self.folder)).replace("run acme.support", f"history {KEY}")
        if line.startswith("sed "):
            subprocess.run(["bash", "-c", line], cwd=self.folder, check=True)
            return Said(0, "")
        words = shlex.split(line)
        if words[0] == "export":
            self.patch.setenv(*words[1].split("=", 1))
            return Said(0, "")
        with pytest.MonkeyPatch.context() as once:
            while "=" in words[0]:
                once.setenv(*words.pop(0).split("=", 1))
            assert words.pop(0) == "ft-dagster"
            done = CliRunner().invoke(app, words, input="y\n")
            return Said(done.exit_code, f"{done.output}")

    def says(self, line: str) -> str:
        done = self.type(line)
        assert done.exit_code == 0, (line, done.output)
        return done.output

    def add(self, said: str, **changes: dict[str, object]) -> None:
        """Put the entry that `new-key` printed into trust.yaml, change others, and raise its version."""
        [entry] = yaml.safe_load(said.partition("version:\n")[2].rpartition("The private key")[0])
        content = yaml.safe_load(self.root.read_text("utf-8"))
        for key in content["keys"]:
            key.update(changes.get(key["name"].replace("-", "_"), {}))
        content["keys"].append(entry)
        content["version"] += 1
        self.root.write_text(yaml.safe_dump(content), "utf-8")


@pytest.fixture
def shell(project: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Signed from a day on, as the page begins; nothing unsigned is read."""
    shell = Shell(project, monkeypatch)
    made, *more = BEGIN
    assert "Wrote" in shell.says(made)
    for line in more:
        shell.says(line)
    check, books, sign, refuse = split(VOUCH)
    shell.type(check)  # of pretended trainings it misses the ledgers
    shell.add(shell.says(books))
    assert "Signed" in shell.says(sign)
    shell.says(refuse)
    assert "unsigned: refused" in shell.root.read_text()
    return shell


def split(lines: list[str]) -> list[str]:
    assert len(lines) == 4
    return lines


def promoted(shell: Shell) -> None:
    """An entry by the key that signs here."""
    shell.says(f"ft-dagster rollback {KEY} --reason test --force --by ann")


def test_an_old_project_is_signed_from_a_day_on(shell: Shell, project: Path) -> None:
    assert served(project)["production"] == 2
    assert shell.says("ft-dagster trust unsigned") == "Everything is signed\n"


def test_a_rotation_is_three_commands_and_loses_nothing(shell: Shell, project: Path) -> None:
    new, export, listed = ROTATE
    shell.add(shell.says(new), builder_2027={"ends": TODAY})
    shell.says(export)
    said = shell.says(listed)
    assert re.search(r"builder-2028.*signs here", said)
    assert re.search(rf"builder-2027 .*{TODAY}", said)
    assert shell.says("ft-dagster trust unsigned") == "Everything is signed\n"
    assert served(project)["production"] == 2


def test_a_lost_key_loses_nothing_that_was_signed(shell: Shell, project: Path) -> None:
    (project / ".ft_dagster/keys/signing/builder-2027.pem").unlink()
    new, export, _ = ROTATE
    shell.add(shell.says(new), builder_2027={"ends": TODAY})
    shell.says(export)
    assert shell.says("ft-dagster trust unsigned") == "Everything is signed\n"
    assert served(project)["production"] == 2


def test_a_revocation_lists_what_is_to_be_signed_again_and_an_auditor_signs_it(
    shell: Shell, project: Path
) -> None:
    promoted(shell)
    now = served(project)["production"]
    new, *rest = REVOKE
    shell.add(shell.says(new), builder_2027={"revoked": True})
    *exports, listed, sign = rest
    for line in exports:
        shell.says(line)
    done = shell.type(listed)
    assert done.exit_code == 1
    assert "releases/" in done.output
    assert "without a signature that counts" in done.output
    assert "Signed 1 file" in shell.says(sign)
    assert shell.says("ft-dagster trust unsigned") == "Everything is signed\n"
    assert served(project)["production"] == now
