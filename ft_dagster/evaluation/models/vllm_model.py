"""Puts questions to the model under judgement by vLLM, which writes the greedy answers in a process and an
environment of its own.

transformers has it loaded too, and tells the log-likelihoods: vLLM computes no context once for several
continuations, and those of a prompt by an adapter end in an error (0.32, on a CPU). So two copies of the
base are in memory. Before anything is asked, an adapter has to act in both alike.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models import vllm_worker
from ft_dagster.evaluation.models.arithmetic import GENERATION_TOKENS
from ft_dagster.evaluation.models.greedy import Greedy, PromptRow
from ft_dagster.evaluation.models.load import ADAPTER_CONFIG, kind_of
from ft_dagster.evaluation.models.loaded_by_vllm import max_lora_rank, not_loaded, rank_of
from ft_dagster.evaluation.models.model import PROBE, TokenBatchedLM, probe_logits
from ft_dagster.launch.processes import MARKER, SUPERVISOR
from ft_dagster.launch.rank import held_descriptors
from ft_dagster.models.quantize import quantization_of
from ft_dagster.provenance.held import descriptors_below

# Of a GPU, for the batches of log-likelihoods: their logits, states and products.
OWN_BYTES = 8e9
LEAST_CACHE = 2**28  # bytes
TOLD = (
    "PATH", "HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "CUDA", "NVIDIA", "OMP_", "MKL_", MARKER, SUPERVISOR,
)  # fmt: skip


class Worker:
    """Runs vLLM in a process of its own, with a new folder `scratch` for its temporary files. Raises
    UserError once it has ended.
    """

    def __init__(
        self,
        python: Path,
        base: Path,
        tuned: Path | None,
        *,
        dtype: str,
        device: str,
        scratch: Path,
        cache_bytes: int | None = None,
    ) -> None:
        whole = base if tuned is None or kind_of(tuned) == "adapter" else tuned
        adapter = None if tuned in (None, whole) else tuned
        given: vllm_worker.LoadRequest = {
            "model": str(whole),
            "dtype": dtype,
            "adapter": None if adapter is None else str(adapter),
            "max_lora_rank": None if adapter is None else _rank_to_load(adapter),
            "memory_share": _free_share() if device == "cuda" else None,
            "cache_bytes": cache_bytes,
        }
        held = [number for folder in {whole, adapter or whole} for number in descriptors_below(folder)]
        scratch.mkdir()
        try:
            self._process = subprocess.Popen(
                [python, "-I", vllm_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**_environment(), "TMPDIR": str(scratch)},
                # It reads the files through the very descriptors that were hashed, and holds the lease too.
                pass_fds=[*held, *held_descriptors()],
            )
        except OSError as error:
            raise _failed(f"vLLM does not start with {python}: {error.strerror}") from None
        try:
            hello: vllm_worker.Loaded = self._ask(given)
        except BaseException:
            self.end()
            raise
        self.version, self.max_length = hello["version"], hello["max_length"]

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        ends: Collection[int] = (),
        stops: Sequence[str] = (),
        plain: bool = False,
    ) -> vllm_worker.Answers:
        """Return `answers` in tokens, and the `logprobs` of those. `plain`: by the base, without its
        adapter.
        """
        asked: vllm_worker.AnswerRequest = {
            "prompts": [list(ids) for ids in prompts],
            "max_tokens": max_tokens,
            "ends": sorted(ends),
            "stops": [*stops],
            "plain": plain,
        }
        answered: vllm_worker.Answers = self._ask(asked)
        return answered

    def _ask(self, asked: vllm_worker.LoadRequest | vllm_worker.AnswerRequest) -> Any:
        """Send one line to the worker and return its answer, see `vllm_worker`."""
        writes, reads = self._process.stdin, self._process.stdout
        assert writes is not None
        assert reads is not None
        try:
            writes.write(json.dumps(asked) + "\n")
            writes.flush()
            line = reads.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise _failed("vLLM ended before it answered; the log says why")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.communicate()


def _environment() -> dict[str, str]:
    """Return the environment for the other package set: no credentials, and nothing of vLLM's own
    settings.
    """
    kept = {name: value for name, value in os.environ.items() if name.startswith(TOLD)}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": ""}


def _failed(problem: str) -> UserError:
    fix = "Set `evaluation.engine: transformers` in ft_dagster.yaml, and judge base and model again"
    return UserError(problem, field="evaluation.engine", value="vllm", fix=fix)


def _free_share() -> float:
    """Return the share of this process's GPU memory that vLLM may take."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return max(0.0, free - OWN_BYTES) / total


