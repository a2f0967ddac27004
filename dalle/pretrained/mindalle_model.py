"""minDALL-E: a decoder over 64 text tokens and 16 x 16 image tokens, every layer dense.

The blocks are ours but for the activation, an exact GELU. Tokens have one position table for text
and one for the image, both along the stream; a text is filled up with one and the same pad, which
is read like any token. There is no start: image slot p holds token p, and the last text slot
predicts token 0.

Source: kakaobrain/minDALL-E (code Apache-2.0, weights of the transformer CC-BY-NC-SA 4.0).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.models.dalle import DalleOutput
from dalle.nn.attention import Attend, WholeStream
from dalle.nn.cache import Cache, ImageStep, Prefill
from dalle.nn.first_slot import FirstSlotCache, own_slot
from dalle.nn.masks import Pattern
from dalle.nn.precision import logits
from dalle.nn.transformer import Transformer


@dataclass(frozen=True, kw_only=True, slots=True)
class MindalleConfig:
    """Sizes of a minDALL-E; the defaults are the published ones."""

    text_vocab: int = 16384
    image_vocab: int = 16384
    text_slots: int = 64
    side: int = 16
    """Rows and columns of the grid."""
    depth: int = 42
    width: int = 1536
    heads: int = 24
    pad: int = 0
    """The text id that fills slots without a token."""

    def __post_init__(self) -> None:
        for name in ("text_vocab", "image_vocab", "text_slots", "depth", "width", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")
        if not 0 <= self.pad < self.text_vocab:
            raise ConfigError(f"pad is {self.pad}; expected one of {self.text_vocab} text ids")
        _ = self.layout

    @property
    def layout(self) -> StreamLayout:
        """Text, then image."""
        return StreamLayout(text=self.text_slots, rows=self.side, cols=self.side)


class Mindalle(nn.Module):
    """The decoder: text and image tokens in, logits of the next token out.

    Text comes as `text_slots` ids: tokens, and the pad in each slot that is left.
    """

    def __init__(self, config: MindalleConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.patterns = (Pattern(name="full"),) * config.depth
        self.image_vocab = config.image_vocab
        self.text_vocab = config.text_vocab
        width = config.width
        self.text_embedding = nn.Embedding(config.text_vocab, width)
        self.text_position = nn.Embedding(config.text_slots, width)
        self.image_embedding = nn.Embedding(config.image_vocab, width)
        self.image_position = nn.Embedding(config.side**2, width)
        self.transformer = Transformer(
            depth=config.depth, width=width, heads=config.heads, activation=nn.GELU
        )
        self.text_head = nn.Linear(width, config.text_vocab, bias=False)
        self.image_head = nn.Linear(width, config.image_vocab, bias=False)
        self._whole_stream: WholeStream | None = None

    @property
    def start_of_image(self) -> int:
        """Any code: slot 0 is predicted by the end of the text."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.image_head.weight.device

    def no_caption(self, texts: Int[Tensor, "p text"]) -> Int[Tensor, "p text"]:
        """Nothing but pads, in the shape of `texts`."""
        return torch.full_like(texts, self.config.pad)

    def forward(self, text: Int[Tensor, "b text"], codes: Int[Tensor, "b image"]) -> DalleOutput:
        """Logits of every next token: of all codes, and of all text tokens but the first.

        Args:
            text: ids of the text slots, 0 <= id < text_vocab.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
        """
        if self._whole_stream is None or self._whole_stream.device != text.device:
            self._whole_stream = WholeStream(self.patterns, self.layout, text.device)
        embedded = torch.cat([self._embed_text(text), self._embed_image(codes)], dim=1)
        hidden = self._run(embedded, self._whole_stream)
        first = self.layout.image_start - 1
        return DalleOutput(
            text=logits(hidden[:, :first], self.text_head.weight, None),
            image=logits(hidden[:, first:-1], self.image_head.weight, None),
        )

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
            dtype=self.transformer.norm.weight.dtype,
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
        hidden = self._run(embedded, Prefill(cache.keys, self.patterns, length=embedded.shape[1]))
        cache.first.copy_(hidden[:, self.layout.image_start - 1])

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: FirstSlotCache
    ) -> Float[Tensor, "b image_vocab"]:
        """Logits of token `slot`, given the token before it (any code at slot 0)."""
        own = own_slot(slot)
        embedded = (self.image_embedding(codes) + self.image_position(own)).unsqueeze(1)
        hidden = self._run(embedded, ImageStep(cache.keys, own))[:, 0]
        return logits(cache.or_first(slot, hidden), self.image_head.weight, None)

    def _run(self, embedded: Float[Tensor, "b t d"], attend: Attend) -> Float[Tensor, "b t d"]:
        return self.transformer(embedded.to(self.transformer.norm.weight.dtype), attend)

    def _embed_text(self, text: Int[Tensor, "b text"]) -> Float[Tensor, "b text d"]:
        return self.text_embedding(text) + self.text_position.weight

    def _embed_image(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        return self.image_embedding(codes) + self.image_position.weight[: codes.shape[1]]
