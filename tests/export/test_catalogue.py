"""The catalogue of released adapters: the arguments vLLM takes, an index, and what is left out of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.loaded_by_vllm import MAX_RANKS, max_lora_rank, not_loaded
from ft_dagster.export.catalogue import (
    INDEX_FILE,
    LOAD_FILE,
    PEFT_FILE,
    VLLM_FILE,
    ReleasedAdapter,
    catalogue,
)
from ft_dagster.export.vllm import serve_command

SCHEMA = Path(__file__).with_name("vllm_load_lora_adapter.json")
BASE = ("acme/base-1b", "b" * 64)


def adapter(variant: str, **changed: Any) -> ReleasedAdapter:
    given = {"version": 3, "path": f"/srv/{variant}", "rank": 16, "digest": "a" * 64, **changed}
    return ReleasedAdapter(variant=variant, **given)


def test_every_adapter_is_named_to_vllm_by_its_variant_under_the_rank_the_largest_needs() -> None:
    written = catalogue(*BASE, [adapter("bank.faq", rank=24), adapter("acme.support")])

    assert shlex.split(written[VLLM_FILE]) == [
        "--enable-lora", "--max-loras", "2", "--max-cpu-loras", "2", "--max-lora-rank", "32",
        "--lora-modules", "acme.support=/srv/acme.support", "bank.faq=/srv/bank.faq",
    ]  # fmt: skip


def test_a_path_with_a_space_stays_one_argument() -> None:
    written = catalogue(*BASE, [adapter("acme.support", path="/srv/our models/it's")])
    assert shlex.split(written[VLLM_FILE])[-1] == "acme.support=/srv/our models/it's"


def test_an_adapter_that_vllm_does_not_load_is_in_the_index_with_the_reason_and_not_in_the_arguments() -> (
    None
):
    dora = adapter("acme.dora", not_loaded=("is a DoRA adapter",))
    written = catalogue(*BASE, [dora, adapter("acme.huge", rank=600), adapter("acme.support")])

    assert shlex.split(written[VLLM_FILE])[-1:] == ["acme.support=/srv/acme.support"]
    assert "dora" not in written[VLLM_FILE]
    assert "huge" not in written[VLLM_FILE]
    index = {one["name"]: one["vllm"] for one in json.loads(written[INDEX_FILE])["adapters"]}
    assert index["acme.dora"] == {"loads": False, "because": ["is a DoRA adapter"]}
    assert index["acme.huge"] == {"loads": False, "because": ["has rank 600"]}
    assert index["acme.support"]["loads"] is True


def test_the_index_says_from_where_a_server_takes_each_adapter() -> None:
    written = catalogue(*BASE, [adapter("acme.support", path="s3://bucket/x", quantization="nf4")])
    index = json.loads(written[INDEX_FILE])

    assert (index["base_model"], index["base_digest"]) == ("acme/base-1b", f"sha256:{'b' * 64}")
    assert index["adapters"][0] == {
        "name": "acme.support", "version": 3, "adapter_id": "s3://bucket/x", "adapter_source": "s3",
        "digest": f"sha256:{'a' * 64}", "rank": 16, "base_quantization": "nf4", "verdict": "",
        "vllm": {"loads": True, "because": []},
    }  # fmt: skip


def test_the_order_in_which_adapters_are_given_changes_nothing() -> None:
    given = [adapter("acme.support"), adapter("bank.faq"), adapter("acme.sales")]
    assert catalogue(*BASE, given) == catalogue(*BASE, given[::-1])


def test_a_base_without_adapters_gives_nothing_to_load() -> None:
    written = catalogue(*BASE, [])
    assert {written[name] for name in (VLLM_FILE, LOAD_FILE, PEFT_FILE)} == {""}


def test_a_quantized_base_is_made_so_and_never_shared_with_the_plain_one() -> None:
    on_nf4 = adapter("acme.support", quantization="nf4")
    assert catalogue(*BASE, [on_nf4])[VLLM_FILE].startswith("--quantization bitsandbytes --enable-lora")
    with pytest.raises(UserError, match="judged on unlike bases"):
        catalogue(*BASE, [on_nf4, adapter("bank.faq")])


def test_an_adapter_on_a_base_that_vllm_does_not_make_is_not_in_its_arguments() -> None:
    written = catalogue(*BASE, [adapter("acme.support", quantization="int8")])
    assert (written[VLLM_FILE], written[LOAD_FILE]) == ("", "")
    (index,) = json.loads(written[INDEX_FILE])["adapters"]
    assert index["vllm"]["because"] == ["was judged on its base in int8, which vLLM does not make"]


def test_a_running_server_is_told_of_each_adapter_by_a_call_that_vllm_takes_a_second_time() -> None:
    """Held against vLLM's own schema of such a call, as recorded; tests/e2e/test_serving.py compares both."""
    (line,) = catalogue(*BASE, [adapter("acme.support", path="/srv/it's")])[LOAD_FILE].splitlines()
    asked = json.loads(shlex.split(line)[-1])
    assert asked == {"lora_name": "acme.support", "lora_path": "/srv/it's", "load_inplace": True}
    schema = json.loads(SCHEMA.read_text("utf-8"))["LoadLoRAAdapterRequest"]
    assert set(schema["required"]) <= asked.keys() <= schema["properties"].keys()
    types = {"string": str, "boolean": bool}
    assert all(isinstance(value, types[schema["properties"][name]["type"]]) for name, value in asked.items())


