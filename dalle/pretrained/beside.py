"""What lies in the folder of a decoder: its image tokenizer, and small files."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from torch import Tensor, nn

from dalle.models.vqgan import Vqgan
from dalle.pretrained.family import Source

TRAINED_SIZE = 256
"""Side in pixels of the pictures that image tokenizers are tried with first."""


def small_file(source: Source, ending: str) -> bytes | None:
    """The contents of the first small file whose name ends so, wherever in the folder it is."""
    names = (name for name in sorted(source.beside) if PurePosixPath(name).name.endswith(ending))
    return next((source.beside[name] for name in names), None)


def image_tokenizer(
    source: Source,
    *,
    side: int,
    is_one: Callable[[Mapping[str, Tensor]], bool],
    build: Callable[..., Vqgan],
) -> nn.Module | None:
    """The image tokenizer in a source, for pictures of `side` x `side` codes; None without one.

    Args:
        is_one: whether a state dict is one.
        build: from a state dict, with `path` and `image_size` as keywords.

    Raises:
        CheckpointError: a tensor of it is missing, misshapen or not known.
    """
    for weights in source.weights:
        if is_one(weights.state):
            size = TRAINED_SIZE
            found = build(weights.state, path=weights.path, image_size=(size, size))
            if found.grid != (side, side):
                size = TRAINED_SIZE * side // found.grid[0]
                found = build(weights.state, path=weights.path, image_size=(size, size))
            return found
    return None
