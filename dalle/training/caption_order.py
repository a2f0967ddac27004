"""Learning to write captions beside learning to draw: the rows whose picture comes first."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dalle.protocols import Batch
from dalle.training.image_tokens import summed_nll


def with_orders(batch: Batch, picture_first: Bool[Tensor, " b"]) -> Batch:
    """A batch in which each row has the targets of its own order only.

    Where the picture is first that is the caption (`caption_targets`), elsewhere the text and the
    codes (`text_targets`, `image_targets`); what is no target is -1. Counts are of each.
    """
    first = picture_first.unsqueeze(1)
    targets, codes = batch.tensors["text_targets"], batch.tensors["codes"]
    of_order = {
        "text_targets": targets.masked_fill(first, -1),
        "image_targets": codes.masked_fill(first, -1),
        "caption_targets": targets.masked_fill(~first, -1),
    }
    counts = {
        name.removesuffix("_targets"): float((tensor >= 0).sum())
        for name, tensor in of_order.items()
    }
    tensors = {**batch.tensors, **of_order, "picture_first": picture_first}
    return Batch(tensors=tensors, counts=counts)


@torch.no_grad()
def caption_losses(model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Nats per token of the captions given their pictures, and given other pictures instead.

    Each caption's other picture is that of the caption before it.
    """
    own = other = count = 0.0
    last: Tensor | None = None
    for batch in batches:
        text, codes = batch.tensors["text"], batch.tensors["codes"]
        first = torch.ones(len(text), dtype=torch.bool, device=text.device)
        targets = batch.tensors["text_targets"]
        before = torch.cat([codes[-1:] if last is None else last, codes[:-1]])
        wanted = targets.shape[1]
        for_own = model(text, codes, first, text_logits=wanted)
        for_other = model(text, before, first, text_logits=wanted)
        own += summed_nll(for_own.text, targets).item()
        other += summed_nll(for_other.text, targets).item()
        count += float((targets >= 0).sum())
        last = codes[-1:]
    return {
        "loss_caption": own / max(count, 1.0),
        "loss_caption_other_picture": other / max(count, 1.0),
    }
