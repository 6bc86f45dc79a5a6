"""Reads and writes safetensors files a few rows at a time, so that a file of any size takes little memory.

The library's own reader maps the file, which counts as memory of the process once it is read, and its writer
takes all tensors of a file at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import DTYPES, read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CODES = {name: code for code, name in DTYPES.items()}


class Stored(NamedTuple):
    """Describes a tensor in a file: `dtype` by its safetensors code (BF16), `start` and `end` in bytes of the
    file.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def rows(self) -> int:
        """Return the tensor's length along the first dimension; a scalar is one row."""
        return self.shape[0] if self.shape else 1


def stored_tensors(file: Path) -> list[Stored]:
    """Return the tensors of a safetensors file, in their order there. Raises UserError for a damaged file."""
    header = read_header(file)
    ends = max(tensor["data_offsets"][1] for tensor in header.values())
    data = file.stat().st_size - ends
    found = [
        Stored(file, name, tensor["dtype"], tuple(tensor["shape"]), data + start, data + end)
        for name, tensor in header.items()
        for start, end in [tensor["data_offsets"]]
    ]
    return sorted(found, key=lambda tensor: (tensor.start, tensor.end))


def dtype_of(tensor: Stored) -> torch.dtype | None:
    """Return torch's dtype of a stored tensor; None for one that this package does not compute with
    (float8).
    """
    import torch

    return getattr(torch, DTYPES.get(tensor.dtype, ""), None)


def code_of(dtype: torch.dtype) -> str:
    """Return safetensors' code of a dtype."""
    return _CODES[str(dtype).removeprefix("torch.")]


def read_rows(tensor: Stored, elements: int) -> Iterator[Tensor]:
    """Yield the tensor in parts of whole rows, in order, each of at most `elements` elements or of one row.

    Raises UserError for a dtype without a torch.dtype here.
    """
    import torch

    dtype = dtype_of(tensor)
    if dtype is None:
        raise UserError(
            f"{tensor.name} holds no numbers that this package computes with",
            file=tensor.file,
            value=tensor.dtype,
            fix="Save the model once in bfloat16 or float32",
        )
    per_row = (tensor.end - tensor.start) // max(tensor.rows, 1)
    step = max(1, elements * dtype.itemsize // max(per_row, 1))
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.start)
        for first in range(0, tensor.rows, step):
            count = min(step, tensor.rows - first)
            shape = (count, *tensor.shape[1:]) if tensor.shape else ()
            data = bytearray(opened.read(count * per_row))
            yield (
                torch.frombuffer(data, dtype=dtype).reshape(shape)
                if data
                else torch.empty(shape, dtype=dtype)
            )


def read_tensor(tensor: Stored) -> Tensor:
    """Return the whole tensor."""
    import torch

    found = list(read_rows(tensor, 1 << 62))
    return found[0] if found else torch.empty(tensor.shape, dtype=dtype_of(tensor))


def read_bytes(tensor: Stored, size: int) -> Iterator[bytes]:
    """Yield the tensor as it is stored, in pieces of at most `size` bytes."""
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.start)
        for at in range(tensor.start, tensor.end, size):
            yield opened.read(min(size, tensor.end - at))


class PlannedTensor(NamedTuple):
    """Describes a tensor to write: `dtype` by its code, and its bytes in pieces, made when they are due."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: Iterable[bytes | memoryview]


def write_tensors(file: Path, tensors: Sequence[PlannedTensor]) -> None:
    """Write a safetensors file, one tensor after another, as their pieces come."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            written = sum(out.write(piece) for piece in tensor.pieces)
            if written != tensor.nbytes:
                raise AssertionError(f"{tensor.name}: {written} bytes written, {tensor.nbytes} announced")


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the numbers of a tensor on the CPU, as safetensors stores them."""
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
