"""DALL·E: a decoder over one stream of text and image tokens.

Source: arXiv 2102.12092, section 2.2 and appendix B.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.attention import Attend, WholeStream
from dalle.nn.cache import Cache, ImageStep, Prefill, TextStep
from dalle.nn.masks import Pattern, PatternName, published_patterns
from dalle.nn.precision import logits
from dalle.nn.transformer import INIT_GAIN, Transformer


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleConfig:
    """Sizes of a DALL·E; the defaults of the stream are the published ones."""

    text_vocab: int
    """Entries of the text tokenizer."""
    image_vocab: int
    """Codes of the image tokenizer."""
    text_slots: int = 256
    """The start token, at most text_slots - 1 text tokens, and pads."""
    rows: int = 32
    cols: int = 32
    depth: int
    width: int
    heads: int
    patterns: Literal["published"] | tuple[PatternName, ...] = "published"
    """The published order, or one pattern for each layer."""
    conv_kernel: int = 11
    dropout: float = 0.0
    """At the end of each residual branch."""
    init_gain: float = INIT_GAIN
    """Weights start with a deviation of init_gain / sqrt(inputs). The published 0.125 suits long
    runs; a run of a few thousand steps learns much sooner from 0.5."""
    embedding_std: float | None = None
    """Deviation with which embeddings start; None is the published init_gain / sqrt(width). For
    short runs take about 0.4: what stands where is then not lost among the first, random outputs
    of the blocks, and attributes are bound to their things in a third of the steps."""

    def __post_init__(self) -> None:
        for name in ("text_vocab", "image_vocab", "depth", "width", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.text_slots < 2:
            raise ConfigError(
                f"text_slots is {self.text_slots}; expected at least 2: the start and one more"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} does not divide into {self.heads} heads; "
                f"take a multiple of {self.heads}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; expected 0 <= dropout < 1")
        for name in ("init_gain", "embedding_std"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ConfigError(f"{name} is {value}; expected a number above 0")
        if self.patterns != "published" and len(self.patterns) != self.depth:
            raise ConfigError(
                f"patterns names {len(self.patterns)} layers, the depth is {self.depth}; "
                "name one pattern for each layer, or 'published'"
            )
        _ = self.layout, self.layer_patterns

    @property
    def layout(self) -> StreamLayout:
        """Text, then image."""
        return StreamLayout(text=self.text_slots, rows=self.rows, cols=self.cols)

    @property
    def layer_patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each layer."""
        names = published_patterns(self.depth) if self.patterns == "published" else self.patterns
        return tuple(
            Pattern(name=name, kernel=self.conv_kernel if name == "conv" else 0) for name in names
        )


@dataclass(frozen=True, slots=True)
class DalleOutput:
    """Logits in float32; no position computes a vocabulary that it cannot emit."""

    text: Float[Tensor, "b text_targets text_logits"]
    """Slot j, all but the last, on the token of slot j + 1; the last entry is the end."""
    image: Float[Tensor, "b image image_vocab"]
    """Image slot p on the token p."""


