"""Unpacks the package as it was when it made an artifact, and makes a Python with the libraries of that
day.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest
from ft_dagster.provenance.manifest import local_environment
from ft_dagster.store import Store

PACKAGE = "ft_dagster"
MOST_BYTES = 200_000_000  # of a package: more is not read into memory
NOT_USED = ("ft-dagster", "dagster")  # the code is the kept one, and stages know nothing of Dagster


def kept_code(store: Store, digest: str) -> dict[str, bytes]:
    """Return the files of the package of this digest, by their path in it.

    Raises UserError where the store has it no more, or has other files under its name.
    """
    name = f"shared/code/{digest}.tar.gz"
    try:
        content = store.read(name)
    except FileNotFoundError:
        fix = "Restore it from a backup: without the code that made it nothing can be made again"
        raise UserError("the code that made this is gone", file=store.uri(name), fix=fix) from None
    files, left = dict[str, bytes](), MOST_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for entry in archive:
                room, *path = PurePosixPath(entry.name).parts
                left -= entry.size
                file = archive.extractfile(entry) if entry.isreg() and left >= 0 else None
                if file is None or room != PACKAGE or not path or ".." in path or "\0" in entry.name:
                    raise _altered(store, name)
                files["/".join(path)] = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, ValueError):
        raise _altered(store, name) from None
    hashed = [FileDigest(path, len(held), hashlib.sha256(held).hexdigest()) for path, held in files.items()]
    if payload_digest(hashed) != digest:
        raise _altered(store, name)
    return files


def unpack_code(store: Store, digest: str, folder: Path) -> Path:
    """Return a folder to put before all others on Python's path: the package of this digest, and nothing
    else. Raises as `kept_code` does, and OSError where it cannot be written.
    """
    files, target = kept_code(store, digest), folder / digest[:16]
    for path, content in files.items():
        file = target / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return target


def _altered(store: Store, name: str) -> UserError:
    fix = "Restore it from a backup; it was not run"
    return UserError("the kept code is not the one of its digest", file=store.uri(name), fix=fix)


def environment_differences(
    recorded: Mapping[str, Any], here: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return the interpreter, platform and libraries that differ between two environments of manifests: name
    -> (recorded, here), None where it is not there. `here`: None for this process'.
    """
    then, now = _flat(recorded), _flat(local_environment() if here is None else here)
    names = sorted(then.keys() | now.keys())
    return {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}


def _flat(environment: Mapping[str, Any]) -> dict[str, object]:
    libraries = {name: version for name, version in environment["libraries"].items() if name not in NOT_USED}
    return {"python": environment["python"], "platform": environment["platform"], **libraries}


def build_environment(folder: Path, recorded: Mapping[str, Any], say: Callable[[str], None]) -> Path:
    """Return an interpreter with the recorded libraries: those that differ here are installed with pip as it
    is configured, into a virtual environment of their own; all others are this environment's.

    Raises UserError: another Python would be needed, or pip cannot get one of them.
    """
    if recorded["python"] != platform.python_version():
        problem = f"it was made with Python {recorded['python']}, this is {platform.python_version()}"
        fix = f"Run this with Python {recorded['python']}, or leave out --environment build"
        raise UserError(problem, field="--environment", value="build", fix=fix)
    libraries = {name: found for name, found in recorded["libraries"].items() if name not in NOT_USED}
    differing = environment_differences(recorded)
    wanted = [f"{name}=={version}" for name, version in libraries.items() if name in differing]
    if not wanted:
        return Path(sys.executable)
    say(f"installing {', '.join(wanted)}")
    _run([sys.executable, "-m", "venv", str(folder)], "a virtual environment cannot be made")
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    here = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    Path(packages, "outer.pth").write_text("\n".join(lines) + "\n", "utf-8")
    held = folder / "constraints.txt"
    held.write_text("".join(f"{name}=={version}\n" for name, version in libraries.items()), "utf-8")
    python = folder / "bin" / "python"
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    install = [str(python), "-m", "pip", "install", *quiet, "--constraint", str(held), *wanted]
    _run(install, "pip cannot install the recorded libraries")
    return python


def _run(command: list[str], problem: str) -> None:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        first = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "no word")
        fix = "Leave out --environment build: it is then said which libraries differ"
        raise UserError(f"{problem}: {first}", field="--environment", value="build", fix=fix)
