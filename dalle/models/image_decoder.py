"""What our decoders share: image tokens in raster order, behind whatever stands before them."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.ahead import EVERY_SLOT, SlotsAhead
from dalle.nn.attention import Attend, WholeStream
from dalle.nn.cache import Cache, ImageStep, Prefill
from dalle.nn.masks import Pattern, PatternName, published_patterns
from dalle.nn.precision import logits
from dalle.nn.transformer import INIT_GAIN, Transformer


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDecoderConfig:
    """Sizes of the transformer and of the image; what stands before it is added by each model."""

    image_vocab: int
    """Codes of the image tokenizer."""
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
        for name in ("image_vocab", "depth", "width", "heads"):
            at_least_one(name, getattr(self, name))
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
    @abstractmethod
    def layout(self) -> StreamLayout:
        """What stands before the image, then the image."""

    @property
    def layer_patterns(self) -> tuple[Pattern, ...]:
        """The pattern of each layer."""
        names = published_patterns(self.depth) if self.patterns == "published" else self.patterns
        return tuple(
            Pattern(name=name, kernel=self.conv_kernel if name == "conv" else 0) for name in names
        )

    @property
    def first_std(self) -> float:
        """The deviation with which embeddings start."""
        return self.embedding_std or self.init_gain / math.sqrt(self.width)


def at_least_one(name: str, value: int) -> None:
    """Refuse a size of a model below 1."""
    if value < 1:
        raise ConfigError(f"{name} is {value}; expected at least 1")


class ImageDecoder(nn.Module):
    """The image's embeddings and head around a transformer, for the whole stream and by steps.

    An image slot p holds the token p - 1 (slot 0: the start of the image) with the row and column
    of p, the token to be predicted. A model adds what embeds its condition.

    Source: arXiv 2102.12092, section 2.2, figure 10.
    """

    def __init__(self, config: ImageDecoderConfig) -> None:
        super().__init__()
        self.layout = config.layout
        self.image_vocab = config.image_vocab
        self.patterns = config.layer_patterns
        self.heads = config.heads
        self.first_std = config.first_std
        self.image_embedding = nn.Embedding(config.image_vocab + 1, config.width)
        self.row_embedding = nn.Embedding(config.rows, config.width)
        self.col_embedding = nn.Embedding(config.cols, config.width)
        self.transformer = Transformer(
            depth=config.depth,
            width=config.width,
            heads=config.heads,
            dropout=config.dropout,
            init_gain=config.init_gain,
        )
        self.image_head = nn.Linear(config.width, config.image_vocab)
        self.by_blocks: frozenset[Pattern] = frozenset()
        """Patterns that run by blocks over a whole stream, see `run_by_blocks`."""
        self._whole_stream: WholeStream | None = None

    def reset_image_half(self, *embeddings: nn.Embedding) -> None:
        """Draw new weights: these embeddings N(0, 0.125 / sqrt(width)) as published, in this order,
        by which a seed gives the same model; then rows and columns, which are added, with
        1 / sqrt(2) of it each; output matrices 0.

        Source: arXiv 1904.10509, section 6.
        """
        std = self.first_std
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=std)
        for table in (self.row_embedding, self.col_embedding):
            nn.init.normal_(table.weight, std=std / math.sqrt(2))
        nn.init.zeros_(self.image_head.weight)
        nn.init.zeros_(self.image_head.bias)
        self.transformer.reset_parameters()

    def run_by_blocks(self, patterns: frozenset[Pattern]) -> None:
        """Let layers of these patterns run by blocks over a whole stream, where the device has
        kernels for it, and all others as they do."""
        self.by_blocks, self._whole_stream = patterns, None

    @property
    def start_of_image(self) -> int:
        """The code that stands for the start of the image in slot 0."""
        return self.image_vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.image_head.weight.device

    @property
    @abstractmethod
    def text_vocab(self) -> int:
        """The `vocab_size` of what turns prompts into conditions."""

    @abstractmethod
    def no_caption(self, texts: Shaped[Tensor, "p *slots"]) -> Shaped[Tensor, "p *slots"]:
        """No condition at all, in the shape of `texts`."""

    @abstractmethod
    def embed_condition(self, condition: Shaped[Tensor, "b *slots"]) -> Float[Tensor, "b c d"]:
        """What stands before the image, as the transformer reads it."""

    def run_stream(
        self, condition: Shaped[Tensor, "b *slots"], codes: Int[Tensor, "b image"]
    ) -> Float[Tensor, "b stream d"]:
        """What the transformer makes of the whole stream."""
        embedded = [self.embed_condition(condition), self.embed_image(self.shifted(codes))]
        return self.run(torch.cat(embedded, dim=1), self._over_everything(codes.device))

    def image_logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b image_vocab"]:
        """Of the next code, in float32."""
        return logits(hidden, self.image_head.weight, self.image_head.bias)

    # Decoding: one prefill for each prompt, then one position at a time.

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> Cache:
        """Room for the keys and values of `prompts` conditions with `samples` pictures each, and
        for as many pictures again without a caption, which share `nulls` ones."""
        return self._cache(self.patterns, prompts=prompts, samples=samples, nulls=nulls)

    def new_cache_of_all_slots(self, *, prompts: int, samples: int, nulls: int = 0) -> Cache:
        """The same for `step_ahead`, with room for every image slot in all layers."""
        patterns = (EVERY_SLOT,) * len(self.patterns)
        return self._cache(patterns, prompts=prompts, samples=samples, nulls=nulls)

    def _cache(
        self, patterns: tuple[Pattern, ...], *, prompts: int, samples: int, nulls: int
    ) -> Cache:
        return Cache(
            layout=self.layout,
            patterns=patterns,
            prompts=prompts,
            samples=samples,
            nulls=nulls,
            heads=self.heads,
            head_width=self.image_embedding.embedding_dim // self.heads,
            dtype=self.transformer.norm.weight.dtype,
            device=self.device,
        )

    def prefill(
        self,
        text: Shaped[Tensor, "prompts *slots"],
        codes: Int[Tensor, "prompts known"],
        cache: Cache,
    ) -> None:
        """Fill the cache with the condition and with image slots 0 ... known - 1.

        `codes` are the first tokens of the picture, which all samples of a prompt share (there
        may be none): image slot p < known holds token p - 1. The next step is at slot `known`.
        """
        embedded = self.embed_condition(text)
        if codes.shape[1]:
            embedded = torch.cat([embedded, self.embed_image(self.shifted(codes))], dim=1)
        self.run(embedded, Prefill(cache, self.patterns, length=embedded.shape[1]))

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
        hidden = self.run(embedded, ImageStep(cache, slot))
        return self.image_logits(hidden[:, 0])

    def step_ahead(
        self, codes: Int[Tensor, "b w"], slots: Int[Tensor, "b w"], cache: Cache
    ) -> Float[Tensor, "b w image_vocab"]:
        """Logits of the tokens at consecutive slots of each picture, given the ones before them.

        Those of a slot are what `step` gives, if all codes before it are what they will be in the
        end. `cache` is one of all slots.
        """
        row, col = slots // self.layout.cols, slots % self.layout.cols
        places = self.row_embedding(row) + self.col_embedding(col)
        hidden = self.run(
            self.image_embedding(codes) + places, SlotsAhead(cache, self.patterns, slots)
        )
        return self.image_logits(hidden)

    def run(self, embedded: Float[Tensor, "b t d"], attend: Attend) -> Float[Tensor, "b t d"]:
        """The transformer over some slots, in the precision of its weights."""
        return self.transformer(embedded.to(self.transformer.norm.weight.dtype), attend)

    def shifted(self, codes: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """What image slots 0 ... t - 1 hold: the start of the image, and all codes but the last."""
        start = codes.new_full((codes.shape[0], 1), self.start_of_image)
        return torch.cat([start, codes[:, :-1]], dim=1)

    def embed_image(self, inputs: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """The tokens that image slots 0 ... t - 1 hold, with the slots' rows and columns."""
        places = self.row_embedding.weight[:, None] + self.col_embedding.weight[None, :]
        return self.image_embedding(inputs) + places.flatten(0, 1)[: inputs.shape[1]]

    def _over_everything(self, device: torch.device) -> WholeStream:
        if self._whole_stream is None or self._whole_stream.device != device:
            self._whole_stream = WholeStream(
                self.patterns, self.layout, device, by_blocks=self.by_blocks
            )
        return self._whole_stream
