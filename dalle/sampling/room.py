"""Sampling within the memory there is."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch

from dalle.errors import OutOfMemoryError
from dalle.processes import ALONE, Processes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted(Generic[T]):
    """What was sampled, and with how many pictures at once there was room for it."""

    sampled: T
    launch: int


def sample_in_room(
    sample: Callable[[int], T], launch: int, processes: Processes = ALONE
) -> Fitted[T]:
    """Call `sample` with a launch, and where memory runs out once more with half of it.

    Where it runs out on one process, all of them take half: a launch has one shape.

    Raises:
        OutOfMemoryError: half is too many, too.
    """
    smaller = max(1, launch // 2)
    for attempt in (launch, smaller):
        tried = processes.together(partial(_try, sample, attempt))
        short = isinstance(tried, str)
        if not any(processes.sum([short])):
            assert not isinstance(tried, str)
            return Fitted(sampled=tried, launch=attempt)
        if attempt == launch:
            warnings.warn(
                f"too little memory for {launch} pictures at once; trying {smaller}", stacklevel=2
            )
    processes.agree(
        OutOfMemoryError(
            f"too little memory to sample {smaller} pictures at once ({tried}); lower launch, or "
            "take another device or dtype"
        )
        if short
        else None
    )
    raise AssertionError("no process is short of memory")


def _try(sample: Callable[[int], T], launch: int) -> T | str:
    """What was sampled, or why there is too little memory for it."""
    try:
        return sample(launch)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        # Without the error, whose frames keep their tensors.
        return str(error).splitlines()[0]


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the CPU there is no type of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
