"""A peer's own environment, made once by pip: `python benchmarks/peers/environments.py trl llamafactory`.

Its packages are those of `<peer>.txt`; pip takes them from where it is configured to. It is kept under
benchmarks/.work/peers, and made again where that list has changed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".work" / "peers"
PEERS = ("trl", "llamafactory")
MADE = "made_of.txt"


class CannotBeMade(Exception):
    """Why an environment cannot be made here, by pip's own word."""


def python_of(peer: str) -> Path:
    """The peer's interpreter; its environment is made where there is none. Raises CannotBeMade."""
    folder, wanted = FOLDER / peer, (HERE / f"{peer}.txt").read_text()
    python, made = folder / "bin" / "python", folder / MADE
    if made.exists() and made.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / f"{peer}.txt")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no word"]
            raise CannotBeMade(f"{peer} cannot be installed: {said[-1]}")
    made.write_text(wanted)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)}; all, unless named")
    peers = parser.parse_args().peers or PEERS
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    for peer in peers:
        try:
            print(python_of(peer))
        except CannotBeMade as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
