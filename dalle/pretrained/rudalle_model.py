"""ru-DALL·E: Malevich, Emojich, Surrealist and Kandinsky, in both layouts of their files.

A decoder over 128 text tokens and 32 x 32 image tokens, with the layers of the paper (row, column,
convolution), each branch normalised before and after. The two layouts, called v2 and v3 after
their files, have the same tensors and are not the same model:

                      v2 (Malevich 2, Emojich)           v3 (Malevich, Surrealist, Kandinsky)
    before the text   one more start token               nothing
    image slot p      holds token p - 1, and slot 0      holds token p
                      the last token of the text
    last layer        a square on a torus                a square on the grid

Source: ai-forever/ru-dalle (Apache-2.0); arXiv 2105.13290, section 2.4 (the norms).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.models.dalle import DalleOutput
from dalle.nn.attention import Attend, WholeStream
from dalle.nn.cache import Cache, ImageStep, Prefill
from dalle.nn.first_slot import FirstSlotCache, own_slot
from dalle.nn.linear import Linear
from dalle.nn.masks import Pattern
from dalle.nn.precision import logits

Version = Literal["v2", "v3"]
BEGIN, END, PAD = 2, 3, 0
"""Ids of its text tokenizer. A pad becomes the entry of its slot, after those of the tokenizer."""
LARGEST = 65504.0
"""What attention writes is cut to the range of 16-bit floats, in which the models were trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RudalleConfig:
    """Sizes of a ru-DALL·E; the defaults are those of all published ones."""

    version: Version
    text_vocab: int = 16384
    """Entries of the text tokenizer."""
    image_vocab: int = 8192
    text_slots: int = 128
    side: int = 32
    """Rows and columns of the grid."""
    depth: int = 24
    width: int = 2048
    heads: int = 16
    conv_kernel: int = 11

    def __post_init__(self) -> None:
        if self.version not in ("v2", "v3"):
            raise ConfigError(f"version is {self.version!r}; expected 'v2' or 'v3'")
        for name in ("text_vocab", "image_vocab", "text_slots", "depth", "width", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")
        _ = self.layout, self.layer_patterns

    @property
    def layout(self) -> StreamLayout:
        """Text, then image. Of v2 the last of its 129 text tokens stands in image slot 0."""
        return StreamLayout(text=self.text_slots, rows=self.side, cols=self.side)

    @property
    def layer_patterns(self) -> tuple[Pattern, ...]:
        """Layers 2, 6, 10, ... column, the last a square unless it is one of these, others row."""
        last = Pattern(name="torus" if self.version == "v2" else "square", kernel=self.conv_kernel)
        row, column = Pattern(name="row"), Pattern(name="column")
        return tuple(
            column if layer % 4 == 1 else last if layer == self.depth - 1 else row
            for layer in range(self.depth)
        )


class SandwichBlock(nn.Module):
    """One attention and one MLP, each between two norms: "b t d" -> "b t d"."""

    compiled: ClassVar = ("before_attention", "after_attention")
    """See `dalle.nn.transformer.Block`."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.attention_out_norm = nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = Linear(width, 4 * width)
        self.mlp_out = Linear(4 * width, width)
        self.mlp_out_norm = nn.LayerNorm(width)

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
        x = x + self.attention_out_norm(self.attention_out(mixed).clamp(-LARGEST, LARGEST))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self.mlp_out_norm(self.mlp_out(hidden))


class Rudalle(nn.Module):
    """The decoder: text and image tokens in, logits of the next token out.

    Text comes as `text_slots` ids: the start, tokens, the end, and 0 in each slot that is left.
    """

    def __init__(self, config: RudalleConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.patterns = config.layer_patterns
        self.image_vocab = config.image_vocab
        self.text_vocab = config.text_vocab
        self.slot_0_is_text = config.version == "v2"
        width, entries = config.width, config.text_vocab + config.text_slots
        self.text_embedding = nn.Embedding(entries, width)
        self.text_position = nn.Embedding(config.text_slots + 1, width)
        self.image_embedding = nn.Embedding(config.image_vocab, width)
        self.row_embedding = nn.Embedding(config.side, width)
        self.col_embedding = nn.Embedding(config.side, width)
        self.blocks = nn.ModuleList(
            SandwichBlock(width=width, heads=config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, entries + config.image_vocab)
        self._whole_stream: WholeStream | None = None

    @property
    def start_of_image(self) -> int:
        """Any code: what slot 0 reads is the end of the text."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def no_caption(self, texts: Int[Tensor, "p text"]) -> Int[Tensor, "p text"]:
        """The ids of an empty caption, start and end, in the shape of `texts`."""
        ids = torch.full_like(texts, PAD)
        ids[:, 0], ids[:, 1] = BEGIN, END
        return ids

    def forward(self, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]) -> DalleOutput:
        """Logits of every next token: of v2 all text tokens, of v3 all but the first, are targets.

        Args:
            text: ids of the text slots, 0 <= id < text_vocab.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
        """
        hidden = self.hidden(text, codes)
        start = self.layout.image_start
        first = start if self.slot_0_is_text else start - 1
        return DalleOutput(
            text=self._text_logits(hidden[:, :first]),
            image=self._image_logits(hidden[:, first : first + self.layout.image]),
        )

    def hidden(
        self, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]
    ) -> Float[Tensor, "b t d"]:
        """What the unembedding reads, at every slot of the stream."""
        inputs = codes[:, :-1] if self.slot_0_is_text else codes
        embedded = torch.cat([self._embed_text(text), self._embed_image(inputs)], dim=1)
        if self._whole_stream is None or self._whole_stream.device != text.device:
            self._whole_stream = WholeStream(self.patterns, self.layout, text.device)
        return self._run(embedded, self._whole_stream)

    # Decoding: one prefill for each prompt, then one position at a time.

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> FirstSlotCache:
        """Room for the keys and values of `prompts` texts with `samples` pictures each, and
        for as many pictures again without a caption, which share `nulls` ones."""
        keys = Cache(
            layout=self.layout,
            patterns=self.patterns,
            prompts=prompts,
            samples=samples,
            nulls=nulls,
            heads=self.config.heads,
            head_width=self.config.width // self.config.heads,
            dtype=self.norm.weight.dtype,
            device=self.device,
        )
        return FirstSlotCache.empty(keys, width=self.config.width)

    def prefill(
        self,
        text: Int[Tensor, "prompts text"],
        codes: Int[Tensor, "prompts known"],
        cache: FirstSlotCache,
    ) -> None:
        """Fill the cache with the text and the first codes, as `models.dalle.Dalle.prefill`."""
        embedded = torch.cat([self._embed_text(text), self._embed_image(codes[:, :-1])], dim=1)
        start = self.layout.image_start
        if self.slot_0_is_text:
            cache.first.copy_(embedded[:, start])
        hidden = self._run(embedded, Prefill(cache.keys, self.patterns, length=embedded.shape[1]))
        if not self.slot_0_is_text:
            cache.first.copy_(hidden[:, start - 1])

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: FirstSlotCache
    ) -> Float[Tensor, "b image_vocab"]:
        """Logits of token `slot`, given the token before it (any code at slot 0)."""
        own = own_slot(slot)
        row, col = own // self.layout.cols, own % self.layout.cols
        places = self.row_embedding(row) + self.col_embedding(col)
        embedded = self.image_embedding(codes) + places
        if self.slot_0_is_text:
            embedded = cache.or_first(slot, embedded)
            hidden = self._run(embedded.unsqueeze(1), ImageStep(cache.keys, slot))[:, 0]
        else:
            hidden = self._run(embedded.unsqueeze(1), ImageStep(cache.keys, own))[:, 0]
            hidden = cache.or_first(slot, hidden)
        return self._image_logits(hidden)

    def _run(self, embedded: Float[Tensor, "b t d"], attend: Attend) -> Float[Tensor, "b t d"]:
        x = embedded.to(self.norm.weight.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, attend)
        return self.head_norm(self.norm(x))

    def _embed_text(self, text: Int[Tensor, "b text"]) -> Float[Tensor, "b t d"]:
        pads = torch.arange(text.shape[1], device=text.device) + self.config.text_vocab
        ids = torch.where(text == PAD, pads, text)
        if self.slot_0_is_text:
            ids = F.pad(ids, (1, 0), value=BEGIN)
        return self.text_embedding(ids) + self.text_position.weight[: ids.shape[1]]

    def _embed_image(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        places = self.row_embedding.weight[:, None] + self.col_embedding.weight[None, :]
        return self.image_embedding(codes) + places.flatten(0, 1)[: codes.shape[1]]

    def _text_logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        split = self.text_embedding.num_embeddings
        return logits(hidden, self.head.weight[:split], self.head.bias[:split])

    def _image_logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        split = self.text_embedding.num_embeddings
        return logits(hidden, self.head.weight[split:], self.head.bias[split:])
