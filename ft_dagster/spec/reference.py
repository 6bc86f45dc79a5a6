"""Defines what is declared of the reference that a variant's versions are held against, and what a platform
allows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from ft_dagster.spec.model import SpecModel

LEAST = 1e-6  # of a margin, and of a level: nothing that is asked could show less
Margin = Annotated[float, Field(ge=LEAST, le=1.0)]
# Of the reference, with what each is by default so many times of.
REFERENCE = {
    "reference_margin": (2, ("regression_margin", "general_margin")),
    "reference_loss_margin": (2, ("regression_loss_margin", "general_loss_margin")),
    "reference_loss_tail": (3, ("loss_tail",)),
}


class ReferenceSpec(SpecModel):
    """Declares the reference, and how far a model may fall from it: the part of the gates that says so."""

    if TYPE_CHECKING:  # of the gates
        regression_margin: float | None
        loss_tail: float

    reference: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["first"] | None = Field(
        "first",
        description="Version that all later ones are held against, over all generations: the first, or this "
        "number; null: none",
    )
    reference_margin: Margin | None = Field(
        None, description="Largest fall of a score from the reference; null: twice that against production"
    )
    reference_loss_margin: Margin | None = Field(
        None, description="The same of a loss (nats a token); null: twice that against production"
    )
    reference_loss_tail: Margin | None = Field(
        None, description="The same of the texts that rise by more than 2 nats; null: three times loss_tail"
    )

    @property
    def has_reference(self) -> bool:
        """Say whether versions are held against the reference: not where they are not compared at all, unless
        a margin for it is declared.
        """
        compared = (self.regression_margin, self.reference_margin) != (None, None)
        return self.reference is not None and compared

    @property
    def tail_after_reference(self) -> float:
        """Return the share of texts of a loss of which fewer may rise by more than 2 nats since the
        reference.
        """
        return min(1.0, 3 * self.loss_tail) if self.reference_loss_tail is None else self.reference_loss_tail

    def after_reference(self, margin: float | None, *, loss: bool) -> float | None:
        """Return by how much may fall since the reference what may fall by `margin` against production; None:
        it is not judged.
        """
        declared = self.reference_loss_margin if loss else self.reference_margin
        if declared is not None or margin is None:
            return declared
        return min(1.0, 2 * margin)

    @property
    def without_reference(self) -> Self:
        """Return the gates with all of the reference as it is by default: nothing else depends on it."""
        fields = [*ReferenceSpec.model_fields]
        return self.model_copy(update={name: ReferenceSpec.model_fields[name].default for name in fields})


class ReferenceFloors(SpecModel):
    """Sets how late the reference may be, and how far a model may fall from it at most."""

    reference: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["any"] = Field(
        1, description="Latest version that gates.reference may name, 1: the first; any: whichever"
    )
    reference_margin: Margin | None = Field(
        None, description="Largest gates.reference_margin; null: twice the smaller margin against production"
    )
    reference_loss_margin: Margin | None = Field(
        None,
        description="Largest gates.reference_loss_margin; null: twice the smaller one against production",
    )
    reference_loss_tail: Margin | None = Field(
        None, description="Largest gates.reference_loss_tail; null: three times loss_tail"
    )

    def may_name(self, version: int) -> bool:
        """Say whether a declaration may name this version as its reference."""
        return self.reference == "any" or version <= self.reference


def beyond_reference(
    floors: ReferenceFloors, gates: ReferenceSpec, regression: str
) -> Iterator[tuple[str, object, str, str]]:
    """Yield field, value, the policy's field and what is allowed where the reference is later, or a fall from
    it larger, than the floors let be: what is not declared is as many times a margin against production as it
    is by default, and what the policy leaves open so many times its smallest. `regression`: of the policy.
    """
    if gates.reference is None:
        if regression == "required":
            yield ("gates.reference", None, "gates.regression", "a version, or first")
        return
    if gates.reference != "first" and not floors.may_name(gates.reference):
        allowed = "the first" if floors.reference == 1 else f"version {floors.reference} or an earlier one"
        yield ("gates.reference", gates.reference, "gates.reference", allowed)
    for name, (times, others) in REFERENCE.items():
        if getattr(gates, name) is None and getattr(floors, name) is None:
            continue  # as the floors of the others
        value, most = _or_times(gates, name, times, others, max), _or_times(floors, name, times, others, min)
        if value > most:
            yield (f"gates.{name}", value, f"gates.{name}", f"at most {most:g}")


def _or_times(
    side: ReferenceFloors | ReferenceSpec,
    name: str,
    times: int,
    others: Sequence[str],
    choose: Callable[[Sequence[float]], float],
) -> float:
    """Return the value of a field, or so many times that of the others which is chosen."""
    known = [value for other in others if (value := getattr(side, other)) is not None]
    value = getattr(side, name)
    return float(min(1.0, times * (choose(known) if known else 0.0)) if value is None else value)
