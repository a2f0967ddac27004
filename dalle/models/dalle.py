"""DALL·E: a decoder over one stream of text and image tokens.

Source: arXiv 2102.12092, section 2.2 and appendix B.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dalle.errors import ConfigError, InputError
from dalle.layout import StreamLayout
from dalle.models.image_decoder import ImageDecoder, ImageDecoderConfig, at_least_one
from dalle.nn.cache import Cache, TextStep
from dalle.nn.orders import BothOrders
from dalle.nn.precision import logits


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleConfig(ImageDecoderConfig):
    """Sizes of a DALL·E; the defaults of the stream are the published ones."""

    text_vocab: int
    """Entries of the text tokenizer."""
    text_slots: int = 256
    """The start token, at most text_slots - 1 text tokens, and pads."""
    both_orders: bool = False
    """Whether the model also reads a picture first and then writes its caption. Not published."""

    def __post_init__(self) -> None:
        at_least_one("text_vocab", self.text_vocab)
        if self.text_slots < 2:
            raise ConfigError(
                f"text_slots is {self.text_slots}; expected at least 2: the start and one more"
            )
        ImageDecoderConfig.__post_init__(self)

    @property
    def layout(self) -> StreamLayout:
        """Text, then image."""
        return StreamLayout(text=self.text_slots, rows=self.rows, cols=self.cols)


@dataclass(frozen=True, slots=True)
class DalleOutput:
    """Logits in float32; no position computes a vocabulary that it cannot emit."""

    text: Float[Tensor, "b text_targets text_logits"]
    """Slot j, all but the last, on the token of slot j + 1; the last entry is the end."""
    image: Float[Tensor, "b image image_vocab"]
    """Image slot p on the token p."""


class Dalle(ImageDecoder):
    """The decoder: text and image tokens in, logits of the next token out.

    Text comes as `text_slots` ids (see `tokenizers.text`): the start (id V), tokens (below V), and
    from then on slot j's own pad (id V + j). Pads are learned per position and take no further
    position embedding.

    Source: arXiv 2102.12092, section 2.2, figure 10.
    """

    def __init__(self, config: DalleConfig) -> None:
        super().__init__(config)
        self.config = config
        width = config.width
        self.text_embedding = nn.Embedding(config.text_vocab + config.text_slots, width)
        self.text_position = nn.Embedding(config.text_slots, width)
        self.text_head = nn.Linear(width, config.text_vocab + 1)
        self.both_orders: BothOrders | None = None
        if config.both_orders:
            self.both_orders = BothOrders(width=width, patterns=self.patterns, layout=self.layout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        nn.init.zeros_(self.text_head.weight)
        nn.init.zeros_(self.text_head.bias)
        self.reset_image_half(self.text_embedding, self.image_embedding, self.text_position)
        if self.both_orders is not None:
            nn.init.normal_(self.both_orders.marks, std=self.first_std)

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

    def no_caption(self, texts: Int[Tensor, "p text"]) -> Int[Tensor, "p text"]:
        """The ids of no caption at all, start and pads, in the shape of `texts`."""
        ids = torch.arange(self.layout.text, device=texts.device) + self.config.text_vocab
        return ids.expand(texts.shape)

    def forward(
        self,
        text: Int[Tensor, "b text"],
        codes: Int[Tensor, "b image"],
        picture_first: Bool[Tensor, " b"] | None = None,
        *,
        text_logits: int | None = None,
    ) -> DalleOutput:
        """Logits of every next token, given all tokens before it.

        Args:
            text: ids of the text slots, 0 <= id < text_vocab + text_slots.
            codes: the picture's codes in raster order, 0 <= code < image_vocab.
            picture_first: for a model of both orders, the rows whose text is given the whole
                picture; their image logits mean nothing. None: the text is first in all rows.
            text_logits: of how many text slots, from the first on, logits are wanted; None: of all
                but the last. Nobody predicts what follows a text, and a text head is large.
        """
        if picture_first is None:
            hidden = self.run_stream(text, codes)
        else:
            hidden = self._run_both(text, codes, picture_first)
        split = self.layout.image_start
        wanted = split - 1 if text_logits is None else text_logits
        return DalleOutput(
            text=self._text_logits(hidden[:, :wanted]),
            image=self.image_logits(hidden[:, split:]),
        )

    def text_step(
        self, ids: Int[Tensor, " b"], slot: int, cache: Cache
    ) -> Float[Tensor, "b text_logits"]:
        """Logits of the text token of slot + 1, given the id in `slot`; the last one is the end."""
        embedded = self.text_embedding(ids) + self.text_position.weight[slot]
        hidden = self.run(embedded.unsqueeze(1), TextStep(cache, slot))
        return self._text_logits(hidden[:, 0])

    def embed_condition(self, condition: Int[Tensor, "b text"]) -> Float[Tensor, "b text d"]:
        """The text; the start and the tokens take a position, pads have one of their own."""
        is_pad = condition > self.config.text_vocab
        position = self.text_position.weight[: condition.shape[1]]
        return self.text_embedding(condition) + position.masked_fill(is_pad.unsqueeze(-1), 0.0)

    def _run_both(
        self,
        text: Int[Tensor, "b text"],
        codes: Int[Tensor, "b image"],
        picture_first: Bool[Tensor, " b"],
    ) -> Float[Tensor, "b stream d"]:
        if self.both_orders is None:
            raise InputError("the model reads text first only; build it with both_orders")
        inputs = torch.where(picture_first.unsqueeze(1), codes, self.shifted(codes))
        embedded = torch.cat([self.embed_condition(text), self.embed_image(inputs)], dim=1)
        embedded = embedded + self.both_orders.mark(picture_first)
        return self.run(embedded, self.both_orders.attend(picture_first))

    def _text_logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        return logits(hidden, self.text_head.weight, self.text_head.bias)
