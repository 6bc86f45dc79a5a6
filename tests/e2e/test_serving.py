"""Two tenants' adapters from one base in memory, by the files that `catalogue` writes, both asked; and models
judged through vLLM.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.models.model import load_model
from ft_dagster.evaluation.models.vllm_model import answered_by_vllm
from ft_dagster.gate.samples import read_answers, read_samples
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import evaluation
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.stages.release import release
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.instance import free_port, running, wait_until
from tests.e2e.project import edit, rows, write_lines, write_project
from tests.e2e.workshop import Workshop
from tests.evaluation.payloads import make_payload
from tests.evaluation.questions import row, write_rows, write_run, write_task, write_texts

pytestmark = pytest.mark.slow
VLLM = os.environ.get("FT_DAGSTER_VLLM")  # the program, see vllm_environment.sh
LOAD_SCHEMA = Path(__file__).parents[1] / "export" / "vllm_load_lora_adapter.json"
WRITTEN = ("test_split_task", "general_prompts")  # what is answered in words
TENANTS = ("acme.places", "globex.places")
QUESTION, TOKENS = rows()[0]["instruction"], 8
ASK = """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
asked = [{"role": "user", "content": sys.argv[2]}]
given = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
ids = tokenizer.apply_chat_template(asked, **given)
said = {}
for name in model.peft_config:
    model.set_adapter(name)
    written = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:]
    said[name] = tokenizer.decode(written, skip_special_tokens=True)
