"""Says where a beginning in common cannot be computed once: what would make it another training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.models.attention import attention_of
from ft_dagster.spec.training import TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

DROPS = ("dropout", "drop", "pdrop")  # the last part of such a field's name


def refuse_sharing(
    training: TrainingSettings, method: MethodSettings, config: PreTrainedConfig, device: str, longest: int
) -> None:
    """Raises UserError where beginnings are to be shared and cannot be. `config`: of the base; `device`: the
    kind that trains; `longest`: example, in tokens.
    """
    if training.share_beginnings == "off":
        return
    why = _of_the_plan(training, method, device) or _of_the_base(config, longest)
    if why is not None:
        raise UserError(
            f"cannot hold here: {why}",
            field="training.share_beginnings",
            value=training.share_beginnings,
            fix="Leave it out, or say off",
        )


def _of_the_plan(training: TrainingSettings, method: MethodSettings, device: str) -> str | None:
    known = method_of(method.name)
    if not training.packing or not known.packs:
        return "examples are not packed into rows"
    if device != "cpu":
        return "it has run on CPUs alone, and the training is on a GPU"
    if getattr(method, "dropout", 0.0):
        return "each example would draw a dropout of its own (method.dropout)"
    if known.quantization == "int8":
        return f"{method.name} rounds a token by what else is in its batch"
    return None


def _of_the_base(config: PreTrainedConfig, longest: int) -> str | None:
    from ft_dagster.training.batches.attention import applies

    text = config.get_text_config()
    if attention_of(config) != "sdpa" or not applies(config, longest):
        return (
            f"a layer of {text.model_type} does more than attend to all before (a window, a state, a cap on "
            "scores), or its class is not among those that are tested"
        )
    if getattr(text, "router_aux_loss_coef", None) is not None:
        return f"{text.model_type} has a loss of its router beside that of the tokens"
    for name, value in text.to_dict().items():
        if name.rpartition("_")[2] in DROPS and isinstance(value, float) and value > 0:
            return f"the base drops out at random ({name}: {value:g})"
    return None
