"""Exact attention of a sparse pattern by windows, forward and backward, for the CPU.

Every image slot reads all text and its window: two products into one row of scores, one softmax.
A head at a time: the scores of one (1024 x 320 for a row layer of the published stream, 1.3 MB)
then stay in a core's cache between the products, which makes this faster than the same
arithmetic over all heads through autograd, and than two fused kernels merged by their
log-sum-exp (docs/performance.md).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dalle.nn.linear import product
from dalle.nn.precision import full_precision
from dalle.nn.windows import Windows


def windowed_attention(
    queries: Float[Tensor, "b h t d"],
    keys: Float[Tensor, "b h t d"],
    values: Float[Tensor, "b h t d"],
    windows: Windows,
) -> Float[Tensor, "b h t d"]:
    """Attention over a whole stream, text and then the image of `windows`.

    The same as attention under the pattern's dense mask: one softmax over text and image together
    (arXiv 2102.12092, footnote 7). It keeps the weights for the backward pass, in the type of the
    queries: for each head image * (text + window) + text^2 of them.
    """
    return _WindowedAttention.apply(queries, keys, values, windows)  # type: ignore[no-any-return]


@dataclass(slots=True)
class _Head:
    """What one head of one sample reads; queries are scaled, image parts in groups' order."""

    text_queries: Float[Tensor, "text d"]
    text_keys: Float[Tensor, "text d"]
    text_values: Float[Tensor, "text d"]
    image_queries: Float[Tensor, "groups size d"]
    image_keys: Float[Tensor, "groups window d"]
    image_values: Float[Tensor, "groups window d"]


def _head(
    queries: Float[Tensor, "t d"],
    keys: Float[Tensor, "t d"],
    values: Float[Tensor, "t d"],
    windows: Windows,
) -> _Head:
    text = len(queries) - windows.groups * windows.size
    scale = queries.shape[1] ** -0.5
    image_queries = queries.new_empty(windows.groups, windows.size, queries.shape[1])
    return _Head(
        text_queries=queries[:text] * scale,
        text_keys=keys[:text].contiguous(),
        text_values=values[:text].contiguous(),
        image_queries=torch.mul(windows.grid(queries[text:]), scale, out=image_queries),
        image_keys=windows.windows_of_padded(windows.padded(keys[text:])),
        image_values=windows.windows_of_padded(windows.padded(values[text:])),
    )


class _WindowedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, windows: Windows
    ) -> Tensor:
        batch, heads, length, width = queries.shape
        image = windows.groups * windows.size
        text = length - image
        # b t h d in memory: the heads are put together again right afterwards.
        mixed = queries.new_empty(batch, length, heads, width).transpose(1, 2)
        text_weights = queries.new_empty(batch, heads, text, text)
        weights = queries.new_empty(batch, heads, image, text + windows.window)
        scores = queries.new_empty(image, text + windows.window)
        unread = _minus_infinity_where_not(windows.reads, queries.dtype)
        later = queries.new_full((text, text), float("-inf")).triu_(1)
        with full_precision(queries.device):
            for b in range(batch):
                for h in range(heads):
                    head = _head(queries[b, h], keys[b, h], values[b, h], windows)
                    own = torch.addmm(later, head.text_queries, head.text_keys.t())
                    torch.softmax(own, -1, out=text_weights[b, h])
                    torch.mm(text_weights[b, h], head.text_values, out=mixed[b, h, :text])

                    flat = head.image_queries.flatten(0, 1)
                    torch.mm(flat, head.text_keys.t(), out=scores[:, :text])
                    local = torch.baddbmm(
                        unread, head.image_queries, head.image_keys.transpose(1, 2)
                    )
                    scores[:, text:].unflatten(0, local.shape[:2]).copy_(local)
                    over = torch.softmax(scores, -1, out=weights[b, h])
                    from_image = over[:, text:].unflatten(0, local.shape[:2]) @ head.image_values
                    from_text = over[:, :text] @ head.text_values
                    torch.add(
                        from_image,
                        from_text.view_as(from_image),
                        out=windows.grid(mixed[b, h, text:]),
                    )
        ctx.save_for_backward(queries, keys, values, mixed, text_weights, weights)
        ctx.windows = windows
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, mixed, text_weights, weights = ctx.saved_tensors
        windows: Windows = ctx.windows
        # One memory for the three, as they come from one projection.
        by_queries, by_keys, by_values = torch.empty(
            3, *queries.transpose(1, 2).shape, dtype=queries.dtype
        ).transpose(2, 3)
        text = text_weights.shape[-1]
        with full_precision(queries.device):
            # What the softmax takes off: for each query the mean of its weights' gradients.
            means = (gradient * mixed).sum(-1, keepdim=True)
            for b in range(queries.shape[0]):
                for h in range(queries.shape[1]):
                    head = _head(queries[b, h], keys[b, h], values[b, h], windows)
                    wanted, own = gradient[b, h], text_weights[b, h]
                    by_own = wanted[:text] @ head.text_values.t()
                    by_own.sub_(means[b, h, :text]).mul_(own)
                    by_queries[b, h, :text] = by_own @ head.text_keys
                    by_keys[b, h, :text] = by_own.t() @ head.text_queries
                    by_values[b, h, :text] = own.t() @ wanted[:text]

                    image = windows.grid(wanted[text:]).contiguous()
                    read, asked = image.flatten(0, 1), head.image_queries.flatten(0, 1)
                    mean = windows.grid(means[b, h, text:])
                    over_text = weights[b, h, :, :text]
                    by_text = product(read, head.text_values)
                    by_text.sub_(mean.reshape(-1, 1)).mul_(over_text)
                    by_keys[b, h, :text] += by_text.t() @ asked
                    by_values[b, h, :text] += over_text.t() @ read

                    local = weights[b, h, :, text:].unflatten(0, image.shape[:2])
                    by_local = image @ head.image_values.transpose(1, 2)
                    by_local.sub_(mean).mul_(local)
                    windows.grid(by_keys[b, h, text:]).copy_(
                        windows.add_up(by_local.transpose(1, 2) @ head.image_queries)
                    )
                    windows.grid(by_values[b, h, text:]).copy_(
                        windows.add_up(local.transpose(1, 2) @ image)
                    )
                    torch.add(
                        by_local @ head.image_keys,
                        product(by_text, head.text_keys.t()).view_as(image),
                        out=windows.grid(by_queries[b, h, text:]),
                    )
            by_queries *= queries.shape[-1] ** -0.5
        return by_queries, by_keys, by_values, None


def _minus_infinity_where_not(
    reads: Tensor, dtype: torch.dtype
) -> Float[Tensor, "groups size window"]:
    return torch.zeros(reads.shape, dtype=dtype).masked_fill_(~reads, float("-inf"))
