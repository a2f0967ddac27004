"""Safetensors files of our models: header against what is expected, then the numbers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dalle.errors import CheckpointError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Header = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each tensor."""


def load_weights(module: nn.Module, path: Path, *, device: str | torch.device = "cpu") -> None:
    """Put the tensors of a safetensors file into `module`, strictly.

    Raises:
        CheckpointError: a tensor is missing, superfluous, of another shape or not finite.
    """
    check_shapes(module.state_dict(), path)
    module.load_state_dict(read_tensors(path, device), strict=True, assign=True)


def check_shapes(expected: Mapping[str, Tensor], path: Path) -> None:
    """Compare the names, shapes and dtypes in a file's header with what a model expects."""
    header = read_header(path)
    missing, surplus = sorted(set(expected) - set(header)), sorted(set(header) - set(expected))
    if missing:
        raise CheckpointError(f"{path} lacks {_some(missing)}, which its config asks for")
    if surplus:
        raise CheckpointError(f"{path} holds {_some(surplus)}, which its config does not know")
    for name, (shape, dtype) in header.items():
        # A number without axes may become one with an axis: see models/clip.py.
        if tuple(expected[name].shape) not in (shape, shape or (1,)):
            raise CheckpointError(
                f"{path}: {name} has shape {shape}; the config asks for "
                f"{tuple(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and dtype not in DTYPES:
            raise CheckpointError(f"{path}: {name} is {dtype}; expected one of {', '.join(DTYPES)}")


def read_header(path: Path) -> Header:
    """What a file says it holds; only its header is read."""
    with open_tensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}


@contextmanager
def open_tensors(path: Path, device: str | torch.device = "cpu") -> Iterator[Any]:
    """A safetensors file, as `safe_open` gives it.

    Raises:
        CheckpointError: it is none, or holds less than its header says.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({error}); copy it again"
        ) from None


def read_tensors(path: Path, device: str | torch.device) -> dict[str, Tensor]:
    """All tensors of a file; every number in them must be finite."""
    tensors = {}
    with open_tensors(path, device) as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{path}: {name} holds values that are not finite numbers")
            # On the CPU they lie in the file's bytes, at any address; products of matrices that
            # are not aligned as fresh ones are may differ from theirs in the last bit.
            tensors[name] = tensor.clone() if tensor.device.type == "cpu" else tensor
    return tensors


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
