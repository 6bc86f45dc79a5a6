"""Unpacks the package as it was when it made an artifact, and makes a Python with the libraries of that
day.
"""

from __future__ import annotations

import gzip
import io
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import hash_folder, payload_digest
from ft_dagster.provenance.manifest import local_environment
from ft_dagster.store import Store

PACKAGE = "ft_dagster"
NOT_USED = ("ft-dagster", "dagster")  # the code is the kept one, and stages know nothing of Dagster


def unpack_code(store: Store, digest: str, folder: Path) -> Path:
    """Return a folder to put before all others on Python's path: the package of this digest, and nothing
    else.

    Raises UserError where the store has it no more, or has other files under its name; OSError where it
    cannot be written.
    """
    name = f"shared/code/{digest}.tar.gz"
    try:
        content = store.read(name)
    except FileNotFoundError:
        fix = "Restore it from a backup: without the code that made it nothing can be made again"
        raise UserError("the code that made this is gone", file=store.uri(name), fix=fix) from None
    target = folder / digest[:16]
    target.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            archive.extractall(target, filter="data")
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError):
        raise _altered(store, name) from None
    names = [entry.name for entry in target.iterdir()]
    if names != [PACKAGE] or payload_digest(hash_folder(target / PACKAGE)) != digest:
        raise _altered(store, name)
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
