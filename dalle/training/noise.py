"""Randomness as a function of the seed, the step and the place in the batch."""

import numpy as np
import torch

INIT, PREPARE, LOSS, HELD_OUT, PREVIEW = range(5)
"""What it is for: two purposes never share numbers."""


def seed_noise(seed: int, purpose: int, *, step: int = 0, part: int = 0) -> None:
    """Seed torch's global generators.

    Args:
        seed: the run's.
        purpose: one of the above.
        step: updates done before.
        part: which micro-batch of the global batch it is for, counted over all processes, so that
            its noise is the same however many processes share the batch.
    """
    state = np.random.SeedSequence([seed, purpose, step, part]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)
