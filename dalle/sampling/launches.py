"""Which pictures are sampled together: launches of one shape for everything that is asked for.

A launch consists of groups, each with a few samples of one prompt, which read its text in one
product. Prompts with one sample, and what is left of those with many, share launches.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

GROUP_COST = 2
"""What one more group costs, in samples: its text is read at every step, and prefilled."""


@dataclass(frozen=True, slots=True)
class LaunchShape:
    """So many groups, and so many samples of one prompt in each."""

    groups: int
    samples: int

    @property
    def size(self) -> int:
        """How many pictures are sampled at once."""
        return self.groups * self.samples

    def count(self, counts: Iterable[int]) -> int:
        """How many launches there are for so many pictures of each prompt."""
        return -(-sum(-(-count // self.samples) for count in counts) // self.groups)


@dataclass(frozen=True, slots=True)
class Launch:
    """Pictures that are sampled together, group by group."""

    prompts: list[int]
    """Of each group."""
    pictures: list[int]
    """Repeated where a group or the launch is only filled up."""


def launch_shape(counts: Iterable[int], most: int, *, full: bool) -> LaunchShape:
    """The cheapest shape for so many pictures of each prompt.

    Args:
        most: pictures at once.
        full: launches have room for `most` pictures however few there are; or else they are all
            as short as their number allows. What a picture's numbers are rounded to depends on
            the size of its launch, which matters in 16 bits.
    """
    counts = list(counts)
    largest = max(counts, default=1)
    sizes = {1 << i for i in range(most.bit_length())} | {most}
    if not full:
        sizes |= {-(-largest // -(-largest // size)) for size in sizes}

    def shape(samples: int) -> LaunchShape:
        widest = LaunchShape(most // samples, samples)
        if full:
            return widest
        launches = max(1, widest.count(counts))
        groups = sum(-(-count // samples) for count in counts)
        return LaunchShape(max(1, -(-groups // launches)), samples)

    def cost(shape: LaunchShape) -> tuple[int, int]:
        of_one = shape.groups * (shape.samples + GROUP_COST)
        return shape.count(counts) * of_one, -shape.samples

    return min(map(shape, sizes), key=cost)


def launches(prompt_of: list[int], shape: LaunchShape) -> Iterator[Launch]:
    """All launches for pictures of these prompts, in the order of the pictures.

    Args:
        prompt_of: for each picture its prompt; pictures of a prompt stand together.
    """
    groups = _groups(prompt_of, shape.samples)
    while some := list(islice(groups, shape.groups)):
        some += [some[-1]] * (shape.groups - len(some))
        yield Launch([prompt for prompt, _ in some], [p for _, own in some for p in own])


def _groups(prompt_of: list[int], samples: int) -> Iterator[tuple[int, list[int]]]:
    """Prompts, each with so many of its pictures, the last of them filled up."""
    for prompt, numbers in groupby(range(len(prompt_of)), prompt_of.__getitem__):
        while own := list(islice(numbers, samples)):
            yield prompt, own + own[-1:] * (samples - len(own))
