"""What published models answered in tiny configurations, and the weights they had.

tests/golden holds a .json with the names and shapes of the weights, which are filled by the rule
below, and a .safetensors with inputs and outputs of the original code.
"""

import json
import math
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def fill(key: str, shape: list[int]) -> Tensor:
    """The weights of a name: a function of the name and the shape."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) % 2**31)
    values = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape) / shape[0])
    return 1 + 0.1 * values if key.endswith(("weight", ".g", "scale")) else 0.1 * values


def filled_state(name: str) -> dict[str, Tensor]:
    """The state dict of a golden model."""
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    return {key: fill(key, shape) for key, shape in shapes.items()}


def answers(name: str) -> dict[str, Tensor]:
    """Inputs and outputs of a golden model."""
    return load_file(GOLDEN / f"{name}.safetensors")
