"""Keys and values kept while decoding: one prompt's text once, and per sample no more image
slots than the layer's pattern reads."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn.attention import dense_attention
from dalle.nn.kept import KeptSlots, kept_slots
from dalle.nn.layer_cache import LayerCache, Places
from dalle.nn.masks import Pattern, may_attend


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBlock:
    """Prompts with as many samples each, whose texts are read in one product."""

    prompts: slice
    pictures: slice


class Cache:
    """The keys and values of all layers for a launch of `prompts` x `samples` pictures.

    Pictures are ordered prompt by prompt. The text of a prompt (with whatever condition stands
    before it) is kept once for all of its samples. For guidance as many pictures follow without a
    caption: `nulls` is 0 for none of them, or how many prompts they share, 1 or `prompts`.
    """

    def __init__(
        self,
        *,
        layout: StreamLayout,
        patterns: tuple[Pattern, ...],
        prompts: int,
        samples: int,
        heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
        nulls: int = 0,
    ) -> None:
        self.layout = layout
        self.patterns = patterns
        self.prompts = prompts + nulls
        captioned = prompts * samples
        self.blocks = [TextBlock(prompts=slice(prompts), pictures=slice(captioned))]
        numbers = torch.arange(captioned, device=device)
        self.prompt_of = numbers // samples
        if nulls:
            without = TextBlock(prompts=slice(prompts, None), pictures=slice(captioned, None))
            self.blocks.append(without)
            of_null = prompts + numbers * nulls // captioned
            self.prompt_of = torch.cat([self.prompt_of, of_null])
        pictures = len(self.prompt_of)
        tables = {pattern: kept_slots(pattern, layout, device) for pattern in set(patterns)}
        slots = torch.arange(layout.length, device=device)
        image, text = slots[layout.image_start :, None], slots[: layout.image_start]

        def empty(*shape: int) -> Tensor:
            return torch.zeros(*shape, head_width, dtype=dtype, device=device)

        def unless(allowed: Tensor) -> Tensor:
            zeros = torch.zeros(allowed.shape, dtype=dtype, device=device)
            return zeros.masked_fill(~allowed, float("-inf"))

        unread = {pattern: unless(table.reads) for pattern, table in tables.items()}

        def layer(pattern: Pattern, table: KeptSlots) -> LayerCache:
            of_text = self.prompts, heads, layout.image_start
            of_image = table.stretches, pictures, heads, table.kept // table.stretches
            return LayerCache(
                text_keys=empty(*of_text),
                text_values=empty(*of_text),
                image_keys=empty(*of_image),
                image_values=empty(*of_image),
                slots=table,
                unread=unread[pattern],
                unread_text=None
                if pattern.reads_all_text
                else unless(may_attend(pattern, layout, image, text)),
            )

        self.layers = [layer(pattern, tables[pattern]) for pattern in patterns]
        self.empty: Bool[Tensor, "prompts text"] | None = None
        """Slots before the image that hold nothing and that no other slot reads, for prompts
        shorter than others; None where every slot is read."""

    @property
    def bytes_per_sample(self) -> int:
        """Memory of one more sample, in bytes; the text is shared."""
        per_picture = (
            x[:, 0] for layer in self.layers for x in (layer.image_keys, layer.image_values)
        )
        return sum(x.numel() * x.element_size() for x in per_picture)


class Prefill:
    """Attention over the first slots of the stream, whose keys and values it keeps.

    The stream is one per prompt: `image_start` slots and then any number of image slots, which
    every sample of the prompt shares. What the cache held before is forgotten.
    """

    def __init__(self, cache: Cache, patterns: tuple[Pattern, ...], *, length: int) -> None:
        self.cache = cache
        for kept in cache.layers:
            # What is not read has weight 0, which makes nothing of it only if it is a number.
            kept.image_keys.zero_()
            kept.image_values.zero_()
        slots = torch.arange(length, device=cache.layers[0].unread.device)
        masks = {
            pattern: may_attend(pattern, cache.layout, slots[:, None], slots[None, :])
            for pattern in set(patterns)
        }
        self.masks = tuple(masks[pattern] for pattern in patterns)

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "prompts h t d"],
        keys: Float[Tensor, "prompts h t d"],
        values: Float[Tensor, "prompts h t d"],
    ) -> Float[Tensor, "prompts h t d"]:
        kept = self.cache.layers[layer]
        start, length = self.cache.layout.image_start, keys.shape[2]
        text = min(start, length)
        kept.text_keys[:, :, :text] = keys[:, :, :text]
        kept.text_values[:, :, :text] = values[:, :, :text]
        known = max(0, length - start)
        if known:
            slots = torch.arange(max(0, known - kept.slots.kept), known, device=keys.device)
            for store, new in ((kept.image_keys, keys), (kept.image_values, values)):
                shared = new[:, :, start + slots].index_select(0, self.cache.prompt_of)
                stretch, place = kept.split(kept.slots.place[slots])
                store[stretch, :, :, place] = shared.permute(2, 0, 1, 3)
        if self.cache.empty is None:
            return dense_attention(queries, keys, values, self.masks[layer])
        mask = without_empty(self.masks[layer], self.cache.empty)
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def without_empty(
    mask: Bool[Tensor, "t t"], empty: Bool[Tensor, "prompts text"]
) -> Bool[Tensor, "prompts 1 t t"]:
    """A mask for each prompt, in which its empty slots are read by themselves alone: a row of the
    softmax needs one key."""
    length = mask.shape[-1]
    unread = F.pad(empty, (0, length - empty.shape[1]))[:, None, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return (mask & ~unread) | itself


class ImageStep:
    """Attention of one image slot of every picture, reading and extending the cache."""

    def __init__(self, cache: Cache, slot: Int[Tensor, ""]) -> None:
        self.cache = cache
        self.slot = slot
        self._places: dict[Pattern, Places] = {}

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h 1 d"],
        keys: Float[Tensor, "b h 1 d"],
        values: Float[Tensor, "b h 1 d"],
    ) -> Float[Tensor, "b h 1 d"]:
        kept = self.cache.layers[layer]
        places = self._places_of(layer)
        kept.keep(kept.image_keys, keys, places)
        kept.keep(kept.image_values, values, places)
        local_keys = kept.stretch(kept.image_keys, places)
        local_values = kept.stretch(kept.image_values, places)

        queries = queries * queries.shape[-1] ** -0.5
        text = by_prompt(self.cache.blocks, queries, kept.text_keys.transpose(-1, -2))
        if places.unread_text is not None:
            text = text + places.unread_text
        if self.cache.empty is not None:
            empty = self.cache.empty.index_select(0, self.cache.prompt_of)
            text = text.masked_fill(empty[:, None, None], float("-inf"))
        # A row times a matrix: the other way round it takes 5 times as long on the CPU.
        local = queries @ local_keys.transpose(-1, -2) + places.unread  # b h 1 stretch
        # In 16 bits, too, the kernel adds in 32.
        weights = torch.softmax(torch.cat([text, local], dim=-1), dim=-1)
        num_text = text.shape[-1]
        from_text = by_prompt(self.cache.blocks, weights[..., :num_text], kept.text_values)
        return from_text + weights[..., num_text:] @ local_values

    def _places_of(self, layer: int) -> Places:
        pattern = self.cache.patterns[layer]
        if pattern not in self._places:
            self._places[pattern] = self.cache.layers[layer].at(self.slot)
        return self._places[pattern]


def by_prompt(
    blocks: list[TextBlock],
    rows: Float[Tensor, "b h w i"],
    of_prompts: Float[Tensor, "prompts h i j"],
) -> Float[Tensor, "b h w j"]:
    """Each picture's rows times its prompt's matrices: one product for all of its samples."""
    products = []
    for block in blocks:
        matrices = of_prompts[block.prompts]
        # b h w i -> p h (s w) i
        grouped = rows[block.pictures].unflatten(0, (len(matrices), -1)).transpose(1, 2)
        product = grouped.flatten(2, 3) @ matrices
        back = product.unflatten(2, (-1, rows.shape[2])).transpose(1, 2)
        products.append(back.flatten(0, 1))
    return products[0] if len(products) == 1 else torch.cat(products)


class TextStep:
    """Attention of one text slot of every prompt (one sample each), extending the cache."""

    def __init__(self, cache: Cache, slot: int) -> None:
        self.cache = cache
        self.slot = slot

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h 1 d"],
        keys: Float[Tensor, "b h 1 d"],
        values: Float[Tensor, "b h 1 d"],
    ) -> Float[Tensor, "b h 1 d"]:
        kept = self.cache.layers[layer]
        kept.text_keys[:, :, self.slot] = keys[:, :, 0]
        kept.text_values[:, :, self.slot] = values[:, :, 0]
        upto = self.slot + 1
        slots = torch.arange(upto, device=keys.device)
        reads = may_attend(self.cache.patterns[layer], self.cache.layout, slots[-1:, None], slots)
        return dense_attention(
            queries, kept.text_keys[:, :, :upto], kept.text_values[:, :, :upto], reads
        )
