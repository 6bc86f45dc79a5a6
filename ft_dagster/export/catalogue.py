"""Lists the released adapters of one base, as servers take them: vLLM's arguments, an index in LoRAX's words,
and the lines by which transformers and PEFT load them.

Of one quantization too: an adapter that was judged on a base in nf4 is another model on the plain base.

Pure: plain data in, the content of files out. Who calls it knows where releases lie.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.loaded_by_vllm import max_lora_rank
from ft_dagster.export.vllm import LOADED_AS

VLLM_FILE, LOAD_FILE, INDEX_FILE, PEFT_FILE = "vllm.args", "vllm_load.sh", "adapters.json", "load.py"
SCHEMA_VERSION = 1
QUANTIZED = {None: "", "nf4": "--quantization bitsandbytes "}  # how vLLM makes the base that was judged on
AT_ONCE = 8  # adapters in one batch: vLLM reserves GPU memory for each at the largest rank


@dataclass(frozen=True)
class ReleasedAdapter:
    """Describes the version in production of a variant that is served as an adapter.

    `variant`: its key, acme.support, by which requests name it; `path`: the payload folder as the server sees
    it; `rank`: the largest of any layer; `digest`: of the payload. `quantization`: how the base was quantized
    in training (nf4, int8). `not_loaded`: why vLLM does not load it (vllm.not_loaded), empty where it does.
    `verdict`: the sentence of what it was released by, empty where that is gone.
    """

    variant: str
    version: int
    path: str
    rank: int
    digest: str
    quantization: str | None = None
    not_loaded: tuple[str, ...] = ()
    verdict: str = ""

    @property
    def refused(self) -> tuple[str, ...]:
        """Say why it is not in vLLM's arguments."""
        reasons = list(self.not_loaded)
        if not reasons and max_lora_rank(self.rank) is None:
            reasons.append(f"has rank {self.rank}")
        if self.quantization not in QUANTIZED:
            reasons.append(f"was judged on its base in {self.quantization}, which vLLM does not make")
        return tuple(reasons)


def catalogue(base: str, base_digest: str, adapters: Sequence[ReleasedAdapter]) -> dict[str, str]:
    """Return file name -> content, for one base (its reference and digest) and the adapters released for it.

    `vllm.args`: one line to put behind `vllm serve BASE`, every name and path quoted for a shell; empty
    without an adapter that vLLM loads. `vllm_load.sh`: the same adapters, for a server that runs already.
    `adapters.json` and `load.py` (plain transformers): all adapters. Equal adapters in any order give equal
    bytes. Raises UserError for a variant named twice, and for adapters of unlike quantization.
    """
    kinds = sorted({str(adapter.quantization) for adapter in adapters})
    if len(kinds) > 1:
        raise UserError(
            "adapters that were judged on unlike bases are not served by one",
            field="quantization",
            value=", ".join(kinds),
            fix="Give those of one quantization",
        )
    ordered = sorted(adapters, key=lambda adapter: adapter.variant)
    for one, other in pairwise(ordered):
        if one.variant == other.variant:
            raise UserError(
                "two adapters are to be served by one name",
                field="variant",
                value=one.variant,
                fix="Give one version of each variant: the one in production",
            )
    return {
        VLLM_FILE: vllm_arguments(ordered),
        LOAD_FILE: _load_lines(ordered),
        PEFT_FILE: _peft_lines(base, ordered),
        INDEX_FILE: json.dumps(_index(base, base_digest, ordered), indent=2) + "\n",
    }


def vllm_arguments(adapters: Sequence[ReleasedAdapter]) -> str:
    """Return `--enable-lora --max-loras 2 … --max-lora-rank 16 --lora-modules acme.support=/path …`, and a
    line end.
    """
    loaded = [adapter for adapter in adapters if not adapter.refused]
    if not loaded:
        return ""
    rank, quantized = (
        max_lora_rank(max(adapter.rank for adapter in loaded)),
        QUANTIZED[loaded[0].quantization],
    )
    modules = " ".join(shlex.quote(f"{adapter.variant}={adapter.path}") for adapter in loaded)
    return (
        f"{quantized}--enable-lora --max-loras {min(len(loaded), AT_ONCE)} --max-cpu-loras {len(loaded)}"
        f" --max-lora-rank {rank} --lora-modules {modules}\n"
    )


def _load_lines(adapters: Sequence[ReleasedAdapter]) -> str:
    """Write a call of vLLM's API for each adapter; the server needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.

    `load_inplace`: an adapter that the server holds by this name (the version before, or after a rollback the
    one after) is replaced; without it vLLM refuses a name that it knows.
    """
    calls = []
    for adapter in adapters:
        if not adapter.refused:
            named = {"lora_name": adapter.variant, "lora_path": adapter.path}
            asked = json.dumps({**named, "load_inplace": True})
            to = '"$SERVER/v1/load_lora_adapter" -H "Content-Type: application/json"'
            calls.append(f"curl -sS --fail-with-body {to} -d {shlex.quote(asked)}\n")
    return "".join(calls)


def _peft_lines(base: str, adapters: Sequence[ReleasedAdapter]) -> str:
    """Write Python that loads the base once and all adapters over it; `model.set_adapter(NAME)` chooses one.

    A name has no dot: torch keeps an adapter as a module by its name.
    """
    if not adapters:
        return ""
    quantization = LOADED_AS.get(str(adapters[0].quantization))
    wanted = ["AutoModelForCausalLM", *(["BitsAndBytesConfig"] if quantization else [])]
    given = f", quantization_config=BitsAndBytesConfig({quantization})" if quantization else ""
    first, *others = ((adapter.path, adapter.variant.replace(".", "_")) for adapter in adapters)
    loaded = "".join(f"model.load_adapter({path!r}, adapter_name={name!r})\n" for path, name in others)
    return (
        f"from peft import PeftModel\nfrom transformers import {', '.join(wanted)}\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r}{given})\n"
        f"model = PeftModel.from_pretrained(base, {first[0]!r}, adapter_name={first[1]!r})\n{loaded}"
    )


def _index(base: str, base_digest: str, adapters: Sequence[ReleasedAdapter]) -> dict[str, object]:
    """Write the index by which LoRAX loads an adapter when a request names its `adapter_id` and
    `adapter_source`.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "base_model": base,
        "base_digest": f"sha256:{base_digest}",
        "adapters": [
            {
                "name": adapter.variant,
                "version": adapter.version,
                "adapter_id": adapter.path,
                "adapter_source": "s3" if adapter.path.startswith("s3://") else "local",
                "digest": f"sha256:{adapter.digest}",
                "rank": adapter.rank,
                "base_quantization": adapter.quantization,
                "verdict": adapter.verdict,
                "vllm": {"loads": not adapter.refused, "because": list(adapter.refused)},
            }
            for adapter in adapters
        ],
    }
