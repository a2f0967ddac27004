"""A DALL·E read the other way: from a picture to its captions.

Its cache is that of drawing, turned round: the picture stands where a prompt does, once for all of
its captions, and a caption where an image of a single row does.

Source: arXiv 2110.09753 and 2105.13290, section 4.2, train one decoder both ways.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dalle.errors import InputError
from dalle.layout import StreamLayout
from dalle.models.dalle import Dalle
from dalle.nn.attention import dense_attention
from dalle.nn.cache import Cache, ImageStep
from dalle.nn.masks import Pattern, dense_mask
from dalle.nn.orders import IMAGE, TEXT
from dalle.nn.precision import logits

CAUSAL = Pattern(name="full")
"""Of the text, in every layer."""


class CaptionDecoder:
    """Captions of pictures, token by token, by a model of both orders.

    Args:
        model: a DALL·E that was trained in both orders.

    Raises:
        InputError: any other one.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, Dalle) or model.both_orders is None:
            raise InputError(
                f"this {type(model).__name__} draws pictures and writes no captions of them; take "
                "a DALL·E that was trained in both orders, as with --caption-order 0.3"
            )
        self.model = model
        self.orders = model.both_orders
        self.slots = model.layout.text - 1
        """Of a caption's tokens, its end included."""
        start = model.layout.image_start
        masks = {p: dense_mask(p, model.layout, model.device) for p in set(model.patterns)}
        self._masks = tuple(masks[p][start:, start:] for p in model.patterns)

    @property
    def start(self) -> int:
        """The id in front of every caption."""
        return self.model.start_of_text

    @property
    def end(self) -> int:
        """The entry of the logits that ends a caption."""
        return self.model.end_of_text

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def new_cache(self, *, pictures: int, samples: int) -> Cache:
        """Room for the keys and values of `pictures` pictures with `samples` captions each."""
        config, layout = self.model.config, self.model.layout
        return Cache(
            layout=StreamLayout(prefix=layout.image, text=0, rows=1, cols=self.slots),
            patterns=(CAUSAL,) * config.depth,
            prompts=pictures,
            samples=samples,
            heads=config.heads,
            head_width=config.width // config.heads,
            dtype=self.model.transformer.norm.weight.dtype,
            device=self.device,
        )

    def prefill(self, codes: Int[Tensor, "pictures image"], cache: Cache) -> None:
        """Fill the cache with the pictures, which all captions of each share."""
        embedded = self.model.embed_image(codes) + self.orders.marks[IMAGE]
        self.model.run(embedded, _ReadPicture(cache, self._masks))

    def step(
        self, ids: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: Cache
    ) -> Float[Tensor, "b text_logits"]:
        """Logits of token `slot` of each caption, given the one before it (`start` at slot 0).

        Captions are ordered picture by picture; the last logit is the end.
        """
        model = self.model
        embedded = model.text_embedding(ids) + model.text_position(slot)
        embedded = embedded + self.orders.marks[TEXT]
        hidden = model.run(embedded.unsqueeze(1), ImageStep(cache, slot))
        return logits(hidden[:, 0], model.text_head.weight, model.text_head.bias)


class _ReadPicture:
    """Attention within the pictures, whose keys and values it keeps for their captions."""

    def __init__(self, cache: Cache, masks: tuple[Tensor, ...]) -> None:
        self.cache, self.masks = cache, masks

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "prompts h t d"],
        keys: Float[Tensor, "prompts h t d"],
        values: Float[Tensor, "prompts h t d"],
    ) -> Float[Tensor, "prompts h t d"]:
        kept = self.cache.layers[layer]
        kept.text_keys.copy_(keys)
        kept.text_values.copy_(values)
        return dense_attention(queries, keys, values, self.masks[layer])
