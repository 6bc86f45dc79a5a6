"""What the version before showed of the values that the declaration leaves to the plan (`auto`).

Taken once for a data set: its key has the data set and no evidence, and what stands under it is kept. So the
same data are mixed and planned alike, however often they are trained on and judged; other data look anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.data.mixture_figures import GeneralShare, MixtureFigures
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.before import Spectrum, VersionBefore
from ft_dagster.planning.load import LORA_LIKE
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed, shown
from ft_dagster.spec.variant import ShareOf
from ft_dagster.stages.hands import Hands
from ft_dagster.stages.inputs import recorded
from ft_dagster.stages.stage import Stage
from ft_dagster.stages.versions import usual_share_of
from ft_dagster.stages.view import View
from ft_dagster.stages.workspace import Desk, Workspace
from ft_dagster.store import Artifact, Attempt, read_head
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.spectrum import COLLAPSE, FLAT

FILE = "version_before.json"
ROUNDING = 0.01  # a share comes out in whole examples
LEFT_OPEN = ("objective", "data.general")  # which the key of every mixture has too


@dataclass(frozen=True)
class BeforeInputs:
    """`share_of`: of which tokens a share is that is left open."""

    spec: VariantSpec
    task_dataset: Artifact
    base_model: Artifact
    share_of: ShareOf | None
    before: VersionBefore = recorded()


def inputs(view: View) -> BeforeInputs:
    spec, base, general = view.spec, view.upstream("base_model"), view.spec.data.general
    before = version_before(view, spec, base)
    share_of = general.share_of if general is not None and general.share == "auto" else None
    return BeforeInputs(narrowed(spec, LEFT_OPEN), view.upstream("task_dataset"), base, share_of, before)


def build(inputs: BeforeInputs, hands: Hands, attempt: Attempt) -> dict[str, Any]:
    text = json.dumps(inputs.before.to_json(), indent=1, sort_keys=True)
    (attempt.payload / FILE).write_text(text + "\n", "utf-8")
    return asdict(inputs.before)


def leaves_open(spec: VariantSpec) -> bool:
    """Whether anything goes by the version before."""
    general = spec.data.general
    return spec.method.rank == "auto" or (general is not None and general.share == "auto")


def read_before(hands: Hands | Workspace, artifact: Artifact | None) -> VersionBefore | None:
    """What was taken; None where nothing is left open."""
    if artifact is None:
        return None
    file = hands.payload(artifact) / FILE
    return VersionBefore.from_json(json.loads(file.read_text("utf-8")), file=file)


def version_before(desk: Desk, spec: VariantSpec, base: Artifact) -> VersionBefore:
    """By the variant's own newest model and evaluation, an experiment's too. Raises UserError for a head that
    cannot be read.
    """
    return VersionBefore(**_of_rank(desk, spec, base), **_of_share(desk, spec))


def _of_rank(desk: Desk, spec: VariantSpec, base: Artifact) -> dict[str, Any]:
    """Of a LoRA on the same base for the same objective, where it is known how it used its rank."""
    model = read_head(desk.store, desk.key.prefix, "fine_tuned_model")
    if model is None or model.inputs.get("base_model") != base.digest:
        return {}
    plan = _above(desk, "training_plan", model)
    method = {} if plan is None else plan.figures["method"]
    if plan is None or method["name"] not in LORA_LIKE or _then(plan, "objective") != spec.objective:
        return {}
    spectrum = spectrum_of(TrainingFigures.of(model), method["rank"])
    return {"rank": method["rank"], "target_modules": method["target_modules"], "spectrum": spectrum}


def spectrum_of(trained: TrainingFigures, rank: int) -> Spectrum | None:
    """What the singular values say; None where no update was measured, or a rank of 1 has but one."""
    if trained.effective_rank is None or rank < 2:
        return None
    said: Mapping[str, Spectrum] = {COLLAPSE: "collapsed", FLAT: "flat"}
    lines = trained.advice
    return next((said[begin] for begin in said for line in lines if line.startswith(begin)), "fits")


def _of_share(desk: Desk, spec: VariantSpec) -> dict[str, Any]:
    """Of the version that was judged last, where its general text is the same but for the share."""
    judged = read_head(desk.store, desk.key.prefix, "evaluation")
    if judged is None or spec.data.general is None or "verdict" not in judged.figures:
        return {}
    mixture = _above(desk, "training_mixture", _above(desk, "fine_tuned_model", judged))
    now = {"share_of": spec.data.general.share_of, **shown(spec.data.general)}
    if mixture is None or _but_share(_general_of(mixture)) != _but_share(now):
        return {}
    share = _learned_with(MixtureFigures.of(mixture).general_share)
    for rule in Verdict.from_json(judged.figures["verdict"]).rules:
        if rule.rule == "general_loss" and math.isfinite(rule.difference):
            return {"share": share, "general_rise": rule.difference, "general_margin": rule.margin}
    return {}


def _learned_with(share: GeneralShare) -> float:
    """What was asked; what came out where the text ran out."""
    return share.asked if share.realized >= share.asked - ROUNDING else share.realized


def _above(desk: Desk, stage: str, child: Artifact | None) -> Artifact | None:
    """What an artifact was made of, of the variant's own; None where retention removed it."""
    if child is None:
        return None
    return find_digest(desk.store, (desk.key.prefix,), stage, child.inputs[stage])


def _then(artifact: Artifact, field: str) -> Any:
    """A field of the declaration as the key of an artifact has it; None where it has not."""
    value: Any = artifact.spec.get("spec")
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _general_of(mixture: Artifact) -> dict[str, Any]:
    """General text as the key of a mixture has it, `share_of` as it was meant."""
    return {"share_of": usual_share_of(mixture), **(_then(mixture, "data.general") or {})}


def _but_share(general: Any) -> Any:
    return {name: value for name, value in (general or {}).items() if name not in ("share", "texts")}


STAGE = Stage(
    "version_before",
    reads=("declaration", "base_model", "task_dataset"),
    fields=LEFT_OPEN,
    inputs=inputs,
    build=build,
    on_demand=True,
)
