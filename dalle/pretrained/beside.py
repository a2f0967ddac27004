"""What a decoder needs besides: its image tokenizer and small files, from its folder or the hub."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from torch import Tensor, nn

from dalle.models.vqgan import Vqgan
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.read import read

TRAINED_SIZE = 256
"""Side in pixels of the pictures that image tokenizers are tried with first."""
HubFile = tuple[str, str]
"""The name of a model on the hub, and one of its files."""


def fetched(file: HubFile) -> Path | None:
    """A file of the hub, from its cache where it is there; None where it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(*file))
    except (HfHubHTTPError, OSError, ValueError):
        return None


def lacking(what: str, file: HubFile) -> str:
    """For `Sighting.missing`: something that lies on the hub."""
    name, path = file
    return f"{what}: {path} of {name} on the hub, fetched if that can be reached, or put beside"


def small_file(source: Source, ending: str, *, on_hub: HubFile | None = None) -> bytes | None:
    """The contents of the first small file whose name ends so, wherever in the folder it is; else
    of the one on the hub."""
    names = (name for name in sorted(source.beside) if PurePosixPath(name).name.endswith(ending))
    beside = next((source.beside[name] for name in names), None)
    path = fetched(on_hub) if beside is None and on_hub is not None else None
    return beside if path is None else path.read_bytes()


def image_tokenizer(
    source: Source,
    *,
    side: int,
    is_one: Callable[[Mapping[str, Tensor]], bool],
    build: Callable[..., Vqgan],
    on_hub: HubFile | None = None,
) -> nn.Module | None:
    """The image tokenizer for pictures of `side` x `side` codes, from the folder of a decoder, else
    from the hub; None without one.

    Args:
        is_one: whether a state dict is one.
        build: from a state dict, with `path` and `image_size` as keywords.

    Raises:
        CheckpointError: a tensor of it is missing, misshapen or not known.
    """
    for weights in _candidates(source, on_hub):
        if is_one(weights.state):
            size = TRAINED_SIZE
            found = build(weights.state, path=weights.path, image_size=(size, size))
            if found.grid != (side, side):
                size = TRAINED_SIZE * side // found.grid[0]
                found = build(weights.state, path=weights.path, image_size=(size, size))
            return found
    return None


def _candidates(source: Source, on_hub: HubFile | None) -> Iterator[Weights]:
    yield from source.weights
    path = fetched(on_hub) if on_hub is not None else None
    if path is not None:
        yield from read(path).weights
