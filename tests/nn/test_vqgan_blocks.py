"""The blocks of VQGANs."""

import math

import pytest
import torch
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.models.vqgan import VqganConfig
from dalle.nn.vqgan_blocks import AttentionBlock, Downsample, from_wavelets


def test_wavelets_are_inverted_as_transposed_convolutions_do() -> None:
    """Written out: each band is an outer product of the Haar filters (1, 1) and (1, -1)."""
    bands = torch.randn(2, 12, 3, 5)
    mean, difference = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    filters = [(mean, mean), (difference, mean), (mean, difference), (difference, difference)]
    kernels = torch.stack([rows[:, None] * cols / 2 for rows, cols in filters])
    for colour in range(3):
        places = [colour] + [3 + 3 * colour + band for band in range(3)]
        expected = F.conv_transpose2d(bands[:, places], kernels.unsqueeze(1), stride=2)
        torch.testing.assert_close(from_wavelets(bands)[:, colour], expected[:, 0])


def test_wavelets_keep_the_energy() -> None:
    bands = torch.randn(1, 12, 4, 6)
    assert math.isclose(float(from_wavelets(bands).norm()), float(bands.norm()), rel_tol=1e-5)


def test_attention_is_a_softmax_over_all_cells() -> None:
    block = AttentionBlock(32)
    x = torch.randn(2, 32, 3, 5)
    h = block.norm(x)
    q, k, v = (conv(h).flatten(2) for conv in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(32), dim=-1)
    read = torch.einsum("bij,bcj->bci", weights, v).unflatten(2, (3, 5))
    torch.testing.assert_close(block(x), x + block.proj_out(read), atol=1e-6, rtol=1e-5)


def test_halving_pads_below_and_at_the_right() -> None:
    down = Downsample(1)
    torch.nn.init.ones_(down.conv.weight)
    torch.nn.init.zeros_(down.conv.bias)
    assert down(torch.ones(1, 1, 4, 6)).tolist() == [[[[9, 9, 6], [6, 6, 4]]]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_codes": 0}, "num_codes is 0"),
        ({"channels": 33}, "multiple of 32"),
        ({"multipliers": ()}, "1 to 12 numbers"),
        ({"multipliers": (1, 0)}, "1 to 12 numbers"),
        ({"attention": (5,)}, "the levels are 0 to 4"),
        ({"quantizer": "other"}, "quantizer is 'other'"),
        ({"image_width": 250}, "no multiple of 16, the pixels of a grid cell; take 256"),
        ({"image_height": 272, "wavelets": True}, "no multiple of 32"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        VqganConfig(**fields)
