"""Exact attention of a sparse pattern by windows, forward and backward, for the CPU.

Every image slot reads all text and its window: two products into one row of scores, one softmax.
The image's slots a head at a time: the scores of one (1024 x 320 for a row layer of the published
stream, 1.3 MB) then stay in a core's cache between the products, which makes this faster than the
same arithmetic over all heads through autograd, and than two fused kernels merged by their
log-sum-exp (docs/performance.md). What is small is done for all heads at once.
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
class _Sample:
    """What the heads of one sample read; queries are scaled, image parts in groups' order."""

    text_queries: Float[Tensor, "h text d"]
    text_keys: Float[Tensor, "h text d"]
    text_values: Float[Tensor, "h text d"]
    image_queries: Float[Tensor, "h groups size d"]
    image_keys: Float[Tensor, "h groups window d"]
    image_values: Float[Tensor, "h groups window d"]


def _sample(
    queries: Float[Tensor, "h t d"],
    keys: Float[Tensor, "h t d"],
    values: Float[Tensor, "h t d"],
    windows: Windows,
) -> _Sample:
    heads, length, width = queries.shape
    text = length - windows.groups * windows.size
    scale = width**-0.5
    image_queries = queries.new_empty(heads, windows.groups, windows.size, width)
    return _Sample(
        text_queries=queries[:, :text] * scale,
        text_keys=keys[:, :text].contiguous(),
        text_values=values[:, :text].contiguous(),
        image_queries=torch.mul(windows.grid(queries[:, text:]), scale, out=image_queries),
        image_keys=windows.windows(keys[:, text:]),
        image_values=windows.windows(values[:, text:]),
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
                sample = _sample(queries[b], keys[b], values[b], windows)
                own = torch.baddbmm(later, sample.text_queries, sample.text_keys.transpose(1, 2))
                torch.softmax(own, -1, out=text_weights[b])
                mixed[b, :, :text] = text_weights[b] @ sample.text_values

                mixed_image = windows.grid(mixed[b, :, text:])
                for h in range(heads):
                    asked = sample.image_queries[h]
                    text_keys, text_values = sample.text_keys[h], sample.text_values[h]
                    torch.mm(asked.flatten(0, 1), text_keys.t(), out=scores[:, :text])
                    local = torch.baddbmm(unread, asked, sample.image_keys[h].transpose(1, 2))
                    scores[:, text:].unflatten(0, local.shape[:2]).copy_(local)
                    over = torch.softmax(scores, -1, out=weights[b, h])
                    over_image = over[:, text:].unflatten(0, local.shape[:2])
                    from_image = over_image @ sample.image_values[h]
                    from_text = over[:, :text] @ text_values
                    torch.add(from_image, from_text.view_as(from_image), out=mixed_image[h])
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
                sample = _sample(queries[b], keys[b], values[b], windows)
                wanted, own = gradient[b, :, :text], text_weights[b]
                by_own = wanted @ sample.text_values.transpose(1, 2)
                by_own.sub_(means[b, :, :text]).mul_(own)
                by_queries[b, :, :text] = by_own @ sample.text_keys
                by_text_keys = by_own.transpose(1, 2) @ sample.text_queries
                by_text_values = own.transpose(1, 2) @ wanted

                images = windows.grid(gradient[b, :, text:]).contiguous()
                image_means = windows.grid(means[b, :, text:])
                by_image_queries = windows.grid(by_queries[b, :, text:])
                by_windows_of_keys = torch.empty(sample.image_keys.shape, dtype=queries.dtype)
                by_windows_of_values = torch.empty_like(by_windows_of_keys)
                for h in range(queries.shape[1]):
                    image, asked = images[h], sample.image_queries[h]
                    read, flat = image.flatten(0, 1), asked.flatten(0, 1)
                    over_text = weights[b, h, :, :text]
                    by_text = product(read, sample.text_values[h])
                    by_text.sub_(image_means[h].reshape(-1, 1)).mul_(over_text)
                    by_text_keys[h].addmm_(by_text.t(), flat)
                    by_text_values[h].addmm_(over_text.t(), read)

                    local = weights[b, h, :, text:].unflatten(0, image.shape[:2])
                    by_local = image @ sample.image_values[h].transpose(1, 2)
                    by_local.sub_(image_means[h]).mul_(local)
                    torch.bmm(by_local.transpose(1, 2), asked, out=by_windows_of_keys[h])
                    torch.bmm(local.transpose(1, 2), image, out=by_windows_of_values[h])
                    torch.add(
                        by_local @ sample.image_keys[h],
                        product(by_text, sample.text_keys[h].t()).view_as(image),
                        out=by_image_queries[h],
                    )
                by_keys[b, :, :text] = by_text_keys
                by_values[b, :, :text] = by_text_values
                windows.grid(by_keys[b, :, text:]).copy_(windows.add_up(by_windows_of_keys))
                windows.grid(by_values[b, :, text:]).copy_(windows.add_up(by_windows_of_values))
            by_queries *= queries.shape[-1] ** -0.5
        return by_queries, by_keys, by_values, None


def _minus_infinity_where_not(
    reads: Tensor, dtype: torch.dtype
) -> Float[Tensor, "groups size window"]:
    return torch.zeros(reads.shape, dtype=dtype).masked_fill_(~reads, float("-inf"))
