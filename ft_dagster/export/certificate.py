"""Certifies an export, reloaded from disk as a user would, against the weights that were judged.

Both sides compute in float32 from the bytes as stored, so that what differs is the export and not the
rounding of the arithmetic. They are compared on the last positions of each probe prompt, on what they write
after it, and on how their tokenizers render and read a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rendering.time_limit import in_time
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import (
    kind_of,
    let_go,
    load_base,
    load_dequantized,
    load_tuned,
    put_adapter,
    trained_tokenizer,
)
from ft_dagster.export.request import GREEDY, LONGEST
from ft_dagster.lineage.certificate import Certificate, Tolerance, failures_of
from ft_dagster.models.quantize import quantization_of
from ft_dagster.provenance.held import held_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ft_dagster.export.request import ExportRequest

CERTIFIED = "certified"  # below the output: the export's files, held
POSITIONS = 64  # compared per probe, counted from its end
CHAT = (
    {"role": "user", "content": "Where is the town hall?"},
    {"role": "assistant", "content": "On the main square, beside the library."},
    {"role": "user", "content": "When is it open — on Mondays, too?"},
)


# The same numbers in the same order (or a merge kept in float32): only what the order of a sum leaves open.
EXACT = Tolerance(mean_kl=1e-6, share_kl=0.1, noise_kl=1e-6, top1_lost=0.0, tie=1e-3, logit=1e-2)
# A merge rounded to bfloat16 or float16. Measured on SmolLM2-135M with a LoRA of rank 16 at 1, 0.3, 0.1, 0.03
# and 0.01 of its strength: mean KL 3e-5 to 1e-4, the same likeliest token at 98.9% or more, another only
# where the judged lead was below 0.1 logits. Rounding to the nearest instead gave up to 8e-2 and 74%.
ROUNDED = Tolerance(mean_kl=1e-3, share_kl=0.1, noise_kl=3e-4, top1_lost=0.005, tie=0.25, logit=3.0)
# A merge out of a base that was quantized to nf4 or int8: none of its weights is a bfloat16 number, so all
# are rounded and not the updates alone. Measured on SmolLM2-135M, which nf4 itself changes by 1.4 nats a
# token, with a trained LoRA of rank 16 at 1, 0.3, 0.1, 0.03 and 0.01 of its strength: mean KL 3e-5 to 1e-3,
# the same likeliest token at 94% or more, another only where the judged lead was below 0.25 logits.
DEQUANTIZED = Tolerance(mean_kl=3e-3, share_kl=0.1, noise_kl=2e-3, top1_lost=0.005, tie=0.25, logit=3.0)


@dataclass(frozen=True)
class Seen:
    """Holds what a model did with one probe: logits of its last positions [positions, vocabulary], the token
    ids it wrote greedily, and the logits it chose each of them from [written, vocabulary].
    """

    logits: Tensor
    written: list[int]
    steps: Tensor


@dataclass(frozen=True)
class Judged:
    """Holds what the judged weights did with the probes (token ids), stopping at the ids `stop`. `figures`:
    `base_kl`, how far the base alone is from them, and behind a merge out of int8 `arithmetic_kl`.
    """

    tokenizer: Any
    probes: list[list[int]]
    stop: list[int]
    seen: list[Seen]
    figures: dict[str, float]


def judge_export(request: ExportRequest) -> Judged:
    """Load the judged weights, see what they do with the request's probes, and let them go."""
    tokenizer = trained_tokenizer(request.base.folder, request.weights)
    probes = [_token_ids(tokenizer, text) for text in request.probes]
    stop = stop_token_ids(tokenizer)
    return Judged(tokenizer, probes, stop, *_see_judged(request, probes, stop))


def certify(request: ExportRequest, judged: Judged | None = None, **also: float) -> Certificate:
    """Compare the payload, held (see `HeldFiles`), with what was judged, on the request's probes.

    `also`: more figures to record. Raises UserError for a payload that changes meanwhile.
    """
    judged = judged or judge_export(request)
    with held_files(request.output / CERTIFIED) as held:
        payload = held.tree("payload", request.payload)
        tolerance, export = _see_export(request, payload.folder, judged.probes, judged.stop)
        figures = {
            "probes": len(judged.probes),
            "positions": sum(len(seen.logits) for seen in judged.seen),
            **compare(judged.seen, export, tolerance.tie),
            **judged.figures,
            **also,
            **_read_alike(request, payload.folder, judged),
        }
    return Certificate(
        payload=payload.digest,
        judged=request.weights_digest,
        format=request.format,
        figures=figures,
        tolerance=tolerance,
        failures=tuple(failures_of(figures, tolerance)),
    )


def mean_kl(request: ExportRequest, judged: Judged, merged: Path) -> float:
    """Return the mean KL(judged || the merged model in this folder) in nats a token, on the probes."""
    model = load_base(merged, device=request.device).float()
    found = _mean_kl(judged.seen, model, judged.probes)
    let_go(model)
    return found


def _read_alike(request: ExportRequest, payload: Path, judged: Judged) -> dict[str, float]:
    """Return the share of probes that both tokenizers read alike, and whether they render and read a chat
    alike.
    """
    served = load_tokenizer(payload)
    same = [_token_ids(served, t) == ids for t, ids in zip(request.probes, judged.probes, strict=True)]
    return {
        "token_ids_equal": sum(same) / len(same),
        "chat_ids_equal": float(_chat_ids(served) == _chat_ids(judged.tokenizer)),
        "template_equal": float(judged.tokenizer.chat_template == served.chat_template),
    }


