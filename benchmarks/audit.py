"""How fast is an audit at scale? A Markdown table on stdout, a plot in `--results` (benchmarks/results).

    .venv/bin/python benchmarks/audit.py [--records 1000000] [--models 1000] [--each 10000] [--rows 20000]
        [--commit 100000]
    .venv/bin/python benchmarks/audit.py --search 50

Makes a store of so many models in ten tenants, each with a mixture of `--each` records drawn from `--records`
distinct ones a tenant's share of them, and asks: the index made from nothing, a commit of `--commit` records
followed, `record` by the API, warm, and by the command, `erase plan` of 1 and 20, the size of a path and of a
proof, and what a record tree adds to preparing `--rows` rows. Evidence, manifests and ledgers are real;
payloads are stubs, for no question here reads them. `--index-only` asks the index alone, with SQLite and,
where it is installed, DuckDB side by side, for the same memberships without a store. `--search MB` makes a
data set of so much text of each kind and looks through it for a name that is nowhere, and for one that is in
every hundredth row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from preparation import questions
from preparation import rows as prepared_rows
from pyarrow.parquet import write_table

from ft_dagster.audit.audit import Audit, open_audit
from ft_dagster.audit.index.artifact_records import LEDGER_VERSION
from ft_dagster.audit.index.index import Index, as_members, short
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import record
from ft_dagster.audit.search.inside import AllInside, rows_with
from ft_dagster.audit.search.stored_text import read_texts, text_files
from ft_dagster.audit.sought_record import SoughtRecord
from ft_dagster.data.files.tables import TableWriter
from ft_dagster.data.mixture.cuts import write_cuts
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.data.rows.dataset_schema import SCHEMA as DATASET_SCHEMA
from ft_dagster.data.rows.decontaminate import EvaluationItem
from ft_dagster.records.mixture_records import SCHEMA
from ft_dagster.records.record_keys import RecordKey, keys_of
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.records.tree_growth import grow_tree
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.store import Artifact, Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.strict_json import dumps
from tests.stored_figures import stored_training

TENANTS = 10
SEED = 7
COMMANDS = 5
ASKED, WARMED = 300, 1000  # records asked for, and others before them
RESULTS = Path(__file__).resolve().parent / "results"


def identity(number: int) -> bytes:
    return hashlib.sha256(f"record {number}".encode()).digest()


def write_rows(evidence: Path, numbers: Sequence[int]) -> None:
    """rows.parquet of a mixture of these records."""
    identities = [identity(number) for number in numbers]
    salts = [hashlib.sha256(b"salt" + one).digest()[:16] for one in identities]
    count = len(numbers)
    columns: dict[str, Any] = {
        "split": ["train"] * count, "source": ["data.sources[0]"] * count, "row": range(count),
        "examples": [1] * count, "path": ["data/rows.jsonl"] * count, "file": ["data/rows.jsonl"] * count,
        "line": numbers, "ordinal": numbers, "licence": ["CC0"] * count, "group": [None] * count,
        "identity": [one.hex() for one in identities],
        "record": [hashlib.sha256(s + i).hexdigest() for s, i in zip(salts, identities, strict=True)],
        "salt": [salt.hex() for salt in salts],
    }  # fmt: skip
    write_table(pa.table(columns, schema=SCHEMA), evidence / ORIGINS, compression="zstd", row_group_size=1024)


def add_model(store: Store, settings: Settings, variant: str, numbers: Sequence[int]) -> Artifact:
    """A mixture of these records and a model that was trained on each of them twice."""
    prefix, key = (
        f"tenants/{variant.replace('.', '/')}",
        keys_of(settings.keys_folder, variant.split(".", maxsplit=1)[0]),
    )

    def mix(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "mixture.json").write_text(variant)
        write_rows(attempt.evidence, numbers)
        write_cuts([], attempt.evidence)
        return {FIGURES: grow_tree(attempt.evidence, key.current).to_json()}

    mixture = make_artifact(store, settings.work_folder, Recipe("training_mixture", prefix), mix)

    def train(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "weights").write_text(variant)
        named = [f"data.sources[0]:{row}" for row in range(len(numbers))]
        ledger = {
            "schema_version": LEDGER_VERSION,
            "mixture_digest": mixture.digest,
            "records": named,
            "times_exported": [2] * len(numbers),
        }
        (attempt.evidence / "ledger.json").write_text(json.dumps(ledger))
        return stored_training()

    inputs, manifests = {"training_mixture": mixture.digest}, {"training_mixture": mixture.manifest}
    recipe = Recipe("fine_tuned_model", prefix, inputs, manifests=manifests)
    return make_artifact(store, settings.work_folder, recipe, train)


def drawn(models: int, each: int, records: int) -> Iterator[tuple[str, list[int]]]:
    """(variant, its records) of each model; every tenant draws from its own tenth of the records."""
    draw, share = random.Random(SEED), records // TENANTS
    for number in range(models):
        tenant = number % TENANTS
        chosen = draw.sample(range(share), min(each, share))
        yield f"tenant-{tenant}.model-{number}", [tenant * share + one for one in chosen]


def timed(work: Any) -> tuple[float, Any]:
    """(seconds, what it returns)."""
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def ask_all(audit: Audit, records: int) -> tuple[list[float], float]:
    """Milliseconds of each question by the clock, after as many others as read about every tree once; and CPU
    milliseconds of one, on average.
    """
    numbers = random.Random(SEED).sample(range(records), min(records, ASKED + WARMED))
    asked = [SoughtRecord((identity(number),), "") for number in numbers]
    for one in asked[ASKED:]:
        record(audit, one)
    cpu = time.process_time()
    clock = [1000 * timed(lambda one=one: record(audit, one))[0] for one in asked[:ASKED]]
    return clock, 1000 * (time.process_time() - cpu) / len(clock)


def by_command(folder: Path, records: int) -> list[float]:
    """Seconds of `ft-dagster audit record`, each a process of its own, on an index that is up to date."""
    numbers = random.Random(SEED + 1).sample(range(records), COMMANDS)
    return [seconds_of(folder, "audit", "record", identity(number).hex()) for number in numbers]


def erased_by_command(folder: Path, records: int, each: int) -> list[float]:
    """Seconds of `ft-dagster erase plan` of so many records."""
    draw, took = random.Random(SEED + 2), list[float]()
    for _ in range(COMMANDS):
        numbers = draw.sample(range(records), each)
        (folder / "erase.jsonl").write_text("".join(f"{identity(number).hex()}\n" for number in numbers))
        took.append(seconds_of(folder, "erase", "plan", str(folder / "erase.jsonl"), "--reason", "measured"))
    return took


def seconds_of(folder: Path, *words: str) -> float:
    """Seconds of a command of ft-dagster."""
    command = [sys.executable, "-c", "from ft_dagster.cli import main; main()", "--project", str(folder)]
    asked = [*command, *words, "--json"]
    return timed(lambda: subprocess.run(asked, check=True, stdout=subprocess.DEVNULL))[0]


def tree_share(rows: int, folder: Path) -> tuple[float, float]:
    """CPU microseconds a row: of preparing a data set, and of the tree over it; the least of three each."""
    (folder / "rows.jsonl").write_text("".join(dumps(row) + "\n" for row in prepared_rows(rows)), "utf-8")
    content = {"description": "x", "owners": ["me"], "base_model": "b", "data": {"sources": ["rows.jsonl"]}}
    spec, key = VariantSpec.model_validate(content), RecordKey(b"k" * 32, "")
    items = [EvaluationItem((asked["question"],), tuple(asked["choices"]), "quiz") for asked in questions()]
    took: dict[str, list[float]] = {"rows": [], "tree": []}
    for number in range(3):
        out, evidence = folder / f"payload-{number}", folder / f"evidence-{number}"
        out.mkdir()
        evidence.mkdir()
        began = time.process_time()
        build_task_dataset(spec, folder, items, out, evidence=evidence)
        took["rows"].append(time.process_time() - began)
        began = time.process_time()
        grow_tree(evidence, key)
        took["tree"].append(time.process_time() - began)
    return min(took["rows"]) / rows * 1e6, min(took["tree"]) / rows * 1e6


def at_scale(options: argparse.Namespace, folder: Path) -> list[tuple[str, str, str]]:
    (folder / "tenants").mkdir()
    settings = load_settings(folder)
    store = settings.open_store()
    began = time.perf_counter()
    for variant, numbers in drawn(options.models, options.each, options.records):
        add_model(store, settings, variant, numbers)
    made = time.perf_counter() - began
    memberships = options.models * min(options.each, options.records // TENANTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time()
    seconds, audit = timed(lambda: open_audit(settings, again=True))
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before_asking = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    milliseconds, of_cpu = ask_all(audit, options.records)
    asking = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_asking
    [(variant, numbers)] = drawn(1, options.each, options.records)
    proof = dumps(prove(audit, SoughtRecord((identity(numbers[0]),), ""), audit.model(variant)))
    path = sum(len(one) // 2 for leaf in json.loads(proof)["leaves"] for one in leaf["path"])
    audit.index.close()
    commands = by_command(folder, options.records)
    erased = {each: erased_by_command(folder, options.records, each) for each in (1, 20)}
    add_model(store, settings, "tenant-0.late", range(10**9, 10**9 + options.commit))
    follow_cpu = time.process_time()
    follow, later = timed(lambda: open_audit(settings))
    follow_cpu = time.process_time() - follow_cpu
    assert later.followed.records == options.commit
    prepared, tree = tree_share(options.rows, folder)
    plot(milliseconds, options.results)
    followed = f"a commit of {options.commit:,} records followed"
    scale = f"{options.records:,} records, {options.models:,} models, {memberships:,} memberships"
    return [
        ("made for it", scale, f"in {made:.0f} s"),
        ("index from nothing, by the clock", f"{memberships / seconds:,.0f} records/s", "over 200,000"),
        ("the same, by CPU time", f"{memberships / cpu:,.0f} records/s", ""),
        ("its peak memory above before", f"{(peak - before) / 1024:.0f} MB", "bounded"),
        ("`record`, warm: median", f"{statistics.median(milliseconds):.1f} ms", "below 50"),
        ("`record`, warm: 95 of 100", f"{np.percentile(milliseconds, 95):.1f} ms", "below 50"),
        ("`record`, warm: CPU time of one", f"{of_cpu:.1f} ms", ""),
        ("its peak memory above before", f"{asking / 1024:.0f} MB", "bounded"),
        ("`record` by the command: median", f"{statistics.median(commands):.2f} s", ""),
        *(
            (f"`erase plan` of {each}, by the command", f"{statistics.median(took):.2f} s", "at most 2")
            for each, took in erased.items()
        ),
        (followed, f"{follow:.2f} s, of CPU {follow_cpu:.2f}", "below 1"),
        ("a path", f"{path:,} bytes", "below 2,000"),
        ("a proof file (stub manifests)", f"{len(proof.encode()):,} bytes", "below 64,000"),
        ("the tree, CPU us a row", f"{tree:.1f} beside {prepared:.1f}: {tree / prepared:.1%}", "below 5%"),
    ]  # fmt: skip


def plot(milliseconds: Sequence[float], results: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    results.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(6, 3))
    axes.plot(sorted(milliseconds), np.linspace(0, 100, len(milliseconds)))
    axes.axvline(50, color="grey", linestyle="--")
    axes.set(xlabel="`record` by the API, warm (ms)", ylabel="questions (%)", xscale="log")
    figure.tight_layout()
    figure.savefig(results / "audit_record.png", dpi=120)


def index_only(options: argparse.Namespace, folder: Path) -> list[tuple[str, str, str]]:
    """The same memberships put into either database, and 300 records asked of it."""
    key = RecordKey(b"k" * 32, "")
    share = options.records // TENANTS
    lookups = [short(key.lookup(identity(number))) for number in range(options.records)]
    sets = [
        (number % TENANTS, number, [lookups[one] for one in numbers])
        for number, (_, numbers) in enumerate(drawn(options.models, options.each, options.records))
    ]
    asked = random.Random(SEED).sample(range(options.records), ASKED)
    total = sum(len(held) for _, _, held in sets)
    found = [("memberships", f"{total:,}", "")]
    for name, engine in (("SQLite", sqlite_index), ("DuckDB", duckdb_index)):
        result = engine(folder, sets, [(one // share, lookups[one]) for one in asked])
        if result is None:
            found.append((name, "not installed", ""))
            continue
        fill, cpu, milliseconds, size = result
        found += [
            (f"{name}: filled from nothing, by the clock", f"{total / fill:,.0f} records/s", "over 200,000"),
            (f"{name}: the same, by CPU time", f"{total / cpu:,.0f} records/s", ""),
            (f"{name}: a record found, median", f"{statistics.median(milliseconds):.2f} ms", ""),
            (f"{name}: size", f"{size / total:.0f} bytes a record", ""),
        ]
    return found


Sets = Sequence[tuple[int, int, list[int]]]
Filled = tuple[float, float, list[float], int]  # seconds, CPU seconds, milliseconds a question, bytes


def sqlite_index(folder: Path, sets: Sets, asked: Sequence[tuple[int, int]]) -> Filled | None:
    index = Index.open(folder / "sqlite", "benchmark")

    def fill() -> None:
        with index.transaction():
            for owner, artifact, held in sets:
                members = as_members(held, np.arange(len(held)), np.ones(len(held)))
                index.add_members(owner, artifact, members)

    cpu = time.process_time()
    seconds, _ = timed(fill)
    cpu = time.process_time() - cpu
    lookups = [(owner, lookup.to_bytes(8, "big")) for owner, lookup in asked]
    milliseconds = [1000 * timed(lambda one=one: index.hits(*one))[0] for one in lookups]
    index.close()
    return seconds, cpu, milliseconds, sum(file.stat().st_size for file in (folder / "sqlite").iterdir())


def duckdb_index(folder: Path, sets: Sets, asked: Sequence[tuple[int, int]]) -> Filled | None:
    try:
        import duckdb
    except ImportError:
        return None
    file = folder / "index.duckdb"
    db = duckdb.connect(str(file))
    db.execute("CREATE TABLE staged (owner INTEGER, lookup UBIGINT, artifact INTEGER, number INTEGER)")

    def fill() -> None:
        for owner, artifact, held in sets:
            rows = pa.table({
                "owner": [owner] * len(held), "lookup": held, "artifact": [artifact] * len(held),
                "number": range(len(held)),
            })  # fmt: skip
            db.register("rows", rows)
            db.execute("INSERT INTO staged SELECT * FROM rows")
        db.execute("CREATE TABLE members AS SELECT * FROM staged ORDER BY owner, lookup")
        db.execute("DROP TABLE staged")
        db.execute("CHECKPOINT")

    cpu = time.process_time()
    seconds, _ = timed(fill)
    cpu = time.process_time() - cpu
    ask = "SELECT artifact, number FROM members WHERE owner = ? AND lookup = ?"
    milliseconds = [1000 * timed(lambda one=one: db.execute(ask, one).fetchall())[0] for one in asked]
    db.close()
    return seconds, cpu, milliseconds, file.stat().st_size


def words_of(letters: str, draw: random.Random, count: int = 5000) -> list[str]:
    return ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(count)]


LATIN = "abcdefghijklmnopqrstuvwxyz"
TEXTS: dict[str, tuple[str, str, str]] = {  # letters, what is between words, what is at the end of each tenth
    "ASCII": (LATIN, " ", "\n"),
    "ASCII, HTML": (LATIN, " ", "</p>\n<p class='x'>"),
    "German": (LATIN * 4 + "äöüß", " ", "\n"),
    "Russian": ("абвгдежзийклмнопрстуфхцчшщыьэюя", " ", "\n"),
    "Chinese": ("".join(map(chr, range(0x4E00, 0x5200))), "", "，"),
    "German, decomposed": (LATIN * 4 + "äöü", " ", "\n"),
}


def a_row(words: Sequence[str], between: str, tenth: str, draw: random.Random, name: str) -> dict[str, Any]:
    said = draw.choices(words, k=50)
    said[9::10] = [f"{word}{tenth}" for word in said[9::10]]
    turns = [between.join(said[:15]), between.join(["", *said[15:], *([name] if name else [])])]
    messages = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]
    said = {"kind": "messages", "source": "data.sources[0]", "weight": 1.0}
    row = {**dict.fromkeys(DATASET_SCHEMA.names), **said}
    return {**row, "messages": json.dumps(messages, ensure_ascii=False)}


def searched(options: argparse.Namespace, folder: Path) -> list[tuple[str, str, str]]:
    """Megabytes of UTF-8 a CPU second, of each kind of text."""
    (folder / "tenants").mkdir()
    settings, draw = load_settings(folder), random.Random(SEED)
    store = settings.open_store()
    for number, (kind, (letters, between, tenth)) in enumerate(TEXTS.items()):
        words = words_of(letters, draw)
        if "decomposed" in kind:
            words = [unicodedata.normalize("NFD", word) for word in words]

        def rows(attempt: Attempt, words: Any = words, between: str = between, tenth: str = tenth) -> Any:
            written = 0
            with TableWriter(attempt.payload / "train.parquet", DATASET_SCHEMA) as table:
                while written < options.search * 1e6:
                    name = "" if table.rows % 100 else " Agnes Miller"
                    row = a_row(words, between, tenth, draw, name)
                    written += len(row["messages"].encode())
                    table.add(row, len(row["messages"]))
            return {"sources": {}}

        make_artifact(store, settings.work_folder, Recipe("task_dataset", f"tenants/kind-{number}/x"), rows)
    audit = open_audit(settings)
    found = []
    for number, kind in enumerate(TEXTS):
        for name, there in (("Ingrid Quist", "nowhere"), ("Agnes Miller", "in every hundredth row")):
            took = []
            for _ in range(3):  # the fastest: the first one warms
                cpu = time.process_time()
                rows, size = look(audit, name, f"kind-{number}")
                took.append(time.process_time() - cpu)
            wanted = "over 50" if kind.startswith("ASCII") else "over 15"
            speed = f"{size / 1e6 / min(took):,.0f} MB/s of {size / 1e6:,.0f} MB, {rows:,} rows found"
            found.append((f"{kind}: a name that is {there}", speed, wanted))
    return found


def look(audit: Audit, name: str, tenant: str) -> tuple[int, int]:
    """(rows that contain a name, bytes of all texts) of a tenant, without what learned from them."""
    sought, rows, size = [AllInside.of([name], part=False)], 0, 0
    for batch in read_texts(audit, text_files(audit, within=tenant)):
        rows += len(rows_with(sought, batch.texts))
        size += sum(
            len(text) if text.isascii() else len(text.encode()) for row in batch.texts for text in row
        )
    return rows, size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--each", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--commit", type=int, default=100_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--index-only", action="store_true")
    parser.add_argument("--search", type=int, default=0, metavar="MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = searched if options.search else index_only if options.index_only else at_scale
        found = asked(options, Path(folder))
    print("| what | measured | wanted |\n|---|---|---|")
    for row in found:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
