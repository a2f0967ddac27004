"""Prefill once for each prompt, then one position at a time.

Pictures are sampled in launches of a fixed number, short ones filled up, and picture i draws from
its own seed: it does not depend on what else is sampled with it, nor by which of several processes,
since a launch is never divided.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from dalle.errors import InputError
from dalle.nn.linear import weights_kept
from dalle.protocols import Decoder
from dalle.sampling.filters import Sampling, noise_table
from dalle.sampling.fixed_step import FixedSteps
from dalle.sampling.launches import Launch, LaunchShape, launch_shape, launches


@dataclass(frozen=True, slots=True)
class Sampled:
    """Pictures as codes."""

    pictures: Int[Tensor, " n"]
    """Which ones of those that were asked for, ascending."""
    codes: Int[Tensor, "n rows cols"]
    log_prob: Float[Tensor, " n"]
    """ln p(sampled codes | text) in nats, at temperature 1, unfiltered and unguided."""


@torch.inference_mode()
def sample_codes(
    model: Decoder,
    texts: Shaped[Tensor, "prompts *slots"],
    *,
    prompt_of: list[int],
    seeds: list[int],
    sampling: Sampling,
    given: Int[Tensor, "rows cols"] | None = None,
    keep: Bool[Tensor, "rows cols"] | None = None,
    launch: int | LaunchShape = 32,
    steps: FixedSteps | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
    sampled: Callable[[Sampled], None] | None = None,
) -> Sampled:
    """Sample one picture for each seed, or one process's share of them.

    Args:
        texts: what the decoder reads of each prompt: ids of its text slots, or features.
        prompt_of: for each picture, the row of `texts` it shows; ascending.
        seeds: for each picture, 0 <= seed < 2^63.
        given: codes of an image prompt, for all pictures.
        keep: True for the cells that are taken from `given`; the others are sampled in raster
            order, each seeing all cells before it.
        launch: how many pictures are sampled at once, or the very shape of launches.
        steps: keeps memory and a recorded step for later calls; None: from launch to launch.
        share: (r, n) takes every n-th launch from the r-th on: the part of process r of n.
        progress: called with the number of tokens just sampled, by all processes if each is as
            fast as this one.
        sampled: called with the pictures of each launch when it is done.

    Returns:
        Codes on the CPU, in the order of `seeds`.
    """
    layout = model.layout
    if len(prompt_of) != len(seeds):
        raise InputError(f"{len(seeds)} seeds for {len(prompt_of)} pictures; expected one for each")
    if isinstance(launch, int) and launch < 1:
        raise InputError(f"launch is {launch}; expected at least 1 picture at once")
    if (given is None) != (keep is None):
        raise InputError("an image prompt needs both its codes and the cells to keep")
    if given is None or keep is None:
        given = torch.zeros(layout.grid, dtype=torch.long)
        keep = torch.zeros(layout.grid, dtype=torch.bool)
    if tuple(given.shape) != layout.grid or tuple(keep.shape) != layout.grid:
        raise InputError(
            f"the image prompt has {tuple(given.shape)} cells; the model's grid is {layout.grid}"
        )
    shape = launch
    if isinstance(shape, int):
        shape = launch_shape(Counter(prompt_of).values(), shape, full=rounds(model))
    mine = list(launches(prompt_of, shape))[share[0] :: share[1]]
    own = sum(len(set(one.pictures)) for one in mine)
    tell = _for_everyone(progress, own=own, everyone=len(seeds))
    steps = steps or FixedSteps(record=True)
    parts = []
    for one in mine:
        step = steps.get(model, texts, shape, sampling)
        known = step.begin(
            texts[one.prompts],
            noise=noise_table([seeds[i] for i in one.pictures], layout.image),
            given=given.flatten(),
            keep=keep.flatten(),
        )
        different = len(set(one.pictures))
        tell(different, known)
        with weights_kept():
            while known < layout.image:
                went_on = step.play()
                known += went_on
                tell(different, went_on)
        parts.append(_real(one, step.codes.t().unflatten(1, layout.grid).cpu(), step.log_prob))
        if sampled is not None:
            sampled(parts[-1])
    return joined(parts, layout.grid)


def rounds(model: Decoder) -> bool:
    """Whether a model computes in 16 bits, where a picture depends on the shape of its launch."""
    if not isinstance(model, nn.Module):
        return True
    return next(model.parameters()).dtype != torch.float32


def joined(parts: list[Sampled], grid: tuple[int, int]) -> Sampled:
    """Several launches, in order, as one."""
    if not parts:
        none = torch.empty(0, dtype=torch.long)
        return Sampled(none, none.new_empty(0, *grid), torch.empty(0))
    return Sampled(
        torch.cat([part.pictures for part in parts]),
        torch.cat([part.codes for part in parts]),
        torch.cat([part.log_prob for part in parts]),
    )


def _real(
    launch: Launch, codes: Int[Tensor, "b rows cols"], log_prob: Float[Tensor, " b"]
) -> Sampled:
    """The pictures of a launch, without those that only fill it up."""
    first = {picture: place for place, picture in reversed(list(enumerate(launch.pictures)))}
    pictures = sorted(first)
    places = [first[picture] for picture in pictures]
    return Sampled(torch.tensor(pictures), codes[places], log_prob.cpu()[places])


def _for_everyone(
    progress: Callable[[int], None] | None, *, own: int, everyone: int
) -> Callable[[int, int], None]:
    """Takes slots and pictures just sampled, and tells the part of all that they are."""
    done = told = 0

    def tell(pictures: int, slots: int) -> None:
        nonlocal done, told
        done += slots * pictures
        due = done * everyone // own
        if progress is not None:
            progress(due - told)
        told = due

    return tell
