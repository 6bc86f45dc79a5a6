"""Two tenants' adapters from one base in memory, by the files that `catalogue` writes, both asked."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from tests.e2e.instance import free_port, running, wait_until
from tests.e2e.project import edit, rows, write_lines, write_project
from tests.e2e.workshop import Workshop

pytestmark = pytest.mark.slow
VLLM = os.environ.get("FT_DAGSTER_VLLM")  # the program, see vllm_environment.sh
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


@pytest.mark.long
def test_vllm_serves_two_tenants_and_each_answers_as_itself(served: Served, vllm: Path) -> None:
    """On a CPU, by the very arguments that `catalogue` wrote."""
    port = free_port()
    given = shlex.split((served.files / "vllm.args").read_text("utf-8"))
    small = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "128", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    root = f"http://127.0.0.1:{port}/v1"
    with running([vllm, "serve", str(served.base), *given, *small], environment):
        listed = wait_until(lambda: fetch(f"{root}/models"), patience=300)
        assert {*TENANTS} < {model["id"] for model in listed["data"]}
        said = {key: asked_of(root, key) for key in TENANTS}
    assert said == served.alone


def asked_of(root: str, key: str) -> str:
    body = {"model": key, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS}
    found = fetch(f"{root}/chat/completions", {**body, "temperature": 0})
    return str(found["choices"][0]["message"]["content"])


def fetch(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as found:
        return json.loads(found.read())
