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
from dalle.nn.masks import Pattern, may_attend


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """One layer's keys and values, filled in place."""

    text_keys: Float[Tensor, "prompts h text d"]
    text_values: Float[Tensor, "prompts h text d"]
    image_keys: Float[Tensor, "pictures h kept d"]
    image_values: Float[Tensor, "pictures h kept d"]
    slots: KeptSlots
    """Where each image slot is kept."""
    unread: Float[Tensor, "image stretch"]
    """Added to the scores: 0 where a place is read, minus infinity where it is not."""
    unread_text: Float[Tensor, "image text"] | None
    """Likewise for the text, where the pattern does not read all of it."""

    # On the CPU it costs nothing to look at a slot's number, and what an index is a tensor for
    # costs a copy or a slow loop.

    def keep(
        self,
        kept: Float[Tensor, "pictures h kept d"],
        new: Float[Tensor, "pictures h 1 d"],
        slot: Int[Tensor, ""],
    ) -> None:
        """Write what belongs to image slot `slot` to its place in `kept`."""
        place = self.slots.place.index_select(0, slot.reshape(1))
        if kept.device.type == "cpu":
            kept.select(2, int(place)).copy_(new.squeeze(2))
        else:
            kept.index_copy_(2, place, new)

    def stretch(
        self, kept: Float[Tensor, "pictures h kept d"], slot: Int[Tensor, ""]
    ) -> Float[Tensor, "pictures h stretch d"]:
        """What image slot `slot` reads of `kept`, together with what it does not."""
        if self.slots.listed is not None:
            return kept.index_select(2, self.slots.listed.index_select(0, slot.reshape(1))[0])
        if self.slots.stretch == self.slots.kept:
            return kept
        stretches = kept.unflatten(2, (-1, self.slots.stretch))
        if kept.device.type == "cpu":
            return stretches[:, :, int(self.slots.stretch_of[slot])]
        one = self.slots.stretch_of.index_select(0, slot.reshape(1))
        return stretches.index_select(2, one).squeeze(2)


class Cache:
    """The keys and values of all layers for a launch of `prompts` x `samples` pictures.

    Pictures are ordered prompt by prompt. The text of a prompt (with whatever condition stands
    before it) is kept once for all of its samples.
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
    ) -> None:
        self.layout = layout
        self.patterns = patterns
        self.prompts = prompts
        self.samples = samples
        tables = {pattern: kept_slots(pattern, layout, device) for pattern in set(patterns)}
        slots = torch.arange(layout.length, device=device)
        image, text = slots[layout.image_start :, None], slots[: layout.image_start]

        def empty(count: int, slots: int) -> Tensor:
            return torch.zeros(count, heads, slots, head_width, dtype=dtype, device=device)

        def unless(allowed: Tensor) -> Tensor:
            zeros = torch.zeros(allowed.shape, dtype=dtype, device=device)
            return zeros.masked_fill(~allowed, float("-inf"))

        def layer(pattern: Pattern, table: KeptSlots) -> LayerCache:
            pictures, kept = prompts * samples, table.kept
            return LayerCache(
                text_keys=empty(prompts, layout.image_start),
                text_values=empty(prompts, layout.image_start),
                image_keys=empty(pictures, kept),
                image_values=empty(pictures, kept),
                slots=table,
                unread=unless(table.reads),
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
            x[0] for layer in self.layers for x in (layer.image_keys, layer.image_values)
        )
        return sum(x.numel() * x.element_size() for x in per_picture)


class Prefill:
    """Attention over the first slots of the stream, whose keys and values it keeps.

    The stream is one per prompt: `image_start` slots and then any number of image slots, which
    every sample of the prompt shares.
    """

    def __init__(self, cache: Cache, patterns: tuple[Pattern, ...], *, length: int) -> None:
        self.cache = cache
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
                shared = new[:, :, start + slots].repeat_interleave(self.cache.samples, dim=0)
                store[:, :, kept.slots.place[slots]] = shared
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

    def __call__(
        self,
        layer: int,
        queries: Float[Tensor, "b h 1 d"],
        keys: Float[Tensor, "b h 1 d"],
        values: Float[Tensor, "b h 1 d"],
    ) -> Float[Tensor, "b h 1 d"]:
        kept = self.cache.layers[layer]
        # Slots stay tensors: no value goes to the host, so that a step can be captured once.
        kept.keep(kept.image_keys, keys, self.slot)
        kept.keep(kept.image_values, values, self.slot)
        local_keys = kept.stretch(kept.image_keys, self.slot)
        local_values = kept.stretch(kept.image_values, self.slot)
        unread = kept.unread.index_select(0, self.slot.reshape(1))

        queries = queries * queries.shape[-1] ** -0.5
        # b h 1 d -> p h s d: the samples of a prompt read its text in one product.
        by_prompt = queries.squeeze(2).unflatten(0, (self.cache.prompts, -1)).transpose(1, 2)
        text = by_prompt @ kept.text_keys.transpose(-1, -2)  # p h s text
        text = text.transpose(1, 2).flatten(0, 1)  # b h text
        if kept.unread_text is not None:
            text = text + kept.unread_text.index_select(0, self.slot.reshape(1))[0]
        if self.cache.empty is not None:
            empty = self.cache.empty.repeat_interleave(self.cache.samples, dim=0)
            text = text.masked_fill(empty.unsqueeze(1), float("-inf"))
        local = (local_keys @ queries.transpose(-1, -2)).squeeze(-1) + unread  # b h stretch
        weights = torch.softmax(torch.cat([text, local], dim=-1), dim=-1, dtype=torch.float32)
        weights = weights.to(values.dtype)
        num_text = text.shape[-1]
        over_text = weights[..., :num_text].unflatten(0, (self.cache.prompts, -1)).transpose(1, 2)
        from_text = (over_text @ kept.text_values).transpose(1, 2).flatten(0, 1)  # b h d
        from_image = weights[..., None, num_text:] @ local_values  # b h 1 d
        return from_image + from_text.unsqueeze(2)


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
