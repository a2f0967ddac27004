"""Whether two runs are the same: curves, weights, averages and the optimizer's state."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle import checkpoint
from tests.training.toy_process import curve


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    return weights_of(checkpoint.latest_whole(out))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a step, however many files they are in."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        prefix = path.stem if path.parent == folder else path.parent.name
        found |= {f"{prefix}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def assert_same(out: Path, expected: Path) -> None:
    """Bit for bit, and in the same files."""
    assert curve(out) == curve(expected)
    assert files_of(out) == files_of(expected)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of tensors of the last checkpoint."""
    folder = checkpoint.latest_whole(out)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.safetensors")
    }


def assert_close(out: Path, expected: Path, *, rel: float = 1e-4) -> None:
    """But for rounding."""
    for one, other in zip(_numbers(out), _numbers(expected), strict=True):
        assert one == pytest.approx(other, rel=rel, abs=1e-6)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=10 * rel, atol=rel / 10)


def _numbers(out: Path) -> list[dict[str, float]]:
    """The curve, with -inf for what was not finite."""
    return [{k: -math.inf if v is None else v for k, v in line.items()} for line in curve(out)]
