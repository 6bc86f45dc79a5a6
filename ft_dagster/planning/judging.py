"""Decides on how many GPUs a model is judged: what one does not hold lies on several, each layer whole on
one.

By rule: weights, the keys and values of the largest batch, what one forward pass holds. GB are 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ft_dagster.evaluation.models.arithmetic import BATCH_TOKENS, GENERATION_TOKENS, USABLE_SHARE, Dtype
from ft_dagster.export.request import GREEDY, LONGEST
from ft_dagster.launch.inventory import Device
from ft_dagster.methods import METHODS
from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.method import BF16, FP32
from ft_dagster.planning.memory_formula import CUDA_CONTEXT

What = Literal["evaluation", "export"]
IN_WORDS: dict[What, str] = {"evaluation": "judged", "export": "certified"}
WIDTH: dict[Dtype, int] = {"bfloat16": BF16, "float32": FP32}
BEYOND_EVEN = 1.25  # of the largest part, by which transformers lets one device hold more than the others
PROBES = 8  # of a certificate, read and answered together
HIDDEN, WIDE = 4, 3  # rows of a pass that live at once: as wide as the model, as wide as its largest layer


class Judges(NamedTuple):
    """Names the GPUs that one program of a tenant may be lent: at most `most` of `devices`, of each the
    `shares`-th part of its memory. `dtype`: in which models are asked on them.
    """

    devices: tuple[Device, ...]
    most: int
    shares: int
    dtype: Dtype

    def memory(self, device: Device) -> int:
        return (device.memory_bytes or 0) // self.shares

    @property
    def known(self) -> bool:
        return all(device.memory_bytes is not None for device in self.devices)


class JudgedBytes(NamedTuple):
    """Counts the bytes of a model that is asked. `largest`: of the parts that stay whole; `beside`: on each
    device, of a pass and of CUDA.
    """

    dtype: Dtype
    weights: int
    cache: int
    largest: int
    beside: int

    def on_each_of(self, devices: int) -> int:
        """Return the bytes on each device at most, where parts lie as evenly as whole ones can."""
        uneven = round(BEYOND_EVEN * self.largest) if devices > 1 else 0
        return -(-(self.weights + self.cache) // devices) + uneven + self.beside


@dataclass(frozen=True)
class JudgedOn:
    """Says how many GPUs judge a model, or certify its export, and why. None: not even all that may be lent
    hold it. `each_bytes`: what each needs; 0: all are taken, and it may be too tight.
    """

    what: What
    devices: int | None
    each_bytes: int
    weights_bytes: int
    sentence: str


def asked(base: BaseFacts, dtype: Dtype, method: str = "") -> JudgedBytes:
    """Count the bytes of a model in an evaluation, its base as `method` holds it."""
    cached = GENERATION_TOKENS["cuda"] + BATCH_TOKENS["cuda"]  # of a batch, and of a pass over its prompts
    return _held(base, dtype, method, cached, BATCH_TOKENS["cuda"])


def certified(base: BaseFacts, method: str, *, merged: bool) -> JudgedBytes:
    """Count the bytes of a model in a certificate; a merge is a plain one."""
    tokens = PROBES * (LONGEST + GREEDY)
    return _held(base, "float32", "" if merged else method, tokens, tokens)


def foresee(what: What, held: JudgedBytes, judges: Judges) -> JudgedOn | None:
    """Return on how many GPUs a model is judged; None where the memory of the GPUs is not known."""
    if not judges.known:
        return None
    whole = [device for device in judges.devices if not device.is_mig]
    for count in range(1, judges.most + 1):
        each, among = held.on_each_of(count), whole if count > 1 else judges.devices
        if sum(each <= USABLE_SHARE * judges.memory(device) for device in among) >= count:
            return JudgedOn(what, count, each, held.weights, _sentence(what, held, judges, count))
    largest = _largest(whole, judges) or _largest(judges.devices, judges)[:1]
    if held.weights > sum(largest):
        return JudgedOn(what, None, 0, held.weights, _refusal(what, held, largest))
    said = f"{_sentence(what, held, judges, len(largest))}; it may be too tight"
    return JudgedOn(what, len(largest), 0, held.weights, said)


def foresee_all(base: BaseFacts, method: str, judges: Judges, *, merged: bool) -> tuple[JudgedOn, ...]:
    """Return on how many GPUs a variant's evaluation runs, by that of its base, and its export."""
    both: dict[What, JudgedBytes] = {
        "evaluation": asked(base, judges.dtype),
        "export": certified(base, method, merged=merged),
    }
    found = (foresee(what, held, judges) for what, held in both.items())
    return tuple(each for each in found if each is not None)


def _held(base: BaseFacts, dtype: Dtype, method: str, cached: int, passed: int) -> JudgedBytes:
    width = WIDTH[dtype]
    quantized = METHODS[method].quantized if method else None
    linear = base.linear_parameters * (quantized.bytes_a_weight if quantized else width)
    rest = (base.parameters - base.linear_parameters) * width
    experts = base.expert_parameters * width  # each of a layer
    token = 2 * base.key_value_size * base.layers * width
    rows = HIDDEN * base.hidden_size + WIDE * (base.largest_layer // base.hidden_size)
    return JudgedBytes(
        dtype,
        round(linear + rest),
        cached * token,
        round(max((linear + experts) / base.layers, (rest - experts) / (1 if base.tied_embeddings else 2))),
        passed * rows * width + CUDA_CONTEXT,
    )


def _largest(devices: Sequence[Device], judges: Judges) -> list[int]:
    """Return the memory of those that are lent at most, the largest first."""
    return sorted((judges.memory(device) for device in devices), reverse=True)[: judges.most]


def _sentence(what: What, held: JudgedBytes, judges: Judges, count: int) -> str:
    said = f"{IN_WORDS[what]} on {count} {'GPUs' if count > 1 else 'GPU'}"
    bytes_ = f"{_gb(held.weights)} of weights in {held.dtype} and {_gb(held.cache)} of keys and values"
    if count == 1:
        return f"{said}: {bytes_}"
    largest = max(map(judges.memory, judges.devices))
    return f"{said}, whole layers on each: {bytes_}, where one has {_gb(largest)}"


def _refusal(what: What, held: JudgedBytes, memory: list[int]) -> str:
    these = f"{len(memory)} GPUs" if len(memory) > 1 else "GPU"
    return (
        f"it cannot be {IN_WORDS[what]}: {_gb(held.weights)} of weights in {held.dtype} are more than the "
        f"{_gb(sum(memory))} of the {these} that one program may have here"
    )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB"