class Dalle(nn.Module):
    """The decoder: text and image tokens in, logits of the next token out.

    Text comes as `text_slots` ids (see `tokenizers.text`): the start (id V), tokens (below V), and
    from then on slot j's own pad (id V + j). Pads are learned per position and take no further
    position embedding. An image slot p holds the token p - 1 (slot 0: the start of the image)
    with the row and column of p, the token to be predicted.

    Source: arXiv 2102.12092, section 2.2, figure 10.
    """

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.image_vocab = config.image_vocab
        self.patterns = config.layer_patterns
        width = config.width
        self.text_embedding = nn.Embedding(config.text_vocab + config.text_slots, width)
        self.text_position = nn.Embedding(config.text_slots, width)
        self.image_embedding = nn.Embedding(config.image_vocab + 1, width)
        self.row_embedding = nn.Embedding(config.rows, width)
        self.col_embedding = nn.Embedding(config.cols, width)
        self.transformer = Transformer(
            depth=config.depth,
            width=width,
            heads=config.heads,
            dropout=config.dropout,
            init_gain=config.init_gain,
        )
        self.text_head = nn.Linear(width, config.text_vocab + 1)
        self.image_head = nn.Linear(width, config.image_vocab)
        self.by_blocks: frozenset[Pattern] = frozenset()
        """Patterns that run by blocks over a whole stream, see `run_by_blocks`."""
        self._whole_stream: WholeStream | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: embeddings N(0, 0.125 / sqrt(width)) as published, rows and columns,
        which are added, with 1 / sqrt(2) of it each; output matrices 0.

        Source: arXiv 1904.10509, section 6.
        """
        published = self.config.init_gain / math.sqrt(self.config.width)
        std = self.config.embedding_std or published
        nn.init.normal_(self.text_embedding.weight, std=std)
        nn.init.normal_(self.image_embedding.weight, std=std)
        nn.init.normal_(self.text_position.weight, std=std)
        for table in (self.row_embedding, self.col_embedding):
            nn.init.normal_(table.weight, std=std / math.sqrt(2))
        for head in (self.text_head, self.image_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.transformer.reset_parameters()

    def run_by_blocks(self, patterns: frozenset[Pattern]) -> None:
        """Let layers of these patterns run by blocks over a whole stream, where the device has
        kernels for it, and all others as they do."""
        self.by_blocks, self._whole_stream = patterns, None

    @property
    def start_of_image(self) -> int:
        """The code that stands for the start of the image in slot 0."""
        return self.config.image_vocab

    @property
    def text_vocab(self) -> int:
        """Entries of the text tokenizer."""
        return self.config.text_vocab

    @property
    def start_of_text(self) -> int:
        """The id in text slot 0."""
        return self.config.text_vocab

    @property
    def end_of_text(self) -> int:
        """The entry of the text logits that ends a text: the first pad as a target."""
        return self.config.text_vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.image_head.weight.device

    def no_caption(self, texts: Int[Tensor, "p text"]) -> Int[Tensor, "p text"]:
        """The ids of no caption at all, start and pads, in the shape of `texts`."""
        ids = torch.arange(self.layout.text, device=texts.device) + self.config.text_vocab
        return ids.expand(texts.shape)

    def forward(self, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]) -> DalleOutput:
        """Logits of every next token, given all tokens before it.

        Args:
            text: ids of the text slots, 0 <= id < text_vocab + text_slots.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
        """
        start = codes.new_full((codes.shape[0], 1), self.start_of_image)
        inputs = torch.cat([start, codes[:, :-1]], dim=1)
        hidden = self._run(
            torch.cat([self._embed_text(text), self._embed_image(inputs)], dim=1),
            self._over_everything(text.device),
        )
        split = self.layout.image_start
        return DalleOutput(
            text=_logits(self.text_head, hidden[:, : split - 1]),
            image=_logits(self.image_head, hidden[:, split:]),
        )

    # Decoding: one prefill for each prompt, then one position at a time.

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> Cache:
        """Room for the keys and values of `prompts` texts with `samples` pictures each, and
        for as many pictures again without a caption, which share `nulls` ones."""
        return Cache(
            layout=self.layout,
            patterns=self.patterns,
            prompts=prompts,
            samples=samples,
            nulls=nulls,
            heads=self.config.heads,
            head_width=self.config.width // self.config.heads,
            dtype=self.transformer.norm.weight.dtype,
            device=self.device,
        )

    def prefill(
        self, text: Int[Tensor, "prompts text"], codes: Int[Tensor, "prompts known"], cache: Cache
    ) -> None:
        """Fill the cache with the text and with image slots 0 ... known - 1.

        `codes` are the first tokens of the picture, which all samples of a prompt share (there
        may be none): image slot p < known holds token p - 1. The next step is at slot `known`.
        """
        embedded = self._embed_text(text)
        if codes.shape[1]:
            start = codes.new_full((codes.shape[0], 1), self.start_of_image)
            inputs = torch.cat([start, codes[:, :-1]], dim=1)
            embedded = torch.cat([embedded, self._embed_image(inputs)], dim=1)
        self._run(embedded, Prefill(cache, self.patterns, length=embedded.shape[1]))

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: Cache
    ) -> Float[Tensor, "b image_vocab"]:
        """Logits of token `slot`, given the token before it (`start_of_image` at slot 0).

        Pictures are ordered prompt by prompt. `slot` is a tensor on the device, so that a step
        has one shape and can be captured once.
        """
        row = self.row_embedding(slot // self.layout.cols)
        col = self.col_embedding(slot % self.layout.cols)
        embedded = (self.image_embedding(codes) + (row + col)).unsqueeze(1)
        hidden = self._run(embedded, ImageStep(cache, slot))
        return _logits(self.image_head, hidden[:, 0])

    def text_step(
        self, ids: Int[Tensor, " b"], slot: int, cache: Cache
    ) -> Float[Tensor, "b text_logits"]:
        """Logits of the text token of slot + 1, given the id in `slot`; the last one is the end."""
        embedded = self.text_embedding(ids) + self.text_position.weight[slot]
        hidden = self._run(embedded.unsqueeze(1), TextStep(cache, slot))
        return _logits(self.text_head, hidden[:, 0])

    def _run(self, embedded: Float[Tensor, "b t d"], attend: Attend) -> Float[Tensor, "b t d"]:
        return self.transformer(embedded.to(self.transformer.norm.weight.dtype), attend)

    def _embed_text(self, text: Int[Tensor, "b text"]) -> Float[Tensor, "b text d"]:
        # The start and the tokens take a position; pads have one of their own.
        is_pad = text > self.config.text_vocab
        position = self.text_position.weight[: text.shape[1]]
        return self.text_embedding(text) + position.masked_fill(is_pad.unsqueeze(-1), 0.0)

    def _embed_image(self, inputs: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        places = self.row_embedding.weight[:, None] + self.col_embedding.weight[None, :]
        return self.image_embedding(inputs) + places.flatten(0, 1)[: inputs.shape[1]]

    def _over_everything(self, device: torch.device) -> WholeStream:
        if self._whole_stream is None or self._whole_stream.device != device:
            self._whole_stream = WholeStream(
                self.patterns, self.layout, device, by_blocks=self.by_blocks
            )
        return self._whole_stream


def _logits(head: nn.Linear, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
    return logits(hidden, head.weight, head.bias)
