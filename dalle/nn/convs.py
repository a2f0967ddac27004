"""The residual blocks of the discrete VAE.

Source: openai/DALL-E (encoder, decoder); arXiv 2102.12092, appendix A.1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.nn.precision import full_precision


class Conv(nn.Conv2d):
    """A convolution that keeps the size, with the published start: N(0, 1 / (inputs k^2)), 0."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=(kernel - 1) // 2)
        self.bias: nn.Parameter

    def reset_parameters(self) -> None:
        """Draw new weights."""
        inputs, kernel = self.in_channels, self.kernel_size[0]
        nn.init.normal_(self.weight, std=1 / math.sqrt(inputs * kernel**2))
        nn.init.zeros_(self.bias)


class Float32Conv(Conv):
    """A 1x1 convolution that is computed in float32 in mixed precision too: at the relaxation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b d rows cols"]:
        weight, bias = self.weight.float(), self.bias.float()
        with full_precision(x.device):
            if x.device.type == "cpu":  # oneDNN's convolution takes half as long as the product
                return F.conv2d(x.float(), weight, bias)
            return pointwise_product(x.float(), weight, bias)


def pointwise_product(
    x: Float[Tensor, "b c rows cols"], weight: Float[Tensor, "d c 1 1"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "b d rows cols"]:
    """A 1x1 convolution as a matrix product: cuDNN would round the factors to TF32."""
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


class _Residual(nn.Module):
    """skip(x) + gain * path(x), each convolution of the path after a ReLU."""

    def __init__(self, convs: list[Conv], *, gain: float) -> None:
        super().__init__()
        inputs, outputs = convs[0].in_channels, convs[-1].out_channels
        self.skip = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.path = nn.ModuleList(convs)
        self.gain = gain

    def forward(self, x: Float[Tensor, "b c rows cols"]) -> Float[Tensor, "b d rows cols"]:
        y = self.path[0](F.relu(x))
        for conv in self.path[1:]:
            y = conv(F.relu_(y))
        return torch.add(self.skip(x), y, alpha=self.gain)


class EncoderBlock(_Residual):
    """3x3, 3x3, 3x3 at a quarter of the width, 1x1 back."""

    def __init__(self, inputs: int, outputs: int, *, gain: float) -> None:
        hidden = outputs // 4
        convs = [Conv(inputs, hidden, 3), Conv(hidden, hidden, 3), Conv(hidden, hidden, 3)]
        super().__init__([*convs, Conv(hidden, outputs, 1)], gain=gain)


class DecoderBlock(_Residual):
    """1x1 to a quarter of the width, 3x3, 3x3, 3x3 back."""

    def __init__(self, inputs: int, outputs: int, *, gain: float) -> None:
        hidden = outputs // 4
        convs = [Conv(inputs, hidden, 1), Conv(hidden, hidden, 3), Conv(hidden, hidden, 3)]
        super().__init__([*convs, Conv(hidden, outputs, 3)], gain=gain)

    def upsampled(
        self, x: Float[Tensor, "b c rows cols"], upsample: nn.Upsample
    ) -> Float[Tensor, "b d height width"]:
        """The block of `upsample(x)`, bit for bit.

        1x1 convolutions look at one pixel, and nearest upsampling only repeats pixels. So they
        come first here, on a quarter of the pixels: half the time of such a block.
        """
        y = upsample(self.path[0](F.relu(x)))
        for conv in self.path[1:]:
            y = conv(F.relu_(y))
        return torch.add(upsample(self.skip(x)), y, alpha=self.gain)
