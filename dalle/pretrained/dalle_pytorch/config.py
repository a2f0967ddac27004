"""Sizes and kinds of layers of a DALLE-pytorch model."""

from dataclasses import dataclass
from typing import Literal

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern

AttentionKind = Literal["full", "axial_row", "axial_col", "conv_like", "conv_like_old", "sparse"]
"""`conv_like_old` is `conv_like` before version 1.5.0: other keys under the same name."""
CONV_KERNEL = 5
BLOCK = 16
PATTERNS = {
    "full": Pattern(name="full"),
    "axial_row": Pattern(name="grid_row"),
    "axial_col": Pattern(name="column"),
    "conv_like": Pattern(name="box", kernel=CONV_KERNEL),
    "conv_like_old": Pattern(name="square", kernel=CONV_KERNEL),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DallePytorchConfig:
    """Sizes and kinds of layers of a DALLE-pytorch model."""

    text_vocab: int
    """Entries of the text tokenizer; of these entry 0 stands for no token."""
    text_tokens: int
    """The longest text, in tokens."""
    image_vocab: int
    rows: int
    cols: int
    width: int
    heads: int
    head_width: int
    attention: tuple[AttentionKind, ...]
    """One for each layer."""
    attention_of: tuple[int, ...]
    """For each layer the number of the attention that it uses: layers may share them."""
    mlp_of: tuple[int, ...]
    block_tables: tuple[tuple[str, ...], ...] = ()
    """For each `sparse` layer, in their order, which blocks of 16 slots read which: `#`."""
    rotary: bool = False
    """Rotary positions; else learned ones, of the text and of row and column."""
    token_shift: bool = False
    sandwich: bool = False
    stable: bool = False
    """The output is divided by its largest entry before the last norm."""
    reversible: bool = False
    tied: bool = False
    """Embeddings are the rows of the output matrix."""

    def __post_init__(self) -> None:
        for name in ("text_vocab", "text_tokens", "image_vocab", "width", "heads", "head_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        depth = len(self.attention)
        if not depth or len(self.attention_of) != depth or len(self.mlp_of) != depth:
            raise ConfigError(
                f"attention, attention_of and mlp_of name {depth}, {len(self.attention_of)} and "
                f"{len(self.mlp_of)} layers; expected one entry in each for every layer"
            )
        for name in ("attention_of", "mlp_of"):
            numbers = getattr(self, name)
            if set(numbers) != set(range(1 + max(numbers))):
                raise ConfigError(f"{name} is {numbers}; expected numbers from 0, none left out")
        if self.attention.count("sparse") != len(self.block_tables):
            raise ConfigError(
                f"block_tables has {len(self.block_tables)} tables for "
                f"{self.attention.count('sparse')} sparse layers; expected one for each"
            )
        length = self.text_tokens + self.rows * self.cols
        for table in self.block_tables:
            if len(table) * BLOCK != length:
                raise ConfigError(
                    f"a table of {len(table)} blocks of {BLOCK} slots came for {length} slots"
                )
        _ = self.layout, self.patterns

    @property
    def layout(self) -> StreamLayout:
        """The start and the text, then the image; the last image slot is never read."""
        return StreamLayout(text=1 + self.text_tokens, rows=self.rows, cols=self.cols)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each layer."""
        tables = iter(self.block_tables)
        return tuple(
            Pattern(name="blocks", kernel=BLOCK, blocks=next(tables))
            if kind == "sparse"
            else PATTERNS[kind]
            for kind in self.attention
        )
