"""A sparse pattern cut into windows: groups of image slots, each reading its own group and a few
before it, so that attention is a few small matrix products instead of one large masked one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, dense_mask, transpose_order


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """How the image slots of a pattern fall into groups, derived from its mask.

    A group is a row of the grid, or a column of it where that makes the windows smaller: column
    layers read one column then, as in figure 11 (c) of arXiv 2102.12092. The window of a group is
    the group itself behind the `before` groups that precede it; ahead of the first group there is
    filling, which nothing reads.
    """

    transposed: bool
    """The groups are the columns of the grid."""
    groups: int
    size: int
    """Slots in a group."""
    before: int
    """How many earlier groups a window has."""
    reads: Bool[Tensor, "groups size window"]
    """Whether a slot of a group reads a slot of the group's window."""

    @property
    def window(self) -> int:
        """Slots in a window."""
        return (self.before + 1) * self.size

    def grid(self, image: Shaped[Tensor, "*h image d"]) -> Shaped[Tensor, "*h groups size d"]:
        """Image slots in raster order as a view of groups, for reading and for writing."""
        if self.transposed:
            return image.unflatten(-2, (self.size, self.groups)).transpose(-3, -2)
        return image.unflatten(-2, (self.groups, self.size))

    def windows(self, image: Float[Tensor, "*h image d"]) -> Float[Tensor, "*h groups window d"]:
        """A read-only copy of the window of each group, with zeros ahead of the first group; the
        windows of neighbours overlap in memory."""
        *heads, _, width = image.shape
        padded = image.new_zeros(*heads, self.groups + self.before, self.size, width)
        padded[..., self.before :, :, :] = self.grid(image)
        strides = (*padded.stride()[:-3], self.size * width, width, 1)
        return padded.as_strided((*heads, self.groups, self.window, width), strides)

    def add_up(
        self, windows: Float[Tensor, "*h groups window d"]
    ) -> Float[Tensor, "*h groups size d"]:
        """For every image slot the sum over all windows that it is in: the reverse of `windows`,
        for gradients."""
        *heads, _, _, width = windows.shape
        padded = windows.new_zeros(*heads, self.groups + self.before, self.size, width)
        for place, part in enumerate(windows.split(self.size, dim=-2)):
            padded[..., place : place + self.groups, :, :] += part
        return padded[..., self.before :, :, :]


def cut_into_windows(pattern: Pattern, layout: StreamLayout) -> Windows:
    """The windows of a pattern, by rows or by columns: whichever are the smaller."""
    rows, columns = (_cut(pattern, layout, transposed=transposed) for transposed in (False, True))
    assert rows is not None  # raster order is causal
    return columns if columns is not None and columns.window < rows.window else rows


def _cut(pattern: Pattern, layout: StreamLayout, *, transposed: bool) -> Windows | None:
    """None where a group would read a later one: a square reaches into the next column."""
    mask = dense_mask(pattern, layout)
    size, groups = layout.grid if transposed else (layout.cols, layout.rows)
    if transposed:
        order = transpose_order(layout)
        mask = mask[order][:, order]
    image = mask[layout.image_start :, layout.image_start :]
    blocks = image.unflatten(0, (groups, size)).unflatten(2, (groups, size)).any(dim=3).any(dim=1)
    query, key = torch.nonzero(blocks, as_tuple=True)
    if bool((key > query).any()):
        return None
    before = int((query - key).max())
    padded = torch.nn.functional.pad(image, (before * size, 0)).unflatten(0, (groups, size))
    window = (before + 1) * size
    reads = torch.stack([padded[g, :, g * size : g * size + window] for g in range(groups)])
    return Windows(transposed=transposed, groups=groups, size=size, before=before, reads=reads)
