"""The released adapters of one base, as servers take them: vLLM's arguments and an index in LoRAX's words.

Pure: plain data in, the content of files out. Who calls it knows where releases lie.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.export.vllm import max_lora_rank

VLLM_FILE, INDEX_FILE = "vllm.args", "adapters.json"
SCHEMA_VERSION = 1
AT_ONCE = 8  # adapters in one batch: vLLM reserves GPU memory for each at the largest rank


@dataclass(frozen=True)
class ReleasedAdapter:
    """The version in production of a variant that is served as an adapter.

    `variant`: its key, acme.support, by which requests name it; `path`: the payload folder as the server sees
    it; `rank`: the largest of any layer; `digest`: of the payload. `quantization`: how the base was quantized
    in training (nf4, int8). `not_loaded`: why vLLM does not load it (vllm.not_loaded), empty where it does.
    """

    variant: str
    version: int
    path: str
    rank: int
    digest: str
    quantization: str | None = None
    not_loaded: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[str, ...]:
        """Why it is not in vLLM's arguments."""
        if self.not_loaded or max_lora_rank(self.rank) is not None:
            return self.not_loaded
        return (f"has rank {self.rank}",)


def catalogue(base: str, base_digest: str, adapters: Sequence[ReleasedAdapter]) -> dict[str, str]:
    """File name -> content, for one base (its reference and digest) and the adapters released for it.

    `vllm.args`: one line to put behind `vllm serve BASE`, every name and path quoted for a shell; empty
    without an adapter that vLLM loads. `adapters.json`: all adapters. Equal adapters in any order give equal
    bytes. Raises UserError for a variant named twice.
    """
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
        INDEX_FILE: json.dumps(_index(base, base_digest, ordered), indent=2) + "\n",
    }


def vllm_arguments(adapters: Sequence[ReleasedAdapter]) -> str:
    """`--enable-lora --max-loras 2 … --max-lora-rank 16 --lora-modules acme.support=/path …`, a line end."""
    loaded = [adapter for adapter in adapters if not adapter.refused]
    if not loaded:
        return ""
    rank = max_lora_rank(max(adapter.rank for adapter in loaded))
    modules = " ".join(shlex.quote(f"{adapter.variant}={adapter.path}") for adapter in loaded)
    return (
        f"--enable-lora --max-loras {min(len(loaded), AT_ONCE)} --max-cpu-loras {len(loaded)}"
        f" --max-lora-rank {rank} --lora-modules {modules}\n"
    )


def _index(base: str, base_digest: str, adapters: Sequence[ReleasedAdapter]) -> dict[str, Any]:
    """LoRAX loads an adapter when a request names its `adapter_id` and `adapter_source`."""
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
                "vllm": {"loads": not adapter.refused, "because": list(adapter.refused)},
            }
            for adapter in adapters
        ],
    }
