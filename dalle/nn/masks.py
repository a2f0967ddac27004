"""Attention patterns: one predicate each, and everything that is derived from it.

Between image slots in raster order over W columns, with d = query - key >= 0:

    row       d <= W                                     itself and the W slots before
    column    d mod W = 0                                the same column
    conv      d // W <= s and (d mod W <= s or d mod W >= W - s),  s = (kernel - 1) / 2
    full      every d

Text is causal, every image slot sees all text, text sees no image. As image slot p holds token
p - 1, a row layer reads the tokens p - 1 ... p - 1 - W: published so.

Patterns of other projects' models only; r and c are rows and columns of the grid, s as above:

    square    d >= 0, |r difference| <= s and |c difference| <= s            ai-forever/ru-dalle, v3
    torus     the same on a grid whose opposite edges touch                  ai-forever/ru-dalle, v2
    grid_row  d >= 0 in the same row                                         DALLE-pytorch
    box       0 <= r difference < kernel and 0 <= c difference < kernel      DALLE-pytorch
    blocks    d >= 0 and a table says so for the blocks of the stream,
              text and image alike, that the two slots lie in                DALLE-pytorch

Source: arXiv 2102.12092, section 2.2, appendix B.1 and figure 11.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dalle.errors import ConfigError
from dalle.layout import StreamLayout

PatternName = Literal["row", "column", "conv", "full"]
OtherPatternName = Literal["square", "torus", "grid_row", "box", "blocks"]
NAMES = get_args(PatternName) + get_args(OtherPatternName)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """Which image slots an image slot may read."""

    name: PatternName | OtherPatternName
    kernel: int = 0
    """Side of the square that `conv`, `square`, `torus` (these odd) and `box` read, or of a block
    of `blocks`; 0 for the others."""
    blocks: tuple[str, ...] = ()
    """For each block of queries a line with `#` at the blocks of keys that it reads."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(
                f"attention pattern {self.name!r} is unknown; expected one of {', '.join(NAMES)}"
            )
        if self.name in ("conv", "square", "torus") and (self.kernel < 1 or self.kernel % 2 == 0):
            raise ConfigError(
                f"the {self.name} pattern has kernel {self.kernel}; "
                "expected an odd number (11 as published)"
            )
        if self.name in ("box", "blocks") and self.kernel < 1:
            raise ConfigError(
                f"the {self.name} pattern has kernel {self.kernel}; expected 1 or more"
            )
        square = all(len(line) == len(self.blocks) for line in self.blocks)
        if bool(self.blocks) != (self.name == "blocks") or not square:
            raise ConfigError(
                f"the {self.name} pattern has {len(self.blocks)} lines of blocks; expected as many "
                "as each is long for `blocks`, and none for the others"
            )

    @property
    def reads_all_text(self) -> bool:
        """Whether text is causal and every image slot reads all of it."""
        return self.name != "blocks"


def published_patterns(depth: int) -> tuple[PatternName, ...]:
    """The published order: the last layer conv, layers 2, 6, 10, ... column, all others row.

    Source: arXiv 2102.12092, appendix B.1 (64 layers: 47 row, 16 column, 1 conv).
    """
    return tuple(
        "conv" if layer == depth else "column" if (layer - 2) % 4 == 0 else "row"
        for layer in range(1, depth + 1)
    )


def _image_may_attend(
    pattern: Pattern, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"], grid: tuple[int, int]
) -> Bool[Tensor, "..."]:
    cols = grid[1]
    distance = query - key
    causal = distance >= 0
    if pattern.name == "full":
        return causal
    if pattern.name == "row":
        return causal & (distance <= cols)
    across = distance.remainder(cols)
    if pattern.name == "column":
        return causal & (across == 0)
    if pattern.name in ("square", "torus", "grid_row", "box"):
        return causal & _near_on_the_grid(pattern, query, key, grid)
    side = (pattern.kernel - 1) // 2
    down = distance.div(cols, rounding_mode="floor")
    return causal & (down <= side) & ((across <= side) | (across >= cols - side))


