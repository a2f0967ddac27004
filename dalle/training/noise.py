"""Randomness as a function of the seed, the step and the place in the batch."""

import numpy as np
import torch

INIT, PREPARE, LOSS, HELD_OUT, PREVIEW = range(5)
"""What it is for: two purposes never share numbers."""


def seed_noise(seed: int, purpose: int, *, step: int = 0, part: int = 0) -> None:
    """Seed torch's global generators of the host and of the device in use.

    Args:
        seed: the run's.
        purpose: one of the above.
        step: updates done before.
        part: which micro-batch of the global batch it is for, counted over all processes, so that
            its noise is the same however many processes share the batch.
    """
    state = np.random.SeedSequence([seed, purpose, step, part]).generate_state(1, np.uint64)
    value = int(state[0]) >> 1
    # torch.manual_seed would do; where no GPU is in use it formats a traceback, for 2 ms a call.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
