"""One decoding step as others do it, written out for the model of this project.

Each is an executor of attention (`dalle.nn.attention.Attend`) over a stream for every sample: the
text is repeated for each, and every key of the past is kept.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.models.dalle import Dalle
from dalle.nn.masks import dense_mask


class GrowingCache:
    """Keys and values of the past, which each step puts together with its own anew."""

    def __init__(self, model: Dalle, keys: list[Tensor], values: list[Tensor]) -> None:
        self._keys, self._values = keys, values
        slot = keys[0].shape[2]
        self._masks = [
            dense_mask(p, model.layout)[slot : slot + 1, : slot + 1] for p in model.patterns
        ]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        all_keys = torch.cat([self._keys[layer], keys], dim=2)
        all_values = torch.cat([self._values[layer], values], dim=2)
        mask = self._masks[layer]
        return F.scaled_dot_product_attention(queries, all_keys, all_values, attn_mask=mask)


class StaticCache:
    """Room for the whole stream, all of which each step reads under a mask."""

    def __init__(self, model: Dalle, keys: list[Tensor], values: list[Tensor]) -> None:
        self._slot = keys[0].shape[2]
        rest = model.layout.length - self._slot
        self._keys = [F.pad(k, (0, 0, 0, rest)) for k in keys]
        self._values = [F.pad(v, (0, 0, 0, rest)) for v in values]
        self._masks = [dense_mask(p, model.layout)[self._slot, None] for p in model.patterns]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys[:, :, self._slot] = keys[:, :, 0]
        all_values[:, :, self._slot] = values[:, :, 0]
        mask = self._masks[layer]
        return F.scaled_dot_product_attention(queries, all_keys, all_values, attn_mask=mask)


class Record:
    """Attention over the slots so far, whose keys and values are noted down."""

    def __init__(self, model: Dalle, length: int) -> None:
        self._masks = [dense_mask(p, model.layout)[:length, :length] for p in model.patterns]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.keys.append(keys.clone())
        self.values.append(values.clone())
        mask = self._masks[layer]
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
