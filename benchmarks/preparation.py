"""How fast are rows prepared, beside the tokenizer alone and `datasets.map`? Markdown tables on stdout.

    .venv/bin/python benchmarks/preparation.py [--rows 1000 10000 100000] [--cores 1] [--variants 2]

Makes instructions of some 190 tokens from Python's own manual, 2% of them twice, and prepares them in four
programs, each in a fresh process: `tokenizer`, the base's fast tokenizer called on batches of rendered
conversations, nothing else counted; `datasets.map`, JSON to token ids with the chat template, neither
checked nor masked; `task_dataset` and `training_mixture`, the stages as they are without Dagster, with
1,000 questions of an evaluation to look for; `prepared` is both together. Imports are done before the clock
starts. Each is measured several times in turn, and the time of least CPU counts, for others may use the
machine meanwhile.

"Of the tokenizer's rate" compares the time for the same rows. The two stages prepare the test split's tenth
as well, and do not tokenize it; tokens are those of the mixture. Peak memory is VmHWM of /proc/self/status,
and by how much it is above that of the start. Python is one thread, the tokenizer one a core: `--cores 1`
says what a core does, and more of them what one variant alone gets. With `--variants 2` two are prepared side
by side, each of so many rows, beside one tokenizer alone: time counts from the first one's start to the last
one's end, and memory is that of both.

The second table is where the CPU time of the two stages went: of each sample of the main thread, the
innermost function of a known part. Needs the demo's tokenizer, or a model folder with a fast one that has a
chat template: `make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import tables
from project import DEMO

if TYPE_CHECKING:
    from ft_dagster.workspace.workspace import Workspace

SEED, BATCH, QUESTIONS = 7, 1000, 1000
TWICE = 50  # every so many rows one is a copy of an earlier one
TENANT = "bench"
Figures = dict[str, Any]
STAGES = ("task_dataset", "training_mixture")
PROGRAMS = ("tokenizer", "datasets.map", *STAGES)
EVERY = 0.005  # CPU seconds between two samples
PARTS = {  # file of the package -> what it does; a function of it goes before
    "token_spans.py": "tokenizing",
    "render.py": "rendering",
    "jinja2": "rendering",
    "readers.py": "reading",
    "dataset_io.py:read_split": "reading",
    "dataset_io.py:as_row": "reading",
    "formats.py": "checking",
    "rows.py": "checking",
    "content.py": "normalizing",
    "dedup.py": "duplicates",
    "decontaminate.py": "decontamination",
    "splits.py": "splits",
    "dataset.py": "waiting rows",
    "dataset_io.py": "writing",
    "tables.py": "writing",
    "shards.py": "writing",
    "digest.py": "hashing",
    "artifacts.py": "committing",
    "blobs.py": "committing",
}
DECLARATION = """\
description: instructions to be prepared
owners: [benchmarks@example.com]
base_model: {model}
data: {{sources: [data/rows-{rows}.jsonl], samples: "off"}}
method: {{name: lora}}
training: {{max_length: 1024}}
evaluation: {{general: [tasks/quiz.yaml]}}
"""
TASK = """\
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: quiz.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def sentences() -> list[str]:
    """Of Python's manual: real English, on every machine."""
    text = " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    parts = re.split(r"(?<=[.:])\s+", text)
    return [" ".join(part.split()) for part in parts if 40 <= len(part) <= 300]


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Conversations: a question of one to three sentences, an answer of one to twelve."""
    draw, said = random.Random(SEED), sentences()
    earlier: list[list[dict[str, str]]] = []
    for number in range(count):
        asked = f"Case {number}. {' '.join(draw.choices(said, k=draw.randint(1, 3)))}"
        answered = " ".join(draw.choices(said, k=min(12, 1 + int(draw.expovariate(0.3)))))
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        if number % TWICE == TWICE - 1:
            turns = draw.choice(earlier)
        elif len(earlier) < 1000:
            earlier.append(turns)
        yield {"messages": turns}


def questions() -> Iterator[dict[str, Any]]:
    """Of the same words in another order: no row is left out for them."""
    draw, words = random.Random(SEED + 1), " ".join(sentences()).split()
    for number in range(QUESTIONS):
        asked, *choices = (" ".join(draw.choices(words, k=length)) for length in (40, 5, 5, 5, 5))
        yield {"question": f"{asked}?", "choices": choices, "answer": number % 4}


def write_project(folder: Path, model: Path, counts: Iterable[int], times: int, variants: int) -> None:
    """For each number of rows, and each time that it is measured, so many variants."""
    settings = {"sources": {"bases": [str(model)]}, "host": {"cpu_slots": 1}}
    policy = {"evaluation": {"questions": 1, "general": "none"}}
    files = {"ft_dagster.yaml": json.dumps(settings), "policy.yaml": json.dumps(policy)}
    for name, text in {**files, "tasks/quiz.yaml": TASK}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    write_lines(folder / "tasks" / "quiz.jsonl", questions())
    for count in counts:
        write_lines(folder / "data" / f"rows-{count}.jsonl", rows(count))
        for name in (name for time_ in range(times) for name in names_of(count, time_, variants)):
            declaration = folder / "tenants" / TENANT / f"{name}.yaml"
            declaration.parent.mkdir(parents=True, exist_ok=True)
            declaration.write_text(DECLARATION.format(model=json.dumps(str(model)), rows=count), "utf-8")


def names_of(count: int, time_: int, variants: int) -> list[str]:
    return [f"r{count}-{time_}-{number}" for number in range(variants)]


def write_lines(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def conversations(file: Path) -> Iterator[list[Any]]:
    with file.open(encoding="utf-8") as lines:
        while batch := list(islice(lines, BATCH)):
            yield [json.loads(line)["messages"] for line in batch]


class Clock:
    """Seconds and CPU seconds of what runs inside of it; `began` and `ended` by the clock that all processes
    of the machine share.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = self.ended = 0.0
        self.began = time.monotonic()

    def __enter__(self) -> None:
        self._began = time.monotonic(), time.process_time()
        self.began = self._began[0] if self.wall == 0 else self.began

    def __exit__(self, *error: object) -> None:
        self.ended = time.monotonic()
        self.wall += self.ended - self._began[0]
        self.cpu += time.process_time() - self._began[1]


