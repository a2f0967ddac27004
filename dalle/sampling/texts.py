"""Texts that a model writes: the rest of a beginning, and captions of pictures."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from dalle.errors import InputError
from dalle.models.captioning import CaptionDecoder
from dalle.nn.cache import Cache
from dalle.nn.linear import weights_kept
from dalle.protocols import TextDecoder
from dalle.sampling.filters import Sampling, draw_token, noise_table
from dalle.sampling.launches import launch_shape, launches


@torch.inference_mode()
def complete_text(
    model: TextDecoder, ids: list[int], *, seeds: list[int], sampling: Sampling
) -> list[list[int]]:
    """Go on with a text, once for each seed, until the model ends it or its slots are full.

    Args:
        ids: tokens of the beginning, without the start; cut to the slots there are.
        sampling: guidance has no meaning here and must be 1.

    Returns:
        For each seed all tokens, those given included, without start and end.
    """
    if sampling.guidance != 1.0:
        raise InputError(
            f"guidance is {sampling.guidance}; completing text has no guidance, take 1"
        )
    if not seeds:
        return []
    slots, count = model.layout.text, len(seeds)
    device = model.device
    stream = [model.start_of_text, *ids][:slots]
    known = torch.tensor(stream, device=device).expand(count, -1)
    cache = model.new_cache(prompts=count, samples=1)
    empty = known.new_empty((count, 0))
    if len(stream) > 1:
        model.prefill(known[:, :-1], empty, cache)
    known_slots = len(stream) - 1
    continued = write_tokens(
        lambda last, slot: model.text_step(last, slot, cache),
        known[:, -1],
        range(known_slots, slots - 1),
        noise=noise_table(seeds, slots).to(device),
        sampling=sampling,
        end=model.end_of_text,
    )
    return [stream[1:] + row for row in continued]


@torch.inference_mode()
def write_captions(
    model: CaptionDecoder,
    pictures: Int[Tensor, "pictures image"],
    *,
    picture_of: list[int],
    seeds: list[int],
    sampling: Sampling,
    launch: int = 32,
) -> list[list[int]]:
    """Write one caption for each seed, which depends on nothing but its seed and its picture.

    Args:
        pictures: their codes, in raster order.
        picture_of: for each caption, the row of `pictures` it describes.
        seeds: for each caption, 0 <= seed < 2^63.
        sampling: guidance has no meaning here and must be 1.
        launch: how many captions are written at once.

    Returns:
        The tokens of each caption, without its end.
    """
    if len(picture_of) != len(seeds):
        raise InputError(
            f"{len(seeds)} seeds for {len(picture_of)} captions; expected one for each"
        )
    if sampling.guidance != 1.0:
        raise InputError(f"guidance is {sampling.guidance}; captions have no guidance, take 1")
    written: list[list[int]] = [[] for _ in seeds]
    shape = launch_shape(Counter(picture_of).values(), launch, full=True)
    for group in launches(picture_of, shape):
        count = len(group.prompts)
        cache = model.new_cache(pictures=count, samples=len(group.pictures) // count)
        model.prefill(pictures[group.prompts], cache)
        mine = [seeds[i] for i in group.pictures]
        rows = write_tokens(
            partial(_caption_step, model, cache),
            torch.full((len(mine),), model.start, device=model.device),
            range(model.slots),
            noise=noise_table(mine, model.slots).to(model.device),
            sampling=sampling,
            end=model.end,
        )
        for caption, row in zip(group.pictures, rows, strict=True):
            written[caption] = row
    return written


def _caption_step(model: CaptionDecoder, cache: Cache, last: Tensor, slot: int) -> Tensor:
    return model.step(last, torch.tensor(slot, device=model.device), cache)


def write_tokens(
    step: Callable[[Tensor, int], Tensor],
    last: Int[Tensor, " n"],
    slots: range,
    *,
    noise: Int[Tensor, "slots n"],
    sampling: Sampling,
    end: int,
) -> list[list[int]]:
    """Draw token after token until all texts have ended or the slots are full.

    Args:
        step: from the tokens in a slot to the logits of those of the next one; the last of the
            vocabulary is the end.
        last: the tokens in the first of the slots.
        noise: what each slot of each text draws with.

    Returns:
        What was drawn for each text, without its end.
    """
    drawn: list[Tensor] = []
    ended = torch.zeros_like(last, dtype=torch.bool)
    with weights_kept():
        for slot in slots:
            last = draw_token(step(last, slot), noise[slot], sampling)
            drawn.append(last)
            ended = ended | (last == end)
            if bool(ended.all()):
                break
            # What an ended row goes on with is cut off below; its input must only be a token.
            last = last.clamp(max=end - 1)
    rows = torch.stack(drawn, dim=1).tolist() if drawn else [[] for _ in last]
    return [row[: row.index(end)] if end in row else row for row in rows]