def test_plain_transformers_load_the_base_once_and_every_adapter_over_it() -> None:
    code = catalogue(*BASE, [adapter("bank.faq"), adapter("acme.support")])[PEFT_FILE]
    compile(code, PEFT_FILE, "exec")
    assert code.count("AutoModelForCausalLM.from_pretrained('acme/base-1b')") == 1
    assert "PeftModel.from_pretrained(base, '/srv/acme.support', adapter_name='acme_support')" in code
    assert "load_adapter('/srv/bank.faq', adapter_name='bank_faq')" in code
    quantized = catalogue(*BASE, [adapter("acme.support", quantization="nf4")])[PEFT_FILE]
    compile(quantized, PEFT_FILE, "exec")
    assert "load_in_4bit=True" in quantized


def test_one_name_for_two_adapters_is_refused() -> None:
    with pytest.raises(UserError, match="by one name") as caught:
        catalogue(*BASE, [adapter("acme.support"), adapter("acme.support", version=4)])
    assert caught.value.value == "acme.support"


@pytest.mark.parametrize(("rank", "needed"), [(1, 1), (4, 8), (8, 8), (17, 32), (300, 320), (512, 512)])
def test_the_smallest_rank_that_vllm_may_be_given_is_chosen(rank: int, needed: int) -> None:
    assert max_lora_rank(rank) == needed
    assert needed in MAX_RANKS


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "LOHA"}, "is no LoRA"),
        ({"use_dora": True}, "is a DoRA adapter"),
        ({"modules_to_save": ["lm_head"]}, "carries whole modules"),
        ({"trainable_token_indices": [7]}, "carries trained rows of the vocabulary"),
        ({"bias": "all"}, "carries trained biases"),
        ({"alpha_pattern": {"q_proj": 8}}, "has ranks or alphas by layer"),
        ({"rank_pattern": {"q_proj": 600}}, "has rank 600, above 512"),
        ({"r": None, "num_virtual_tokens": 20}, "is a learned prompt or prefix"),
    ],
)
def test_what_vllm_does_not_load_has_a_reason_and_no_command(config: dict[str, Any], reason: str) -> None:
    assert reason in not_loaded({"r": 16, "bias": "none", **config})
    assert serve_command({"r": 16, "bias": "none", **config}, "acme.support", None) is None


def test_a_plain_adapter_is_served_on_the_base_as_it_was_quantized() -> None:
    config = {"r": 16, "bias": "none", "use_rslora": True}
    assert serve_command(config, "acme.support", None) == (
        "vllm serve BASE --enable-lora --max-lora-rank 16 --lora-modules acme.support=EXPORT"
    )
    assert "--quantization bitsandbytes" in str(serve_command(config, "acme.support", "nf4"))
    assert serve_command(config, "acme.support", "int8") is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the script is curl's")
@pytest.mark.parametrize(("status", "ends_with"), [(200, 0), (400, 22)])
def test_a_call_that_the_server_refuses_fails_and_says_why(status: int, ends_with: int) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"why")

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = {"SERVER": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "*"}
        script = catalogue(*BASE, [adapter("acme.support")])[LOAD_FILE]
        done = subprocess.run(
            ["bash", "-e"], input=script, env={**os.environ, **address},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        server.shutdown()
    assert (done.returncode, done.stdout) == (ends_with, "why")
