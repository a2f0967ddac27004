"""The residual branches of DALLE-pytorch's transformer, and its reversible stack.

Every branch is scale * norm_out(f(shift(norm(x)))), with a learned scale for each channel.

Source: lucidrains/DALLE-pytorch, dalle_pytorch/transformer.py and attention.py.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.nn.attention import Attend
from dalle.nn.linear import Linear
from dalle.pretrained.dalle_pytorch.rotary import Rotation, rotate
from dalle.pretrained.dalle_pytorch.shift import Shift

EPSILON = 1e-5


class Attention(nn.Module):
    """Heads of any width; the rotation turns queries, keys and, unusually, values."""

    def __init__(self, *, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width)

    def forward(
        self, x: Float[Tensor, "b t d"], layer: int, attend: Attend, rotation: Rotation | None
    ) -> Float[Tensor, "b t d"]:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each b h t d
        if rotation is not None:
            queries, keys, values = (rotate(part, rotation) for part in (queries, keys, values))
        return self.out(attend(layer, queries, keys, values).transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """Half of a wide layer, times the GELU of its other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = Linear(width, 8 * width)
        self.out = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        values, gates = self.into(x).chunk(2, dim=-1)
        return self.out(values * F.gelu(gates))


class Branch(nn.Module):
    """What each layer has of its own around an attention or an MLP, which layers may share."""

    def __init__(self, width: int, *, sandwich: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.norm_out = nn.LayerNorm(width, eps=EPSILON) if sandwich else nn.Identity()
        self.scale = nn.Parameter(torch.full((1, 1, width), 0.1))

    def forward(
        self, x: Float[Tensor, "b t d"], inner: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "b t d"]:
        return self.norm_out(inner(self.norm(x))) * self.scale


class Stack(nn.Module):
    """Layers of attention and MLP: "b t d" -> "b t d", without a last norm.

    Args:
        attention_of, mlp_of: for each layer the number of the attention, or MLP, that it uses.
        sandwich: whether branches are normed at their end too.
        reversible: two streams, of which the branches read one and write to the other; their mean
            comes out.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        head_width: int,
        attention_of: tuple[int, ...],
        mlp_of: tuple[int, ...],
        sandwich: bool,
        reversible: bool = False,
    ) -> None:
        super().__init__()
        self.attention_of, self.mlp_of, self.reversible = attention_of, mlp_of, reversible
        self.attentions = nn.ModuleList(
            Attention(width=width, heads=heads, head_width=head_width)
            for _ in range(1 + max(attention_of))
        )
        self.mlps = nn.ModuleList(GatedMlp(width) for _ in range(1 + max(mlp_of)))
        self.attention_branches = nn.ModuleList(
            Branch(width, sandwich=sandwich) for _ in attention_of
        )
        self.mlp_branches = nn.ModuleList(Branch(width, sandwich=sandwich) for _ in mlp_of)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        attend: Attend,
        shift: Shift,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Args:
        shift: called with 2 * layer for the attention's and 2 * layer + 1 for the MLP's input.
        """

        def attended(layer: int, x: Tensor) -> Tensor:
            inner = self.attentions[self.attention_of[layer]]
            return self.attention_branches[layer](
                x, lambda normed: inner(shift(2 * layer, normed), layer, attend, rotation)
            )

        def through_mlp(layer: int, x: Tensor) -> Tensor:
            inner = self.mlps[self.mlp_of[layer]]
            return self.mlp_branches[layer](x, lambda normed: inner(shift(2 * layer + 1, normed)))

        first, second = x, x
        for layer in range(len(self.attention_of)):
            if self.reversible:
                first = first + attended(layer, second)
                second = second + through_mlp(layer, first)
            else:
                x = x + attended(layer, x)
                x = x + through_mlp(layer, x)
        return (first + second) / 2 if self.reversible else x