def _rank_to_load(adapter: Path) -> int:
    """Raises UserError for an adapter that vLLM does not load, or scales wrongly."""
    config = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    reasons, rank = not_loaded(config), max_lora_rank(rank_of(config))
    if quantization_of(adapter) is not None:
        reasons.append("stands on a quantized base")
    if reasons or rank is None:
        raise _failed(f"vLLM does not answer for this adapter: it {', '.join(reasons)}")
    return rank


class VllmLM(TokenBatchedLM):
    """Asks the same questions in the same tokens; `worker` writes the greedy answers."""

    def __init__(self, model: Any, tokenizer: Any, worker: Worker) -> None:
        super().__init__(model, tokenizer)
        self._worker = worker

    def write(self, rows: Sequence[PromptRow]) -> list[Greedy]:
        """Write the answers that end alike together: vLLM makes batches of its own."""
        longest = max((len(row.prompt) + row.new_tokens for row in rows), default=0)
        if longest > self._worker.max_length:
            room = self._worker.max_length
            raise _failed(f"vLLM has room for {room} tokens, and a question with its answer takes {longest}")
        alike: dict[tuple[Any, ...], list[int]] = {}
        for place, row in enumerate(rows):
            alike.setdefault((row.new_tokens, frozenset(row.ends), row.stops), []).append(place)
        answers: dict[int, Greedy] = {}
        for (new_tokens, ends, stops), places in alike.items():
            prompts = [rows[place].prompt for place in places]
            found = self._worker.answer(prompts, max_tokens=new_tokens, ends=ends, stops=stops)
            answers.update(zip(places, map(Greedy, found["answers"]), strict=True))
            self.on_progress(len(answers) / len(rows))
        return [answers[place] for place in range(len(rows))]


@contextmanager
def answered_by_vllm(
    python: Path,
    model: Any,
    tokenizer: Any,
    *,
    base: Path,
    tuned: Path | None,
    dtype: str,
    scratch: Path,
) -> Iterator[tuple[VllmLM, str]]:
    """Yield the model that asks vLLM for the answers of a loaded model, and vLLM's version. Raises UserError
    where that does not start, or where an adapter does not act.
    """
    device = model.device.type
    cache = None if device == "cuda" else _cache_bytes(model.config, dtype)
    worker = Worker(python, base, tuned, dtype=dtype, device=device, scratch=scratch, cache_bytes=cache)
    try:
        if tuned is not None and kind_of(tuned) == "adapter":
            _check_adapter(worker, model, tokenizer)
        yield VllmLM(model, tokenizer, worker), worker.version
    finally:
        worker.end()


def _cache_bytes(config: Any, dtype: str) -> int:
    """Return the bytes of keys and values of a batch on a CPU, where vLLM would take nearly all of the host's
    memory.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = getattr(torch, dtype).itemsize
    token = 2 * config.num_hidden_layers * heads * size * width
    return max(LEAST_CACHE, int(GENERATION_TOKENS["cpu"] * token))


def _check_adapter(worker: Worker, model: Any, tokenizer: Any) -> None:
    ids = tokenizer(PROBE)["input_ids"]
    after = _likeliest(probe_logits(model, tokenizer))
    with model.disable_adapter():
        before = _likeliest(probe_logits(model, tokenizer))
    texts = [ids[:end] for end in range(1, len(ids) + 1)]
    plain, adapted = (
        [row[0] for row in worker.answer(texts, max_tokens=1, plain=each)["logprobs"]]
        for each in (True, False)
    )
    refuse_idle(before, after, plain, adapted)


def _likeliest(logits: torch.Tensor) -> list[float]:
    """Return the log-probability of the likeliest token at each position."""
    found: list[float] = logits.log_softmax(-1).amax(-1).tolist()
    return found


def refuse_idle(
    base: Sequence[float], tuned: Sequence[float], plain: Sequence[float], adapted: Sequence[float]
) -> None:
    """Raises UserError unless vLLM's adapter changes the log-probability of the likeliest token at each
    place of a text (`plain` to `adapted`) as it does in transformers (`base` to `tuned`): on average to a
    quarter of the change, and to twice of what the two differ by without it.
    """
    expected = [after - before for before, after in zip(base, tuned, strict=True)]
    found = [after - before for before, after in zip(plain, adapted, strict=True)]
    size = fmean(map(abs, expected))
    noise = fmean(abs(one - other) for one, other in zip(base, plain, strict=True))
    apart = fmean(abs(one - other) for one, other in zip(expected, found, strict=True))
    if not any(found) or apart > size / 4 + 2 * noise:
        raise _failed(
            "the adapter does not act in vLLM as in transformers: it changes log-probabilities by "
            f"{fmean(map(abs, found)):.3g} nats, where {size:.3g} are expected, {apart:.3g} apart"
        )
