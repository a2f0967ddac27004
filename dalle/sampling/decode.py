"""Prefill once for each prompt, then one position at a time.

Pictures are sampled in launches of a fixed number, short ones filled up, and picture i draws from
its own seed: it does not depend on what else is sampled with it, nor by which of several processes,
since a launch is never divided.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dalle.errors import InputError
from dalle.nn.linear import weights_kept
from dalle.protocols import Decoder
from dalle.sampling.filters import Sampling, draw_token, guide, uniform_table


@dataclass(frozen=True, slots=True)
class Sampled:
    """Pictures as codes."""

    pictures: Int[Tensor, " n"]
    """Which ones of those that were asked for, ascending."""
    codes: Int[Tensor, "n rows cols"]
    log_prob: Float[Tensor, " n"]
    """ln p(sampled codes | text) in nats, at temperature 1, unfiltered and unguided."""


@dataclass(frozen=True, slots=True)
class LaunchShape:
    """How launches are filled: with as many samples of every prompt in one as of any other."""

    prompts: int
    samples: int
    chunks: int
    """Into so many parts the samples of one prompt are cut."""

    @staticmethod
    def of(num_samples: int, launch: int) -> "LaunchShape":
        """For so many samples of each prompt, at most, and `launch` pictures at once."""
        samples = min(launch, 1 << (num_samples - 1).bit_length())
        return LaunchShape(launch // samples, samples, -(-num_samples // samples))

    def count(self, num_prompts: int) -> int:
        """How many launches there are for so many prompts."""
        return -(-num_prompts * self.chunks // self.prompts)


@dataclass(frozen=True, slots=True)
class Launch:
    """Pictures that are sampled together, ordered prompt by prompt."""

    prompts: list[int]
    pictures: list[int]
    """Index of each picture; repeated where the launch is only filled up."""


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
    launch: int = 32,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> Sampled:
    """Sample one picture for each seed, or one process's share of them.

    Args:
        texts: what the decoder reads of each prompt: ids of its text slots, or features.
        prompt_of: for each picture, the row of `texts` it shows.
        seeds: for each picture, 0 <= seed < 2^63.
        given: codes of an image prompt, for all pictures.
        keep: True for the cells that are taken from `given`; the others are sampled in raster
            order, each seeing all cells before it.
        launch: how many pictures are sampled at once.
        share: (r, n) takes every n-th launch from the r-th on: the part of process r of n.
        progress: called with the number of tokens just sampled, by all processes if each is as
            fast as this one.

    Returns:
        Codes on the CPU, in the order of `seeds`.
    """
    layout = model.layout
    if len(prompt_of) != len(seeds):
        raise InputError(f"{len(seeds)} seeds for {len(prompt_of)} pictures; expected one for each")
    if launch < 1:
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
    codes = torch.empty(len(seeds), layout.image, dtype=torch.long)
    log_prob = torch.empty(len(seeds))
    mine = list(launches(prompt_of, launch))[share[0] :: share[1]]
    pictures = torch.tensor(sorted({i for group in mine for i in group.pictures}), dtype=torch.long)
    tell = _for_everyone(progress, own=len(pictures), everyone=len(seeds))
    for group in mine:
        sampled = _sample_launch(
            model,
            texts[group.prompts],
            seeds=[seeds[i] for i in group.pictures],
            sampling=sampling,
            given=given.flatten(),
            keep=keep.flatten(),
            progress=partial(tell, len(set(group.pictures))),
        )
        codes[group.pictures] = sampled[0].cpu()
        log_prob[group.pictures] = sampled[1].cpu()
    return Sampled(pictures, codes[pictures].unflatten(1, layout.grid), log_prob[pictures])


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


def launches(prompt_of: list[int], launch: int) -> Iterator[Launch]:
    """Split pictures into launches of `launch` pictures, each with as many samples of every
    prompt in it as of any other, filling up by repetition."""
    if not prompt_of:
        return
    by_prompt: dict[int, list[int]] = {}
    for picture, prompt in enumerate(prompt_of):
        by_prompt.setdefault(prompt, []).append(picture)
    most = max(len(pictures) for pictures in by_prompt.values())
    shape = LaunchShape.of(most, launch)
    samples = shape.samples
    chunks = [
        (prompt, (pictures[i : i + samples] + [pictures[-1]] * samples)[:samples])
        for prompt, pictures in by_prompt.items()
        for i in range(0, len(pictures), samples)
    ]
    for i in range(0, len(chunks), shape.prompts):
        group = chunks[i : i + shape.prompts]
        group += [group[-1]] * (shape.prompts - len(group))
        yield Launch([prompt for prompt, _ in group], [p for _, chunk in group for p in chunk])


def _sample_launch(
    model: Decoder,
    texts: Shaped[Tensor, "prompts *slots"],
    *,
    seeds: list[int],
    sampling: Sampling,
    given: Int[Tensor, " image"],
    keep: Bool[Tensor, " image"],
    progress: Callable[[int], None],
) -> tuple[Int[Tensor, "b image"], Float[Tensor, " b"]]:
    layout, pictures = model.layout, len(seeds)
    guided = sampling.guidance != 1.0
    device = texts.device
    given, keep = given.to(device), keep.to(device)
    uniform = uniform_table(seeds, layout.image).to(device)
    known = int(keep.long().cumprod(0).sum())  # cells kept before the first one to sample
    if guided:
        texts = torch.cat([texts, model.no_caption(texts)])
    cache = model.new_cache(prompts=len(texts), samples=pictures // (len(texts) // (1 + guided)))
    model.prefill(texts, given[:known].expand(len(texts), -1), cache)

    codes = given.expand(pictures, -1).clone()
    log_prob = torch.zeros(pictures, device=device)
    last = torch.full((pictures,), model.start_of_image, device=device)
    if known:
        last = codes[:, known - 1]
    progress(known)
    with weights_kept():
        for p in range(known, layout.image):
            slot = torch.tensor(p, device=device)
            logits = model.step(last.repeat(1 + guided), slot, cache)
            conditional = logits[:pictures]
            steered = conditional
            if guided:
                steered = guide(conditional, logits[pictures:], sampling.guidance)
            drawn = draw_token(steered, uniform[p], sampling)
            last = torch.where(keep[p], codes[:, p], drawn)
            codes[:, p] = last
            chosen = torch.log_softmax(conditional, dim=-1).gather(1, last.unsqueeze(1)).squeeze(1)
            log_prob += torch.where(keep[p], 0.0, chosen)
            progress(1)
    return codes, log_prob
