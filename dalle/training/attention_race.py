"""Which exact form each sparse pattern runs in on a GPU: timed once, at the start of a run.

Forms agree within rounding only. So the choice is kept with every checkpoint, and a run that goes
on takes the one that it began with.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from dalle.models.image_decoder import ImageDecoder
from dalle.nn.attention import Form, dense_attention
from dalle.nn.block_sparse import block_sparse_attention, cut_into_blocks
from dalle.nn.masks import Pattern, dense_mask
from dalle.processes import Processes

BLOCKS, MASKED = "blocks", "masked"
WARM_UPS, ROUNDS = 3, 5

log = logging.getLogger(__name__)


def choose_attention(
    model: ImageDecoder,
    device: torch.device,
    processes: Processes,
    *,
    samples: int,
    dtype: torch.dtype,
    known: Mapping[str, str],
) -> dict[str, str]:
    """Let a model's sparse layers run in the form that is fastest here, on all processes the same.

    Args:
        model: in place.
        device: where it is trained; anything but a CUDA device has nothing to choose from.
        samples: of a micro-batch.
        dtype: of queries, keys and values.
        known: what was chosen when the run began, by pattern.

    Returns:
        The form of each sparse pattern.
    """
    if device.type != "cuda":
        return {}
    sparse = {_name(p): p for p in model.patterns if p.name != "full"}

    def race() -> dict[str, str]:
        head_width = model.image_embedding.embedding_dim // model.heads
        shape = (samples, model.heads, model.layout.length, head_width)
        like = torch.empty(shape, device="meta")
        return {
            name: known.get(name) or fastest(_forms(p, model, device), like.to(dtype), device)
            for name, p in sparse.items()
        }

    chosen: dict[str, str] = processes.on_main(race)
    for name, form in chosen.items():
        log.info("%s layers run as %s attention", name, form)
    model.run_by_blocks(frozenset(p for name, p in sparse.items() if chosen[name] == BLOCKS))
    return chosen


def _name(pattern: Pattern) -> str:
    return f"{pattern.name} {pattern.kernel}" if pattern.kernel else pattern.name


def _forms(pattern: Pattern, model: ImageDecoder, device: torch.device) -> dict[str, Form]:
    layout = model.layout
    return {
        MASKED: partial(dense_attention, mask=dense_mask(pattern, layout, device)),
        BLOCKS: partial(block_sparse_attention, blocks=cut_into_blocks(pattern, layout, device)),
    }


def fastest(forms: Mapping[str, Form], like: Tensor, device: torch.device) -> str:
    """The form that takes the least time forward and backward, in turns; the first one if none of
    the others runs here.

    Args:
        forms: by name.
        like: whose shape and dtype queries, keys and values have.
        device: where to run.
    """
    shape = (3, *like.shape)
    qkv = torch.randn(shape, dtype=like.dtype, device=device, requires_grad=True)
    running, least = dict(forms), dict.fromkeys(forms, float("inf"))
    for turn in range(WARM_UPS + ROUNDS):
        for name, form in list(running.items()):
            try:
                taken = _seconds(partial(_forward_and_backward, form, qkv), device)
            except Exception as error:  # compilers and kernels fail in many ways
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("%s attention does not run here: %s", name, reason)
                del running[name]
                continue
            if turn >= WARM_UPS:
                least[name] = min(least[name], taken)
    return min(least, key=least.__getitem__)


def _forward_and_backward(form: Form, qkv: Tensor) -> None:
    mixed = form(*qkv)
    torch.autograd.grad(mixed, qkv, mixed.detach())


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
