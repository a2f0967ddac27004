"""Weights and files as other projects write them.

tests/golden/NAME.json holds the keys and shapes of an original model in a tiny configuration,
NAME.safetensors what it answered with weights filled by the rule of `fill`.
"""

import functools
import io
import json
import math
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def fill(key: str, shape: list[int], *, seed: int = 0) -> Tensor:
    """The rule by which the originals were filled."""
    generator = torch.Generator().manual_seed((zlib.crc32(key.encode()) + seed) % 2**31)
    values = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape) / shape[0])
    return 1 + 0.1 * values if key.endswith(("weight", ".g", "scale")) else 0.1 * values


def original_state(name: str) -> dict[str, Tensor]:
    """The state dict that gave the golden answers."""
    return dict(_filled(name))


@functools.cache
def _filled(name: str) -> dict[str, Tensor]:
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    return {key: fill(key, shape) for key, shape in shapes.items()}


def answers(name: str) -> dict[str, Tensor]:
    """What the original answered."""
    return load_file(GOLDEN / f"{name}.safetensors")


def zip_file(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A file in torch.save's format, of any pickle and any bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def saved(value: object, *, zipped: bool = True) -> bytes:
    """What torch.save writes, in its newer or older format."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()