class Samples:
    """CPU seconds by part: a sample stands for all that was used since the one before it, so that a long call
    into a library, which no sample interrupts, counts in full.
    """

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._before = time.process_time()
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._take(0, sys._getframe())

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.process_time()
        self.seconds[part_of(frame)] += now - self._before
        self._before = now


def part_of(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        names = (f"{path.name}:{frame.f_code.co_name}", path.name, path.parent.name)
        found = next((PARTS[name] for name in names if name in PARTS), None)
        if found is not None:
            return found
        frame = frame.f_back
    return "the rest"


def tokenizer_alone(folder: Path, model: Path, count: int, clock: Clock) -> int:
    from ft_dagster.data.rendering.render import load_tokenizer

    tokenizer, tokens = load_tokenizer(model), 0
    for batch in conversations(folder / "data" / f"rows-{count}.jsonl"):
        texts = tokenizer.apply_chat_template(batch, tokenize=False)
        with clock:
            encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
            tokens += sum(map(len, encoded["input_ids"]))
    return tokens


def datasets_map(folder: Path, model: Path, count: int, clock: Clock) -> int:
    import datasets

    from ft_dagster.data.rendering.render import load_tokenizer

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(model)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        return {"input_ids": tokenizer.apply_chat_template(batch["messages"])["input_ids"]}

    with tempfile.TemporaryDirectory() as cache, clock:
        file = str(folder / "data" / f"rows-{count}.jsonl")
        table = datasets.Dataset.from_json(file, cache_dir=cache)
        mapped = table.map(tokenize, batched=True, batch_size=BATCH, remove_columns=["messages"])
        return sum(len(ids) for part in mapped.iter(BATCH) for ids in part["input_ids"])


def workspace(folder: Path, variant: str) -> Workspace:
    from ft_dagster.settings import load_settings
    from ft_dagster.spec import VariantKey
    from ft_dagster.workspace.workspace import RunOf, Workspace

    run = RunOf("benchmark", "benchmark", lambda line: None)
    return Workspace(load_settings(folder), VariantKey(TENANT, variant), run)


def make_before(folder: Path, variant: str) -> None:
    """The artifacts that the measured stages read."""
    from ft_dagster.stages import base_model, declaration, evaluation_texts

    for stage in (declaration.STAGE, base_model.STAGE, evaluation_texts.STAGE):
        workspace(folder, variant).make(stage)


def make_stage(name: str, folder: Path, variant: str, clock: Clock) -> tuple[int, dict[str, float]]:
    """(tokens of the mixture, CPU seconds by part) of making one stage."""
    from ft_dagster.stages.chain import up_to

    with clock:
        samples = Samples()
        made = workspace(folder, variant).make(up_to(name)[-1])
        samples.stop()
    if made.reused:
        raise SystemExit(f"{name} was there already: give an empty --folder")
    splits = made.figures.get("splits", {}).values()
    return sum(split["tokens"] for split in splits), dict(samples.seconds)


def measure(program: str, folder: Path, model: Path, count: int, variant: str) -> dict[str, Any]:
    """What one program took; its own process calls it."""
    import datasets  # noqa: F401

    import ft_dagster.stages.chain  # noqa: F401
    from ft_dagster.data.rendering.render import load_tokenizer
    from ft_dagster.training.figures import peak_process_bytes

    load_tokenizer(model)  # imports what it needs
    clock, parts, start = Clock(), {}, peak_process_bytes()
    if program == "tokenizer":
        tokens = tokenizer_alone(folder, model, count, clock)
    elif program == "datasets.map":
        tokens = datasets_map(folder, model, count, clock)
    else:
        tokens, parts = make_stage(program, folder, variant, clock)
    peak = peak_process_bytes()
    figures = {"tokens": tokens, "wall": clock.wall, "cpu": clock.cpu, "parts": parts}
    figures |= {"began": clock.began, "ended": clock.ended}
    return {**figures, "peak": peak / 1e6, "above": (peak - start) / 1e6}


def in_processes(
    program: str, given: argparse.Namespace, folder: Path, count: int, variants: list[str]
) -> Figures:
    """Figures of one program for each of the variants, all started at once."""
    command = [sys.executable, __file__, "--model", str(given.model), "--folder", str(folder)]
    command += ["--program", program, "--rows", str(count), "--cores", str(given.cores), "--variant"]
    started = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in variants]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{program} failed")
    found: list[Figures] = [json.loads(out.splitlines()[-1]) for out in said]
    parts = sum((Counter[str](each["parts"]) for each in found), Counter[str]())
    wall = max(each["ended"] for each in found) - min(each["began"] for each in found)
    return {
        **{name: sum(each[name] for each in found) for name in ("tokens", "cpu", "peak", "above")},
        "wall": wall if len(found) > 1 else found[0]["wall"],
        "parts": parts,
        "rows": count * len(found),
    }


