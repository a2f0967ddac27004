"""What torch says when memory, data or another process is gone, in plain words."""

import contextlib
from collections.abc import Iterator

import torch

from dalle.errors import DataError, OutOfMemoryError
from dalle.processes import lost_others
from dalle.training.compiled import does_not_compile
from dalle.training.settings import TrainConfig
from dalle.training.world import World


@contextlib.contextmanager
def plain_words(config: TrainConfig, world: World) -> Iterator[None]:
    """Errors of torch that a user can do something about, in a sentence.

    Raises:
        ConfigError: torch.compile cannot do what it was asked to.
        DataError: a process that reads data died.
        OutOfMemoryError: on any device; it says what to lower.
        RankError: another process of the run has gone.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if "DataLoader worker" in text:
            raise DataError(
                f"a process that reads data died ({text.splitlines()[0]}); run the same command "
                "again, with fewer num_workers if memory was short"
            ) from error
        if config.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise does_not_compile(error) from error
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            if lost_others(error):
                raise world.lost(error) from error
            raise
        reason = text.splitlines()[0] if text else "no memory left"
        raise OutOfMemoryError(
            f"out of memory: {reason}. Raise micro_batches (now {config.micro_batches}), which "
            f"changes nothing else, or lower batch_size (now {config.batch_size}) or the model's "
            "width or depth; `dalle plan` says what a run needs"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
