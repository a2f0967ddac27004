"""A step recorded as a CUDA graph, so that the GPU does not wait for Python at every kernel.

Never run by its authors, who had no GPU; written by the rules of torch 2.11 to 2.13 for
`torch.cuda.graph`, and what is recorded is tested on the CPU.
"""

import warnings
from collections.abc import Callable

import torch

WARM_UP = 3
"""Runs before recording, in which libraries choose kernels and take their own memory."""


def recorded(
    step: Callable[[], None], *, before: Callable[[], object]
) -> Callable[[], None] | None:
    """What plays a step on the current stream; None, with a warning, where it cannot be recorded.

    Runs the step a few times: what it changes is to be set again. All it reads and writes has to
    stay where it is for as long as it is played.

    Args:
        before: called before each run, so that a step can be run any number of times.

    Raises:
        torch.OutOfMemoryError: there is too little memory to run it.
    """
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            before()
            step()
    current.wait_stream(side)
    before()
    graph = torch.cuda.CUDAGraph()
    try:
        # Another thread may decode pictures meanwhile, and take memory: it is not to be refused.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"a step of sampling cannot be recorded as a CUDA graph ({reason}); sampling runs "
            "without, more slowly",
            stacklevel=2,
        )
        torch.cuda.synchronize()
        return None
    return graph.replay