def measured(given: argparse.Namespace, folder: Path, count: int) -> dict[str, Figures]:
    """Each program's figures of the time that took least CPU: others may use the machine meanwhile."""
    found: dict[str, list[Figures]] = {name: [] for name in PROGRAMS}
    for time_ in range(given.times):
        variants = names_of(count, time_, given.variants)
        for variant in variants:
            make_before(folder, variant)
        for name in PROGRAMS:
            asked = variants if name in STAGES else variants[:1]
            found[name].append(in_processes(name, given, folder, count, asked))
    return {name: min(each, key=lambda figures: figures["cpu"]) for name, each in found.items()}


def lines_of(count: int, found: dict[str, Figures]) -> Iterator[str]:
    """Those of the first table for one number of rows; `prepared` is both stages together."""
    stages = [found[name] for name in STAGES]
    prepared = {name: sum(stage[name] for stage in stages) for name in ("tokens", "wall", "cpu")}
    alone = found["tokenizer"]
    highest = {name: max(stage[name] for stage in stages) for name in ("peak", "above", "rows")}
    for name, took in {**found, "prepared": {**prepared, **highest}}.items():
        rows_, tokens = took["rows"], took["tokens"] or prepared["tokens"]
        of_raw = [alone[unit] / alone["rows"] / (took[unit] / rows_) for unit in ("wall", "cpu")]
        yield (
            f"| {count:,} | {name} | {rows_ / took['wall']:,.0f} | {tokens / took['wall']:,.0f} "
            f"| {took['cpu']:.2f} | {of_raw[0]:.0%} | {of_raw[1]:.0%} "
            f"| {took['peak']:.0f} | {took['above']:.0f} |"
        )


def parts_of(count: int, found: dict[str, Figures]) -> Iterator[str]:
    """Those of the second: microseconds a row of each part."""
    for name in STAGES:
        for part, seconds in sorted(found[name]["parts"].items(), key=lambda item: -item[1]):
            yield f"| {count:,} | {name} | {part} | {seconds / found[name]['rows'] * 1e6:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--times", type=int, default=3, help="of each; the one of least CPU time counts")
    parser.add_argument("--variants", type=int, default=1, help="that are prepared side by side")
    parser.add_argument("--cores", type=int, default=0, help="how many to use; 0: all there are")
    parser.add_argument("--model", type=Path, default=DEMO / "models/smollm2-135m")
    parser.add_argument("--folder", type=Path, help="an empty folder for the project, which is kept")
    parser.add_argument("--program", choices=PROGRAMS, help="for the benchmark itself: one measurement")
    parser.add_argument("--variant", default="", help="for the benchmark itself: of which variant")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: given.cores or len(cores)])
    if given.program:
        print(json.dumps(measure(given.program, given.folder, given.model, given.rows[0], given.variant)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        write_project(folder, given.model.resolve(), given.rows, given.times, given.variants)
        print(f"{tables.machine()}, {tables.today()}. {tables.versions('tokenizers', 'pyarrow')}\n")
        print("| rows | program | rows/s | tokens/s | CPU s | of the tokenizer's rate | by CPU time "
              "| peak, MB | above its start, MB |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        parts = []
        for count in given.rows:
            found = measured(given, folder, count)
            print("\n".join(lines_of(count, found)), flush=True)
            parts += parts_of(count, found)
        print("\n| rows | stage | part | CPU, us a row |\n|---|---|---|---|", *parts, sep="\n")


if __name__ == "__main__":
    main()
