"""Keeps a witness' checkpoints in a branch of a git repository, one commit each, by the program `git`.

A file is created by a push that only goes on from the commit that was read: where somebody was faster the
repository refuses it. The repository has to refuse pushes that rewrite the branch, for whoever may push
(`receive.denyNonFastForwards`, or a protected branch).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ft_dagster.errors import UserError

SCHEME = "git+"
BRANCH = "refs/heads/checkpoints"
SEEN = "refs/seen"  # of the copy of this host: what need not be fetched again
SECONDS = 60
MOST_BYTES = 64 * 2**20  # of one checkpoint
_FASTER = ("[rejected]", "lock", "already exists", "failed to update ref")  # of a push, while another is made
_PROTOCOLS = "file:git:http:https:ssh"
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TMPDIR|SSH_AUTH_SOCK|XDG_CONFIG_HOME|SSL_CERT_\w+|"
    r"(?:https?|no|all)_proxy|GIT_(?:SSH\w*|ASKPASS|CONFIG_\w+|SSL_\w+)",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(?<=://)[^/@]*:[^/@]*@|(?<=http://)[^/@]*@|(?<=https://)[^/@]*@")  # or a token


class GitPlace:
    """Reads and adds files of the branch `checkpoints` of a repository. `url`: `git+` and what git takes as
    one; `copy`: a folder of this host for what was fetched.
    """

    def __init__(self, url: str, copy: Path) -> None:
        self.url, self._address, self._copy = url, url.removeprefix(SCHEME), copy

    def uri(self, relative: str) -> str:
        return f"{self.url} ({BRANCH.rpartition('/')[2]}:{relative})"

    def names(self, relative: str) -> list[str]:
        """Return the names directly below a folder; none where the branch does not exist."""
        tip = self._tip()
        listed = "" if tip is None else self._git("ls-tree", "--name-only", "-z", tip, f"{relative}/")
        return sorted(name.rpartition("/")[2] for name in listed.split("\0") if name)

    def read(self, relative: str) -> bytes:
        """Raises FileNotFoundError, IsADirectoryError, and UserError for what is too large to be one."""
        tip = self._tip()
        listed = [] if tip is None else self._git("ls-tree", "--long", tip, relative).split()
        if len(listed) < 4:
            raise FileNotFoundError(self.uri(relative))
        _, kind, sha, size, *_ = listed
        if kind != "blob":
            raise IsADirectoryError(self.uri(relative))
        if int(size) > MOST_BYTES:
            problem = f"a checkpoint of more than {MOST_BYTES} bytes"
            raise UserError(problem, file=self.uri(relative), fix="See who wrote it")
        return self._run("cat-file", "blob", sha).stdout

    def create_exclusively(self, relative: str, content: bytes) -> bool:
        """Push a commit with one file more; False where it is there, or somebody pushed meanwhile. Raises
        UserError for a repository that takes no push.
        """
        tip = self._tip()
        if tip is not None and self._git("ls-tree", tip, relative):
            return False
        blob = self._git("hash-object", "-w", "--stdin", given=content)
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if tip is not None:
                self._git("read-tree", tip, more=index)
            self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{relative}", more=index)
            tree = self._git("write-tree", more=index)
        parent = [] if tip is None else ["-p", tip]
        commit = self._git("commit-tree", tree, *parent, "-m", relative)
        done = self._run("push", "--porcelain", "--", self._address, f"{commit}:{BRANCH}", check=False)
        if done.returncode == 0:
            return True
        refusal = next(
            (one for one in done.stdout.decode("utf-8", "replace").splitlines() if one[:1] == "!"), ""
        )
        if any(word in refusal for word in _FASTER) or (refusal and self._tip() != tip):
            return False
        if refusal:
            said = refusal.rpartition("\t")[2]
            fix = "Let this host push to its branch `checkpoints`"
            raise UserError(f"the witness takes no checkpoint: {said}", file=self.url, fix=fix)
        raise ConnectionError(_said(done))

    def _tip(self) -> str | None:
        """Return the newest commit of the branch, which is fetched where it has to be; None without any."""
        if not (self._copy / "HEAD").exists():
            self._copy.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", str(self._copy), inside=False)
        listed = (line.split() for line in self._git("ls-remote", "--", self._address, BRANCH).splitlines())
        tip = next((sha for sha, *name in listed if name == [BRANCH]), None)  # other names may end alike
        if tip is not None and self._run("cat-file", "-e", f"{tip}^{{commit}}", check=False).returncode:
            self._git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", self._address, BRANCH)
            self._run("update-ref", SEEN, tip, check=False)
        return tip

    def _git(
        self, *words: str, given: bytes = b"", more: Mapping[str, str] | None = None, inside: bool = True
    ) -> str:
        """Return what git prints. Raises ConnectionError where it fails."""
        return (
            self._run(*words, given=given, more=more, inside=inside)
            .stdout.decode("utf-8", "replace")
            .strip("\n")
        )

    def _run(
        self,
        *words: str,
        given: bytes = b"",
        more: Mapping[str, str] | None = None,
        inside: bool = True,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git without what else this process' environment has: keys, tokens. Raises ConnectionError where
        it fails or takes too long, and UserError where it is not installed.
        """
        command = ["git", *(["--git-dir", str(self._copy)] if inside else []), "-c", "gc.auto=0", *words]
        environment = {
            **{name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)},
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "LC_ALL": "C",
            **{
                f"GIT_{who}_{what}": "ft-dagster"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
            **(more or {}),
        }
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, check=False, env=environment, timeout=SECONDS
            )
        except FileNotFoundError:
            raise UserError(
                "git is not installed", field="witnesses", value=self.url, fix="Install it"
            ) from None
        except subprocess.TimeoutExpired:
            raise ConnectionError(f"git answered nothing within {SECONDS} seconds") from None
        if check and done.returncode:
            raise ConnectionError(_said(done))
        return done


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return why git failed: its first line of that, without a password that an address might hold."""
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    first = next(
        (line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else ""
    )
    return _PASSWORD.sub("", first) or f"git exited with {done.returncode}"
