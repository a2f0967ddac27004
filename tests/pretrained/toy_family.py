"""A family whose checkpoints are our own tiny models under other names: for the tests."""

from torch import Tensor

from dalle.models.dalle import Dalle
from dalle.pretrained.family import Converted, Sighting, Source, fit
from tests.fakes import tiny_dalle, tiny_dvae, tiny_text_tokenizer


def original() -> dict[str, Tensor]:
    """What its project would have saved."""
    model = tiny_dalle(tiny_text_tokenizer())
    return {f"toy.{name}": tensor for name, tensor in model.state_dict().items()}


def recognise(source: Source) -> Sighting | None:
    """By the names of its tensors."""
    if not all(key.startswith("toy.") for key in source.weights[0].state):
        return None
    missing = () if "toy.txt" in source.beside else ("its text tokenizer: put toy.txt beside it",)
    return Sighting(
        family="Toy",
        version="2",
        holds="text to image",
        sizes={},
        licence="CC-BY-NC-SA 4.0",
        missing=missing,
    )


def convert(source: Source) -> Converted:
    """With its tokenizers."""
    text, sighting = tiny_text_tokenizer(), recognise(source)
    assert sighting is not None
    [weights] = source.weights
    module = fit(
        Dalle,
        tiny_dalle(text).config,
        weights.state,
        path=weights.path,
        family="Toy",
        theirs=lambda ours: f"toy.{ours}",
    )
    return Converted(
        module=module,
        sighting=sighting,
        text_tokenizer=None if sighting.missing else text,
        image_tokenizer=tiny_dvae(),
        sampling={"temperature": 0.5, "top_k": 3},
    )
