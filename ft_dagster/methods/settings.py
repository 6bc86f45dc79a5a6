"""Defines the settings of a training method, as a plan resolves them and the trainer takes them."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.planned import Planned


class MethodSettings(Planned):
    """Is the `method` part of plan.json; each family of methods has a model of its own.

    A setting that may be declared too says so in its annotation: bounds and what it is for.

    `capacity`: the one of them by which it can hold more. `methods`: those that take these; each `Method`
    adds its own name.
    """

    capacity: ClassVar[str | None] = None
    methods: ClassVar[set[str]] = set()

    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.methods = set()

    @model_validator(mode="after")
    def _are_of_that_method(self) -> Self:
        if self.name not in self.methods:
            raise ValueError(f"{type(self).__name__} are no settings of {self.name}")
        return self

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        """Count the weights that the optimizer moves, with the rows of `new_tokens` where they are trained.
        Raises UserError for layers that the base has not.
        """
        raise NotImplementedError
