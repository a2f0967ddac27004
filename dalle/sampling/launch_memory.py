"""What a launch holds in memory, and the largest one that there is room for."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dalle.processes import Processes
from dalle.protocols import Batch, Decoder
from dalle.sampling.decode import rounds
from dalle.sampling.launches import LaunchShape, launch_shape
from dalle.storages import Live

LARGEST = {"cuda": 512, "cpu": 64}
"""More pictures at once make none of them faster: on a GPU by the floors of its arithmetic and of
its memory, on the CPU by what stays in its cache. Elsewhere as on the CPU."""
ALWAYS = 32
"""Models in 16 bits, whose launches are as large for few pictures as for many, take so many where
no more are asked for: the pictures of small requests are then the same."""
SHARE = 0.7
"""Of the memory that is free; the rest is for decoding and scoring the launch before."""
LOGITS_AT_ONCE = 24
"""So many float32 tensors of the size of its logits is what a step holds at most for a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchMemory:
    """Bytes of launches, by what they consist of; beside the weights."""

    shared: int
    """Whatever their size; on the CPU weights that are laid out anew, too."""
    per_prompt: int
    """Keys and values of its text."""
    per_picture: int
    """Keys and values of its image slots."""
    logits: int
    """What drawing a code takes for each picture."""

    def of(self, shape: LaunchShape, *, nulls: int) -> int:
        """What a launch holds.

        Args:
            nulls: prompts without a caption, for guidance; 0 without it.
        """
        pictures = shape.size * (2 if nulls else 1)
        # A prefill of few layers needs up to twice as much again as it leaves behind.
        prompts = 3 * (shape.groups + nulls)
        each = self.per_picture + self.logits
        return self.shared + prompts * self.per_prompt + pictures * each


def launch_memory(model: Decoder) -> LaunchMemory:
    """Counted on caches for one picture and for two."""
    one, two_pictures, two_prompts = (
        _bytes_of_cache(model, prompts=p, samples=s) for p, s in ((1, 1), (1, 2), (2, 1))
    )
    per_picture = two_pictures - one
    per_prompt = two_prompts - two_pictures
    return LaunchMemory(
        shared=one - per_picture - per_prompt + _laid_out(model),
        per_prompt=per_prompt,
        per_picture=per_picture,
        logits=LOGITS_AT_ONCE * 4 * model.image_vocab,
    )


def _laid_out(model: Decoder) -> int:
    """See `weights_kept`."""
    if model.device.type != "cpu" or not isinstance(model, nn.Module):
        return 0
    return sum(parameter.nbytes for parameter in model.parameters())


def _bytes_of_cache(model: Decoder, *, prompts: int, samples: int) -> int:
    with Live(nn.Module(), Batch(tensors={}, counts={}), 1) as live:
        cache = model.new_cache(prompts=prompts, samples=samples)
    held = live.now
    del cache
    return held


def launch_in_room(
    model: Decoder, counts: Sequence[int], *, guided: bool, free: int, processes: Processes
) -> int:
    """How many pictures to sample at once, at most: the same on all processes.

    Args:
        counts: how many pictures of each prompt are wanted.
        guided: whether there are as many without a caption.
        free: bytes that this process may take.
        processes: who shares the launches: each is to have one, and the least room decides.
    """
    memory, full = launch_memory(model), rounds(model)
    pictures = max(1, sum(counts))
    most = LARGEST.get(model.device.type, LARGEST["cpu"])
    wanted = max(ALWAYS, 1 << (pictures.bit_length() - 1)) if full else most
    each = -(-pictures // processes.size)
    launch = min(most, wanted, each) if processes.size > 1 else min(most, wanted)

    def needs(launch: int) -> int:
        shape = launch_shape(counts, launch, full=full)
        # With a text for each group there is at most one without for each.
        return memory.of(shape, nulls=shape.groups if guided else 0)

    while launch > 1 and needs(launch) > SHARE * free:
        launch //= 2
    told = processes.gather_values(launch)
    least: int = processes.on_main(lambda: min(told))
    return least