print(json.dumps(said))
"""


class Served(NamedTuple):
    """Two tenants in production on one base. `alone`: what each answers by itself; `files`: the catalogue."""

    project: Path
    base: Path
    files: Path
    alone: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Served:
    """The second learned other answers to the same questions."""
    folder = tmp_path_factory.mktemp("served")
    base = wide_base(tiny_model_folder, folder / "base")
    project = write_project(folder / "project", base)
    write_lines(project / "data" / "other.jsonl", [{**row, "output": "Nobody knows that."} for row in rows()])

    def second(content: dict[str, Any]) -> None:
        content["data"]["sources"] = ["data/other.jsonl"]
        content.update(export="adapter")

    edit(project / "tenants/globex/places.yaml", second)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(project, instance)
        assert all(shop.materialize(key).success for key in TENANTS)
    (written,) = command(project, "catalogue", "--to", str(folder / "files"))["bases"]
    assert tuple(written["adapters"]) == TENANTS
    alone = {key: answer(project, key) for key in TENANTS}
    assert len(set(alone.values())) == 2
    return Served(project, base, Path(written["folder"]), alone)


def wide_base(tiny: Path, folder: Path) -> Path:
    """Heads of 32 dimensions, below which vLLM has no kernel."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    config = AutoConfig.from_pretrained(tiny, num_attention_heads=2, head_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def command(project: Path, *words: str) -> Any:
    """What a command says with --json."""
    done = CliRunner().invoke(app, ["--project", str(project), *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def answer(project: Path, key: str) -> str:
    """What a variant's model answers by itself."""
    said = command(project, "try", key, "--prompt", QUESTION, "--max-new-tokens", str(TOKENS))
    return str(said[0]["answers"][0]["tuned"])


@pytest.mark.long
def test_transformers_serve_two_tenants_and_each_answers_as_itself(served: Served) -> None:
    program = f"import json, sys\n{(served.files / 'load.py').read_text('utf-8')}{ASK}"
    asked = [sys.executable, "-c", program, str(served.base), QUESTION]
    done = subprocess.run(asked, cwd=served.project, capture_output=True, text=True, check=True)
    together = json.loads(done.stdout)
    assert {name.replace("_", "."): said for name, said in together.items()} == served.alone


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's program, in an environment of its own (3.4 GB) where none is named."""
    if VLLM is not None:
        return Path(VLLM)
    folder = tmp_path_factory.mktemp("vllm") / "environment"
    subprocess.run(["sh", Path(__file__).with_name("vllm_environment.sh"), folder], check=True)
    return folder / "bin" / "vllm"


@pytest.fixture(scope="module")
def server(served: Served, vllm: Path) -> Iterator[str]:
    """The address of vLLM on a CPU, started by the very arguments that `catalogue` wrote."""
    port = free_port()
    given = shlex.split((served.files / "vllm.args").read_text("utf-8"))
    small = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "128", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    address = f"http://127.0.0.1:{port}"
    with running([vllm, "serve", str(served.base), *given, *small], environment):
        listed = wait_until(lambda: fetch(f"{address}/v1/models"), patience=300)
        assert {*TENANTS} < {model["id"] for model in listed["data"]}
        yield address


@pytest.mark.long
def test_vllm_serves_two_tenants_and_each_answers_as_itself(served: Served, server: str) -> None:
    assert {key: asked_of(f"{server}/v1", key) for key in TENANTS} == served.alone


@pytest.mark.long
def test_a_running_vllm_takes_the_next_version_of_an_adapter_and_a_rollback(
    served: Served, server: str
) -> None:
    """By the calls that `catalogue` wrote, though the server holds another adapter by that name."""
    key, first = TENANTS[1], served.alone[TENANTS[1]]

    def loaded() -> dict[str, str]:
        """What both answer after the calls of today's catalogue."""
        (written,) = command(served.project, "catalogue", "--to", str(served.files.parent))["bases"]
        calls = ["bash", "-e", str(Path(written["folder"]) / "vllm_load.sh")]
        subprocess.run(
            calls, env={**os.environ, "SERVER": server}, check=True, capture_output=True, text=True
        )
        return {each: asked_of(f"{server}/v1", each) for each in TENANTS}

    assert loaded() == served.alone
    write_lines(
        served.project / "data" / "other.jsonl", [{**row, "output": "It is far away."} for row in rows()]
    )
    with dg.DagsterInstance.ephemeral() as instance:
        assert Workshop(served.project, instance).materialize(key).success
    second = answer(served.project, key)
    assert second != first
    assert loaded() == {**served.alone, key: second}
    command(served.project, "rollback", key, "--reason", "worse")
    assert loaded() == served.alone


@pytest.mark.long
def test_the_recorded_schema_is_the_one_of_vllms_own_class(vllm: Path) -> None:
    printed = "from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest as asked\n"
    printed += "import json, vllm; print(json.dumps([vllm.__version__, asked.model_json_schema()]))"
    done = subprocess.run(
        [vllm.with_name("python"), "-c", printed], check=True, capture_output=True, text=True
    )
    version, schema = json.loads(done.stdout.splitlines()[-1])
    recorded = json.loads(LOAD_SCHEMA.read_text("utf-8"))
    assert recorded == {"vllm": version.split("+")[0], "LoadLoRAAdapterRequest": schema}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A folder with a base, trained weights of two kinds beside it, and questions."""
    folder = tmp_path_factory.mktemp("judged")
    base = wide_base(tiny_model_folder, folder / "base")
    for kind in ("lora", "full"):
        make_payload(kind, base, folder / kind)
    write_task(folder, "forms", 30)
    write_rows(folder / "test.parquet", [row(n) for n in range(20)] + [row(n, "text") for n in range(4)])
    write_texts(folder / "texts.parquet", 20)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", [None, "lora", "full"])
def test_models_are_judged_through_vllm_as_by_transformers(
    judged: Path, vllm: Path, kind: str | None
) -> None:
    tuned = None if kind is None else judged / kind
    found, engines = [], []
    for name, python in (("transformers", None), ("vllm", vllm.with_name("python"))):
        run = write_run(
            judged / f"{kind}-{name}",
            judged / "base",
            tuned=tuned,
            vllm=python,
            general=["forms.yaml"],
            test_split_task={"test": judged / "test.parquet", "max_new_tokens": 6},
            general_holdout=judged / "texts.parquet",
            general_prompts=True,
            limit=12,
        )
        assert main(run) == 0
        figures = json.loads((run / "output" / "result.json").read_text("utf-8"))["figures"]
        engines.append((figures["engine"].split()[0], figures["measured"]["engine"]))
        found.append((read_samples(run / "output/payload"), read_answers(run / "output/evidence")))
    assert engines == [("transformers", "transformers"), ("vllm", "vllm")]
    (before, said_before), (after, said_after) = found
    told = [[s for s in samples if s.metric.endswith(("loss", "acc"))] for samples in (before, after)]
    assert told[0] == told[1]
    assert len(told[0]) > 40
    written = [[a.answered for a in said if a.role in WRITTEN] for said in (said_before, said_after)]
    equal = [one == other for one, other in zip(*written, strict=True)]
    assert sum(equal) >= 0.9 * len(equal)
    assert len(equal) > 40


@pytest.mark.long
def test_an_adapter_that_acts_otherwise_in_vllm_is_refused(judged: Path, vllm: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(judged / "lora", tmp_path / "other"))
    config = json.loads((other / "adapter_config.json").read_text("utf-8"))
    (other / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
    model, tokenizer = load_model(judged / "base", judged / "lora", device="cpu", dtype="float32")
    judging = answered_by_vllm(
        vllm.with_name("python"),
        model,
        tokenizer,
        base=judged / "base",
        tuned=other,
        dtype="float32",
        scratch=tmp_path / "scratch",
    )
    with pytest.raises(UserError, match="does not act in vLLM as in transformers"), judging:
        pass


@pytest.mark.long
def test_a_variant_is_judged_and_released_through_vllm_and_never_held_against_another_engine(
    tmp_path: Path, tiny_model_folder: Path, vllm: Path
) -> None:
    project = write_project(tmp_path / "project", wide_base(tiny_model_folder, tmp_path / "base"))
    named = {"evaluation": {"engine": "vllm", "vllm": str(vllm.with_name("python"))}}
    edit(project / "ft_dagster.yaml", lambda content: content.update(named))
    desk = Workspace(load_settings(project), VariantKey.parse(TENANTS[0]))
    outcome = run_chain(desk)
    assert outcome.error is None, outcome.error
    for name in ("base_evaluation", "evaluation"):
        assert outcome.made[name].spec["engine.name"] == "vllm"
        assert outcome.made[name].figures["engine"].startswith("vllm ")
    assert release(desk).entry.production == 1
    by_transformers = desk.settings.evaluation.model_copy(update={"engine": "transformers"})
    settings = desk.settings.model_copy(update={"evaluation": by_transformers})
    with pytest.raises(UserError, match="the base was asked otherwise"):
        Workspace(settings, desk.key).make(evaluation.STAGE)

    edit(project / "tenants/globex/places.yaml", lambda content: content["method"].update(use_dora=True))
    outcome = run_chain(Workspace(desk.settings, VariantKey.parse(TENANTS[1])), up_to("base_evaluation"))
    assert outcome.error is None, outcome.error
    figures = outcome.made["base_evaluation"].figures
    assert figures["engine"].startswith("transformers ")
    assert "DoRA" in figures["engine_reason"]


def asked_of(root: str, key: str) -> str:
    body = {"model": key, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS}
    found = fetch(f"{root}/chat/completions", {**body, "temperature": 0})
    return str(found["choices"][0]["message"]["content"])


def fetch(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as found:
        return json.loads(found.read())