def compare(judged: list[Seen], export: list[Seen], tie: float) -> dict[str, float]:
    """Return the largest logit difference; mean KL(judged || export) in nats a token; the shares of positions
    with the same likeliest token and with another beyond a tie; of probes with equal text, and parting beyond
    a tie.
    """
    import torch

    pairs = list(zip(judged, export, strict=True))
    differences = torch.stack([(a.logits - b.logits).abs().max() for a, b in pairs])
    leads = torch.cat([_lead(a.logits, b.logits) for a, b in pairs])
    divergence = torch.cat([kl(a.logits, b.logits) for a, b in pairs])
    return {
        "max_logit_difference": float(differences.max()),
        "mean_kl": float(divergence.mean()),
        "top1_agreement": float((leads == 0).float().mean()),
        "top1_lost": float((~(leads <= tie)).float().mean()),
        "greedy_equal": sum(a.written == b.written for a, b in pairs) / len(pairs),
        "greedy_parted": sum(_parts(a, b, tie) for a, b in pairs) / len(pairs),
    }


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) in nats for each row of logits [positions, vocabulary]."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _lead(judged: Tensor, export: Tensor) -> Tensor:
    """Return by how many logits the judged model prefers its likeliest token to the export's, at each
    position.
    """
    theirs = judged.gather(-1, export.argmax(-1, keepdim=True)).squeeze(-1)
    return judged.max(-1).values - theirs


def _parts(judged: Seen, export: Seen, tie: float) -> bool:
    """Say whether the texts part where the judged model preferred its own token by more than `tie` logits."""
    if judged.written == export.written:
        return False
    both = zip(judged.written, export.written, strict=False)
    at = next((i for i, (a, b) in enumerate(both) if a != b), None)
    if at is None:  # one is the beginning of the other
        return True
    lead = judged.steps[at, judged.written[at]] - judged.steps[at, export.written[at]]
    return not float(lead) <= tie


def _see_judged(
    request: ExportRequest, probes: list[list[int]], stop: list[int]
) -> tuple[list[Seen], dict[str, float]]:
    """Return what the judged weights do, and the mean KL of the base alone from them (`base_kl`).

    Behind a merge out of int8 they compute as plain float32: LLM.int8 quantizes what flows through the layers
    too, which is arithmetic and not weights. `arithmetic_kl` is how far that is from them (on SmolLM2-135M
    0.005 to 0.06 nats a token, eight times what int8 does to the weights).
    """
    base, weights, device = request.base.folder, request.weights, request.device
    plain = request.format == "merged" and quantization_of(weights) == "int8"
    if plain:
        model = put_adapter(load_dequantized(base, "int8", device=device), weights, widen=True)
    else:
        model = load_tuned(base, weights, dtype="float32", device=device, widen=True)
    seen = _see(model, probes, stop)
    if kind_of(weights) == "adapter":
        with model.disable_adapter():
            figures = {"base_kl": _mean_kl(seen, model, probes)}
    else:
        let_go(model)
        model = load_base(base, dtype="float32", device=device)
        figures = {"base_kl": _mean_kl(seen, model, probes)}
    let_go(model)
    if plain:
        model = load_tuned(base, weights, dtype="float32", device=device, widen=True)
        figures["arithmetic_kl"] = _mean_kl(seen, model, probes)
        let_go(model)
    return seen, figures


def _mean_kl(seen: list[Seen], model: Any, probes: list[list[int]]) -> float:
    """Return the mean KL(seen || model) in nats a token."""
    import torch

    from ft_dagster.evaluation.models.greedy import last_logits

    _quicken(model)
    pairs = zip(seen, probes, strict=True)
    each = [kl(a.logits, last_logits(model, ids, POSITIONS)) for a, ids in pairs]
    return float(torch.cat(each).mean())


def _see_export(
    request: ExportRequest, payload: Path, probes: list[list[int]], stop: list[int]
) -> tuple[Tolerance, list[Seen]]:
    """Return what the export does, and how closely its format and dtype can follow."""
    import torch

    base, device = request.base.folder, request.device
    same_bytes = request.format == "adapter" or kind_of(request.weights) == "model"
    if request.format == "adapter":
        model = load_tuned(base, payload, dtype="float32", device=device, widen=True)
    else:
        model = load_base(payload, device=device)
        same_bytes = same_bytes or model.dtype == torch.float32
        model = model.float()
    seen = _see(model, probes, stop)
    let_go(model)
    if same_bytes:
        return EXACT, seen
    return DEQUANTIZED if quantization_of(request.weights) else ROUNDED, seen


def _see(model: Any, probes: list[list[int]], stop: list[int]) -> list[Seen]:
    """Return what a model reads and writes, all probes at once."""
    import torch

    from ft_dagster.evaluation.models.greedy import rows_of, write

    _quicken(model)
    answers = write(model, rows_of(probes, new_tokens=GREEDY, ends=stop), logits=POSITIONS)
    return [
        Seen(each.read[-len(ids) :], each.tokens, torch.stack(each.chosen_from))
        for each, ids in zip(answers, probes, strict=True)
    ]


def _quicken(model: Any) -> None:
    from ft_dagster.evaluation.models.memory_budget import spare_memory
    from ft_dagster.evaluation.models.packed import pack

    pack(model, spare_memory())


def _chat_ids(tokenizer: Any) -> list[int] | None:
    """Return the ids of a conversation, rendered as a server does; None without a chat template that takes
    it.
    """
    if not tokenizer.chat_template:
        return None

    def rendered() -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(list(CHAT), add_generation_prompt=True)["input_ids"]
        return ids

    try:
        return in_time(tokenizer, rendered)
    except (UserError, ImportError):
        raise
    except Exception:  # whatever a template can cause
        return None


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[-LONGEST:]
