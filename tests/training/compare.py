"""Whether two runs are the same: curves, weights, averages and the optimizer's state."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dalle import checkpoint
from tests.training.toy_process import curve


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint, however many files they are in."""
    folder = checkpoint.latest_whole(out)
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        prefix = path.stem if path.parent == folder else path.parent.name
        found |= {f"{prefix}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def assert_same(out: Path, expected: Path) -> None:
    """Bit for bit."""
    assert curve(out) == curve(expected)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def assert_close(out: Path, expected: Path, *, rel: float = 1e-4) -> None:
    """But for rounding."""
    for one, other in zip(curve(out), curve(expected), strict=True):
        assert one == pytest.approx(other, rel=rel, abs=1e-6)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=10 * rel, atol=rel / 10)
