"""Makes tensors that hold nothing and say that they lie on the CPU, so that autocast and kernels are chosen
so.

What torch's FakeTensorMode is for, with no more than a training step on known shapes needs, several times as
fast: shapes are asked of the meta device once for each operation and sizes. Other than there: LayerNorm's
statistics are fp32 whatever its input, as on a GPU. Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

CPU, META = torch.device("cpu"), torch.device("meta")

_known: dict[Hashable, Any] = {}  # operation and sizes of what goes in -> of what comes out


class FakeTensor(torch.Tensor):
    """Is a tensor on the CPU whose storage is that of `meta`, on the meta device."""

    meta: torch.Tensor

    @staticmethod
    def __new__(cls, meta: torch.Tensor) -> FakeTensor:
        made: FakeTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.size(),
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=CPU,
        )
        made.meta = meta
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({list(self.shape)}, {self.dtype})"


class EagerMode(TorchDispatchMode):
    """Dispatches without torch's guard against its compiler, which takes as long as all the rest."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class FakeMode(EagerMode):
    """Makes every tensor under it a fake one."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def make_fake(model: nn.Module) -> None:
    """Put a fake tensor in the place of every meta one, before FakeMode; what is shared stays shared."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the meta one keeps its id
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty, _ = made.setdefault(id(tensor), (_fake(tensor), tensor))
                    tensors[name] = empty


@contextmanager
def fake_experts() -> Iterator[None]:
    """Make the experts' products of fake tensors in fp32 take transformers' own fallback, which allocates the
    same: torch knows the shapes of its product in bf16 alone.
    """
    try:
        from transformers.integrations import moe
    except ImportError:  # a version in which experts are modules of their own
        yield
        return
    real = moe._can_use_grouped_mm

    def known(given: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> bool:
        fake = isinstance(given, FakeTensor) and weight.dtype != torch.bfloat16
        return not fake and bool(real(given, weight, offs))

    moe._can_use_grouped_mm = known
    try:
        yield
    finally:
        moe._can_use_grouped_mm = real


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage:
    """Return where a tensor lies, or would."""
    return (tensor.meta if isinstance(tensor, FakeTensor) else tensor).untyped_storage()


def tensors_of(out: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operation returned."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, tuple | list):
        for part in out:
            yield from tensors_of(part)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = FakeTensor(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run `func` on shapes alone; on real tensors where no argument is fake and no tensor is created."""
    given: dict[int, torch.Tensor] = {}
    inner = [_emptied(value, given) for value in args]
    named = {name: _emptied(value, given) for name, value in kwargs.items()}
    if not given:
        if not _makes(func):
            return func(*args, **kwargs)
        named["device"] = META
    if not _pure(func):
        return _filled(func(*inner, **named), given)
    key = func, _key(inner), _key(list(named.items()))
    if key in _known:
        return _anew(_known[key])
    out = func(*inner, **named)
    if not _shares(out, given.values()):
        _known[key] = _sizes(out)
    return _filled(out, given)


def _emptied(value: Any, given: dict[int, torch.Tensor]) -> Any:
    """Return a value on the meta device; `given` takes those that hold nothing, by the id of their meta
    tensor.
    """
    if isinstance(value, FakeTensor):
        given[id(value.meta)] = value
        return value.meta
    if isinstance(value, torch.Tensor):
        if value.device != META:
            return torch.empty_like(value, device=META)
        given[id(value)] = value
        return value
    if isinstance(value, list | tuple):
        return [_emptied(each, given) for each in value]
    return META if isinstance(value, torch.device) else value


def _filled(value: Any, given: dict[int, torch.Tensor]) -> Any:
    """Return what came out, as fake tensors: the very tensor that went in where it was changed in place."""
    if isinstance(value, torch.Tensor):
        known = given.get(id(value))
        return FakeTensor(value) if known is None else known
    if isinstance(value, list | tuple):
        return type(value)([_filled(each, given) for each in value])
    return value


@cache
def _makes(func: Any) -> bool:
    """Say whether it makes a tensor of nothing but a size."""
    arguments = func._schema.arguments
    takes_none = not any("Tensor" in str(argument.type) for argument in arguments)
    return takes_none and any(argument.name == "device" for argument in arguments)


@cache
def _pure(func: Any) -> bool:
    """Say whether all that comes out is new, as far as its schema says."""
    schema = func._schema
    tensors = bool(schema.returns) and all("Tensor" in str(each.type) for each in schema.returns)
    return tensors and all(each.alias_info is None for each in (*schema.returns, *schema.arguments))


def _shares(out: Any, given: Iterable[torch.Tensor]) -> bool:
    """Say whether it lies in memory that was there before, though its schema says otherwise."""
    before = {id(storage_of(tensor)) for tensor in given}
    return any(id(storage_of(tensor)) in before for tensor in tensors_of(out))


def _key(value: Any) -> Hashable:
    """Return all that the output depends on."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return type(value), value


def _sizes(out: Any) -> Any:
    if isinstance(out, torch.Tensor):
        return out.shape, out.stride(), out.dtype
    return [_sizes(each) for each in out] if isinstance(out, list | tuple) else None


def _anew(sizes: Any) -> Any:
    if isinstance(sizes, list):
        return [_anew(each) for each in sizes]
    if sizes is None:
        return None
    shape, stride, dtype = sizes
    return FakeTensor(torch.empty_strided(shape, stride, dtype=dtype, device=META))
