"""The residual blocks of the discrete VAE."""

import math

import pytest
import torch
from torch.nn import functional as F

from dalle.nn.convs import Conv, DecoderBlock, EncoderBlock, Float32Conv, pointwise_product


def test_start_is_one_over_the_root_of_the_inputs() -> None:
    torch.manual_seed(0)
    conv = Conv(32, 64, 3)
    assert conv.weight.std().item() == pytest.approx(1 / math.sqrt(32 * 9), rel=0.05)
    assert not conv.bias.any()


@pytest.mark.parametrize(
    ("block_class", "kernels"), [(EncoderBlock, [3, 3, 3, 1]), (DecoderBlock, [1, 3, 3, 3])]
)
@pytest.mark.parametrize("outputs", [8, 16])
def test_block_is_skip_plus_gain_times_path(
    block_class: type[EncoderBlock | DecoderBlock], kernels: list[int], outputs: int
) -> None:
    torch.manual_seed(0)
    block = block_class(8, outputs, gain=0.25)
    convs = [conv for conv in block.path if isinstance(conv, Conv)]
    assert [conv.kernel_size[0] for conv in convs] == kernels
    assert [conv.out_channels for conv in convs] == [outputs // 4] * 3 + [outputs]
    x = torch.randn(2, 8, 5, 6)
    y = x
    for conv in convs:
        y = F.conv2d(F.relu(y), conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
    skip = F.conv2d(x, block.skip.weight, block.skip.bias) if isinstance(block.skip, Conv) else x
    assert isinstance(block.skip, Conv) == (outputs != 8)
    torch.testing.assert_close(block(x), skip + 0.25 * y)


def test_an_upsampled_block_is_the_block_of_the_upsampled_input() -> None:
    torch.manual_seed(0)
    block, upsample = DecoderBlock(8, 16, gain=0.25), torch.nn.Upsample(scale_factor=2)
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(block.upsampled(x, upsample), block(upsample(x)))


def test_float32_conv_stays_so_under_autocast() -> None:
    torch.manual_seed(0)
    conv, x = Float32Conv(8, 8), torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = conv(x)
        assert Conv(8, 8, 1)(x).dtype == torch.bfloat16
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, conv(x))
    assert conv.bfloat16()(x.bfloat16()).dtype == torch.float32


def test_product_for_other_devices_is_the_convolution() -> None:
    torch.manual_seed(0)
    conv, x = Float32Conv(6, 9), torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(pointwise_product(x, conv.weight, conv.bias), conv(x))


def test_a_block_leaves_its_input_alone() -> None:
    x = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    EncoderBlock(8, 8, gain=0.25)(x)
    assert torch.equal(x, before)
