"""Declares how a variant is taught: a method by its name, and those of its settings that may be declared.

The settings are defined by the methods themselves (`ft_dagster/methods`): bounds, and what each is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from ft_dagster.methods import METHODS, usual_method
from ft_dagster.methods.lora import start_problem
from ft_dagster.spec.model import SpecModel, former_auto

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
METHOD_SETTINGS = {  # fields of `method` that act, by its name; `auto` with some of them is the usual one
    "auto": usual_method().declared,
    **{name: known.declared for name, known in METHODS.items()},
}
# Settings that keys have had from the first, declared or not. Any other is in a key where it is declared.
FIRST = ("rank", "alpha", "dropout", "target_modules", "use_rslora", "use_dora", "num_virtual_tokens")
Setting: TypeAlias = int | float | str | tuple[str, ...]


def _settings() -> dict[str, Any]:
    """Return the settings of all methods as they may be declared, for `create_model`."""
    found = dict[str, Any]()
    for known in METHODS.values():
        hints = get_type_hints(known.settings, include_extras=True)
        found |= {name: _setting(hints[name]) for name in known.declared}
    return found


def _setting(hint: Any) -> tuple[Any, Literal[False] | None]:
    """Return the type of one, and its value unless it is declared: off for a switch, else null."""
    kind, about = hint.__origin__, hint.__metadata__
    return (hint, False) if kind is bool else (Annotated[(kind | None, *about)], None)


SETTINGS = _settings()


class MethodSpec(SpecModel):
    """Declares how the model is taught. A plain string stands for `name`; unset values are the plan's."""

    added = tuple(name for name in SETTINGS if name not in FIRST)

    name: Literal["auto"] | MethodName = "auto"

    @property
    def given(self) -> Mapping[str, Setting]:
        """Return the declared settings by name; null, and a switch that is off, leave one to the plan."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "name"}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    @field_validator("name", mode="before")
    @classmethod
    def _is_no_switch(cls, name: Any) -> Any:
        """Say how a variant of LoRA that is a setting here (`dora`) is declared."""
        switch = f"use_{name}".lower() if isinstance(name, str) else ""
        having = [method for method in METHODS if switch in METHOD_SETTINGS[method]]
        if not having:
            return name
        fix = f"Write {{name: {having[0]}, {switch}: true}}"
        raise PydanticCustomError("switch", f"{name} is a setting of a method", {"fix": fix})

    @field_validator("rank", mode="before", check_fields=False)
    @classmethod
    def _is_no_former_word(cls, value: Any, info: ValidationInfo) -> Any:
        return former_auto(value, info, None, "leave it out: it goes by objective and examples then")

    @field_validator("init_lora_weights", check_fields=False)
    @classmethod
    def _start_is_exact(cls, start: str | None, info: ValidationInfo) -> str | None:
        name, use_dora = info.data.get("name"), info.data.get("use_dora") is True
        if start is None or name is None:
            return start
        problem = start_problem(start, name, info.data.get("rank"), use_dora=use_dora)
        if problem:
            raise ValueError(problem)
        return start

    @field_validator("*")
    @classmethod
    def _is_a_setting_of_the_method(cls, value: Any, info: ValidationInfo) -> Any:
        field, name = info.field_name, info.data.get("name")  # None: already refused, or it is the name
        if value is None or value is False or name is None or field in METHOD_SETTINGS[name]:
            return value
        own = " and ".join(METHOD_SETTINGS[name]) if len(METHOD_SETTINGS[name]) < 3 else "those of LoRA"
        others = [other for other, settings in METHOD_SETTINGS.items() if field in settings]
        raise ValueError(
            f"not a setting of {name}, whose settings are {own or 'none'}: "
            f"leave it out, or name {' or '.join(o for o in others if o != 'auto')}"
        )


if not TYPE_CHECKING:
    MethodSpec = create_model(
        "MethodSpec", __base__=MethodSpec, __doc__=MethodSpec.__doc__, __module__=__name__, **SETTINGS
    )
