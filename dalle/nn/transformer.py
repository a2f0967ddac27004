"""The residual blocks, and their stack.

Pre-activation residual blocks: h + attention(LN(h)), then + mlp(LN(.)), a last layer norm after
the stack. The paper names the blocks as those of Child et al. 2019 and gives no more.

Source: arXiv 2102.12092, section 2.2, appendix B.1; arXiv 1904.10509, section 5.
"""

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.nn.attention import Attend
from dalle.nn.linear import Linear

INIT_GAIN = 0.125
"""Weights start with a deviation of gain / sqrt(inputs). Source: arXiv 1904.10509, section 6."""


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation that Child et al. use."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # The same as x * sigmoid(1.702 x), in one kernel forward and one backward.
        return F.silu(1.702 * x) * (1 / 1.702)


class Block(nn.Module):
    """One attention and one MLP, each a residual branch: "b t d" -> "b t d"."""

    compiled: ClassVar = ("before_attention", "after_attention")
    """Methods that `torch.compile` may take, each by itself: attention has forms of its own."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        dropout: float,
        activation: type[nn.Module] = QuickGELU,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = Linear(width, 4 * width)
        self.activation = activation()
        self.mlp_out = Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t d"], layer: int, attend: Attend) -> Tensor:
        queries, keys, values = self.before_attention(x)
        mixed = attend(layer, queries, keys, values)
        return self.after_attention(x, mixed.transpose(1, 2).flatten(2))

    def before_attention(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "3 b h t c"]:
        """Queries, keys and values."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        return qkv.permute(2, 0, 3, 1, 4)

    def after_attention(
        self, x: Float[Tensor, "b t d"], mixed: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t d"]:
        """The residual stream with both branches added, from the values that attention mixed."""
        x = x + self.dropout(self.attention_out(mixed))
        hidden = self.activation(self.mlp_in(self.mlp_norm(x)))
        return x + self.dropout(self.mlp_out(hidden))


class Transformer(nn.Module):
    """`depth` blocks and a last layer norm."""

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        heads: int,
        dropout: float = 0.0,
        init_gain: float = INIT_GAIN,
        activation: type[nn.Module] = QuickGELU,
    ) -> None:
        super().__init__()
        self.init_gain = init_gain
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, dropout=dropout, activation=activation)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; the two matrices that write to the residual stream are scaled by
        1 / sqrt(2 depth), so that its variance does not grow with the depth.

        Source: arXiv 1904.10509, section 6.
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.qkv, block.attention_out, block.mlp_in, block.mlp_out):
                writes = linear is block.attention_out or linear is block.mlp_out
                gain = self.init_gain / (math.sqrt(2 * len(self.blocks)) if writes else 1.0)
                nn.init.normal_(linear.weight, std=gain / math.sqrt(linear.in_features))
                nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "b t d"], attend: Attend) -> Float[Tensor, "b t d"]:
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, attend)
        return self.norm(x)
