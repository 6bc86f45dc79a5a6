"""The settings of a training method, as a plan resolves them and the trainer takes them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from ft_dagster.methods.base_facts import BaseFacts


class MethodSettings(BaseModel):
    """The `method` part of plan.json; each family of methods has a model of its own. Unknown fields are
    refused.

    `capacity`: the one of them by which it can hold more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    capacity: ClassVar[str | None] = None

    name: str

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        """What the optimizer moves, with the rows of `new_tokens` where they are trained. Raises UserError
        for layers that the base has not.
        """
        raise NotImplementedError
