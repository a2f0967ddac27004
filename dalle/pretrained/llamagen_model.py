"""LlamaGen: a decoder of image tokens behind a condition, a caption's features or a class.

The layers are LLaMA's: RMS norms, gated MLPs, no bias, rotation of queries and keys. Rotation is by
the row and column of a token; the condition is rotated by a table of zeros, as published, so its
queries and keys are all 0 and it is read evenly. There is no start: image slot p holds token p, and
the last slot of the condition predicts token 0.

Source: FoundationVision/LlamaGen (MIT); arXiv 2406.06525.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.attention import Attend
from dalle.nn.cache import Cache, ImageStep, Prefill, without_empty
from dalle.nn.first_slot import FirstSlotCache, own_slot
from dalle.nn.linear import Linear
from dalle.nn.masks import Pattern, dense_mask
from dalle.nn.precision import logits
from dalle.pretrained.llamagen_layers import NORM_EPSILON, RotaryBlock, Rotation, rotation_table


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamagenConfig:
    """Sizes of a LlamaGen."""

    condition: Literal["class", "features"]
    condition_size: int
    """How many classes there are; or how many features a token of a caption has."""
    condition_slots: int = 1
    image_vocab: int = 16384
    side: int
    """Rows and columns of the grid."""
    depth: int
    width: int
    heads: int
    mlp_width: int

    def __post_init__(self) -> None:
        if self.condition not in ("class", "features"):
            raise ConfigError(f"condition is {self.condition!r}; expected 'class' or 'features'")
        if self.condition == "class" and self.condition_slots != 1:
            raise ConfigError(f"a class has 1 slot; condition_slots is {self.condition_slots}")
        sizes = ("condition_size", "condition_slots", "image_vocab", "depth", "width", "heads")
        for name in (*sizes, "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.width % (4 * self.heads):
            raise ConfigError(
                f"width {self.width} with {self.heads} heads; expected a multiple of 4 for each "
                "head, as pairs of channels turn by rows and by columns"
            )
        _ = self.layout

    @property
    def layout(self) -> StreamLayout:
        """Condition, then image; no text."""
        return StreamLayout(prefix=self.condition_slots, text=0, rows=self.side, cols=self.side)


class Llamagen(nn.Module):
    """The decoder: a condition and image tokens in, logits of the next image token out.

    A condition is for each prompt one id of a class, 0 <= id <= condition_size, of which the last
    means none; or `condition_slots` rows of `condition_size` features, in which a row of zeros is
    a slot without a token, which nothing reads. Shorter captions stand at the end.
    """

    def __init__(self, config: LlamagenConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.patterns = (Pattern(name="full"),) * config.depth
        self.image_vocab = config.image_vocab
        self.text_vocab = config.condition_size
        width, size = config.width, config.condition_size
        if config.condition == "class":
            self.class_embedding = nn.Embedding(size + 1, width)
        else:
            self.no_features = nn.Parameter(torch.zeros(config.condition_slots, size))
            self.features_in = Linear(size, width, bias=False)
            self.features_out = Linear(width, width, bias=False)
        self.image_embedding = nn.Embedding(config.image_vocab, width)
        self.blocks = nn.ModuleList(
            RotaryBlock(width=width, heads=config.heads, mlp_width=config.mlp_width)
            for _ in range(config.depth)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPSILON)
        self.image_head = nn.Linear(width, config.image_vocab, bias=False)
        self._rotation: Rotation | None = None

    @property
    def start_of_image(self) -> int:
        """Any code: slot 0 is predicted by the end of the condition."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.image_head.weight.device

    def no_caption(self, texts: Shaped[Tensor, "p *slots"]) -> Shaped[Tensor, "p *slots"]:
        """The class that means none; or, in as many slots as hold a token, the learned features of
        no caption, which is what the original's guidance holds captions against."""
        if self.config.condition == "class":
            return torch.full_like(texts, self.config.condition_size)
        return self.no_features.to(texts.dtype) * ~_empty(texts).unsqueeze(-1)

    def forward(
        self, texts: Shaped[Tensor, "b *slots"], codes: Int[Tensor, "b image"]
    ) -> Float[Tensor, "b image image_vocab"]:
        """Logits of every code, given all before it.

        Args:
            texts: the conditions.
            codes: the pictures' codes in raster order, 0 <= code < image_vocab.
        """
        mask = dense_mask(self.patterns[0], self.layout, codes.device)
        if self.config.condition == "features":
            mask = without_empty(mask, _empty(texts))

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor:
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)

        embedded = torch.cat([self._embed(texts), self.image_embedding(codes)], dim=1)
        hidden = self._run(embedded, self._rotations(), attend)
        return self._logits(hidden[:, self.layout.image_start - 1 : -1])

    # Decoding: one prefill for each prompt, then one position at a time.

    def new_cache(self, *, prompts: int, samples: int, nulls: int = 0) -> FirstSlotCache:
        """Room for the keys and values of `prompts` conditions with `samples` pictures each, and
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
        if self.config.condition == "features":
            shape = (keys.prompts, self.layout.prefix)
            keys.empty = torch.zeros(shape, dtype=torch.bool, device=self.device)
        return FirstSlotCache.empty(keys, width=self.config.width)

    def prefill(
        self,
        text: Shaped[Tensor, "prompts *slots"],
        codes: Int[Tensor, "prompts known"],
        cache: FirstSlotCache,
    ) -> None:
        """Fill the cache with condition and first codes, as `models.dalle.Dalle.prefill`."""
        if cache.keys.empty is not None:
            cache.keys.empty.copy_(_empty(text))
        embedded = torch.cat([self._embed(text), self.image_embedding(codes[:, :-1])], dim=1)
        length = embedded.shape[1]
        attend = Prefill(cache.keys, self.patterns, length=length)
        hidden = self._run(embedded, self._rotations()[:length], attend)
        cache.first.copy_(hidden[:, self.layout.image_start - 1])

    def step(
        self, codes: Int[Tensor, " b"], slot: Int[Tensor, ""], cache: FirstSlotCache
    ) -> Float[Tensor, "b image_vocab"]:
        """Logits of token `slot`, given the token before it (any code at slot 0)."""
        own = own_slot(slot)
        place = (own + self.layout.image_start).reshape(1)
        rotation = self._rotations().index_select(0, place)
        embedded = self.image_embedding(codes).unsqueeze(1)
        hidden = self._run(embedded, rotation, ImageStep(cache.keys, own))[:, 0]
        return self._logits(cache.or_first(slot, hidden))

    def _run(
        self, embedded: Float[Tensor, "b t d"], rotation: Rotation, attend: Attend
    ) -> Float[Tensor, "b t d"]:
        x = embedded
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, layer, attend)
        return self.norm(x)

    def _rotations(self) -> Rotation:
        # No buffer: it stays in 32 bits whatever the weights are in.
        if self._rotation is None or self._rotation.device != self.device:
            table = rotation_table(self.layout, self.config.width // self.config.heads)
            self._rotation = table.to(self.device)
        return self._rotation

    def _embed(self, texts: Shaped[Tensor, "p *slots"]) -> Float[Tensor, "p prefix d"]:
        if self.config.condition == "class":
            return self.class_embedding(texts)
        features = texts.to(self.features_in.weight.dtype)
        return self.features_out(F.gelu(self.features_in(features), approximate="tanh"))

    def _logits(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        return logits(hidden, self.image_head.weight, None)


def _empty(features: Float[Tensor, "p slots size"]) -> Bool[Tensor, "p slots"]:
    """Slots without a token: all their features are 0, which no encoder's output is."""
    return (features == 0).all(dim=-1)
