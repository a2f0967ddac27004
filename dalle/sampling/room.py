"""Sampling within the memory there is."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dalle.errors import OutOfMemoryError
from dalle.sampling.decode import Sampled


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What was sampled, and with how many pictures at once there was room for it."""

    sampled: Sampled
    launch: int


def sample_in_room(sample: Callable[[int], Sampled], launch: int) -> Fitted:
    """Call `sample` with a launch, and where memory runs out once more with half of it.

    Raises:
        OutOfMemoryError: half is too many, too.
    """
    smaller = max(1, launch // 2)
    for attempt in (launch, smaller):
        try:
            return Fitted(sampled=sample(attempt), launch=attempt)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # Outside of `except`: while an error is handled, its frames keep their tensors.
        if attempt == launch:
            warnings.warn(
                f"too little memory for {launch} pictures at once; trying {smaller}", stacklevel=2
            )
    raise OutOfMemoryError(
        f"too little memory to sample {smaller} pictures at once ({reason}); lower launch, or take "
        "another device or dtype"
    )


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the CPU there is no type of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