def _near_on_the_grid(
    pattern: Pattern, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"], grid: tuple[int, int]
) -> Bool[Tensor, "..."]:
    rows, cols = grid
    down = query.div(cols, rounding_mode="floor") - key.div(cols, rounding_mode="floor")
    right = query.remainder(cols) - key.remainder(cols)
    if pattern.name == "grid_row":
        return down == 0
    if pattern.name == "box":
        return (down < pattern.kernel) & (right >= 0) & (right < pattern.kernel)
    side = (pattern.kernel - 1) // 2
    down, right = down.abs(), right.abs()
    if pattern.name == "torus":
        down, right = torch.minimum(down, rows - down), torch.minimum(right, cols - right)
    return (down <= side) & (right <= side)


def _in_blocks(
    pattern: Pattern, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]
) -> Bool[Tensor, "..."]:
    lines = [[cell == "#" for cell in line] for line in pattern.blocks]
    table = torch.tensor(lines, device=query.device)
    last = len(lines) - 1  # a stream may have one slot more than the table, which nothing reads
    blocks = (x.div(pattern.kernel, rounding_mode="floor").clamp(max=last) for x in (query, key))
    return table[tuple(blocks)] & (key <= query)


def may_attend(
    pattern: Pattern,
    layout: StreamLayout,
    query: Int[Tensor, "*q"],
    key: Int[Tensor, "*k"],
) -> Bool[Tensor, "..."]:
    """Whether slot `query` of the stream reads slot `key`; the two broadcast.

    Every mask, block mask, decoding table and drawing of the project derives from this function.
    """
    if pattern.name == "blocks":
        return _in_blocks(pattern, query, key)
    start = layout.image_start
    key_is_image = key >= start
    among_images = (query >= start) & _image_may_attend(
        pattern, query - start, key - start, layout.grid
    )
    return torch.where(key_is_image, among_images, key <= query)


def dense_mask(
    pattern: Pattern, layout: StreamLayout, device: torch.device | str | None = None
) -> Bool[Tensor, "length length"]:
    """The whole mask, query by key; True where the query reads the key."""
    slots = torch.arange(layout.length, device=device)
    return may_attend(pattern, layout, slots[:, None], slots[None, :])


def may_attend_picture_first(
    pattern: Pattern,
    layout: StreamLayout,
    query: Int[Tensor, "*q"],
    key: Int[Tensor, "*k"],
) -> Bool[Tensor, "..."]:
    """The same where the picture comes before the text, though each keeps its slots.

    Within the picture and within the text nothing changes; text sees the whole picture, and the
    picture no text.
    """
    is_text = query < layout.image_start
    within = is_text == (key < layout.image_start)
    return torch.where(within, may_attend(pattern, layout, query, key), is_text)


def transpose_order(layout: StreamLayout) -> Int[Tensor, " length"]:
    """Slots of the stream with the image grid transposed: raster slot r W + c goes to c R + r.

    In this order the column pattern is contiguous blocks, which is how the published model runs
    it; the result is the same.

    Source: arXiv 2102.12092, figure 11 (c).
    """
    image = torch.arange(layout.image).unflatten(0, layout.grid).transpose(0, 1).flatten()
    return torch.cat([torch.arange(layout.image_start), image + layout.image_start])


def draw_mask(mask: Bool[Tensor, "length length"], layout: StreamLayout) -> str:
    """A mask as lines of text, `#` where the query (line) reads the key (character).

    Left of the bar the condition and the text, right of it the image, a space between grid rows:

        p05 ####|.### ##.. .... ....
    """
    lines = []
    for query, row in enumerate(mask.tolist()):
        cells = "".join("#" if cell else "." for cell in row)
        head, image = cells[: layout.image_start], cells[layout.image_start :]
        rows = [image[i : i + layout.cols] for i in range(0, layout.image, layout.cols)]
        slot = query - layout.image_start
        name = f"p{slot:02d}" if slot >= 0 else f"t{query}".ljust(3)
        lines.append(f"{name} {head}|{' '.join(rows)}")
    return "\n".join(lines)
