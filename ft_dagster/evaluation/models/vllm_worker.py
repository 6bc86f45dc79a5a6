"""Writes greedy answers in an environment that has vLLM, a line for each line it reads: `python -I
vllm_worker.py`.

It is run by its path, by the Python of that environment, and imports nothing of this package. The first
line it reads is what vLLM loads: `model`, `dtype`, `memory_share` of a GPU or `cache_bytes`, `adapter` and
`max_lora_rank`. Its own first says `version` and `max_length`. Every further line asks for `answers` to
`prompts` (token ids), of at most `max_tokens` tokens, up to and with a token of `ends` or a word of
`stops`, by the adapter unless `plain`, and for the `logprobs` of their tokens.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, TypedDict

DEATH_SIGNAL, KILL = 1, 9  # PR_SET_PDEATHSIG, SIGKILL


def main() -> None:
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, KILL)
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    # In this one process alone: it was given the open files that it reads.
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")
    import vllm

    given = json.loads(sys.stdin.readline())
    llm, adapter = _load(given)
    hello: Loaded = {"version": vllm.__version__, "max_length": llm.llm_engine.model_config.max_model_len}
    print(json.dumps(hello), file=said, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(llm, adapter, json.loads(line))), file=said, flush=True)


class LoadRequest(TypedDict):
    """Asks vLLM to load a model, in the first line."""

    model: str
    dtype: str
    adapter: str | None
    max_lora_rank: int | None
    memory_share: float | None
    cache_bytes: int | None


class Loaded(TypedDict):
    """Says what was loaded, in answer to the first line."""

    version: str
    max_length: int


class AnswerRequest(TypedDict):
    """Asks for answers, in each further line."""

    prompts: list[list[int]]
    max_tokens: int
    ends: list[int]
    stops: list[str]
    plain: bool


class Answers(TypedDict):
    """Gives the answers that a line asked for."""

    answers: list[list[int]]
    logprobs: list[list[float]]


def _load(given: LoadRequest) -> tuple[Any, Any]:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    path = given["adapter"]
    lora = {} if path is None else {"enable_lora": True, "max_lora_rank": given["max_lora_rank"]}
    share, cache = given["memory_share"], given["cache_bytes"]
    llm = LLM(
        model=given["model"],
        dtype=given["dtype"],
        max_model_len=-1,  # as long as the model takes and the memory has room for
        load_format="safetensors",
        trust_remote_code=False,
        generation_config="vllm",  # the base's own could make answers other than greedy
        enforce_eager=True,  # graphs take longer to make than an evaluation saves by them
        disable_log_stats=True,
        **lora,
        **({} if share is None else {"gpu_memory_utilization": share}),
        **({} if cache is None else {"kv_cache_memory_bytes": cache}),
    )
    return llm, None if path is None else LoRARequest("adapter", 1, path)


def _answer(llm: Any, adapter: Any, asked: AnswerRequest) -> Answers:
    from vllm import SamplingParams, TokensPrompt

    how = SamplingParams(
        temperature=0.0,
        max_tokens=asked["max_tokens"],
        stop=asked["stops"],
        stop_token_ids=asked["ends"],
        ignore_eos=True,  # unless it is among those
        skip_special_tokens=False,
        logprobs=0,  # of the tokens themselves
    )
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]]
    lora = None if asked["plain"] else adapter
    found = [each.outputs[0] for each in llm.generate(prompts, how, use_tqdm=False, lora_request=lora)]
    return {
        "answers": [list(each.token_ids) for each in found],
        "logprobs": [
            [place[token].logprob for token, place in zip(each.token_ids, each.logprobs, strict=True)]
            for each in found
        ],
    }


if __name__ == "__main__":
    main()
