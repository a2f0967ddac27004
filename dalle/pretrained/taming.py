"""VQGANs of taming-transformers and their relatives: ru-DALL·E's, with its wavelet decoder, and
minDALL-E's, which all keep taming's layout.

Source: CompVis/taming-transformers; ai-forever/ru-dalle; kakaobrain/minDALL-E.
"""

from pathlib import PurePosixPath
from typing import Any

import yaml

from dalle.pretrained.family import Converted, Sighting, Source, Weights
from dalle.pretrained.vqgan import (
    config_of,
    from_state,
    has_vqgan,
    taming_layout,
    without_prefix,
)

FAMILY = "a VQGAN of taming-transformers' kind"
LICENCE = "MIT (taming-transformers' code); none is stated for the weights"
MAX_YAML_BYTES = 1 << 20
PUBLISHED_SIZE = 256
"""Of the pictures that all published ones were trained on, in pixels."""


def recognise(source: Source) -> Sighting | None:
    """A file with the layers of a VQGAN and a codebook, and nothing that decodes text."""
    found = _find(source)
    if found is None:
        return None
    return _sighting(source, found)


def convert(source: Source) -> Converted:
    """The image tokenizer.

    Raises:
        CheckpointError: a tensor is missing, misshapen or not known.
    """
    found = _find(source)
    assert found is not None  # it was recognised
    module = from_state(
        found.state, path=found.path, family=FAMILY, image_size=_size(source, found)
    )
    return Converted(module=module, sighting=_sighting(source, found))


def _find(source: Source) -> Weights | None:
    return next((weights for weights in source.weights if has_vqgan(weights.state)), None)


def _size(source: Source, found: Weights) -> tuple[int, int]:
    size = _image_size(source, found)
    return size, size


def _sighting(source: Source, found: Weights) -> Sighting:
    state = without_prefix(found.state)
    layout = taming_layout(state, FAMILY)
    config = config_of(state, layout, path=found.path, image_size=_size(source, found))
    kind = "Gumbel-VQGAN" if config.quantizer == "gumbel" else "VQGAN"
    return Sighting(
        family="taming-transformers",
        version=f"{kind} with ru-DALL·E's wavelet decoder" if config.wavelets else kind,
        holds="image tokenizer",
        sizes={
            "picture": f"{config.image_height} x {config.image_width}",
            "cell": config.cell,
            "codes": config.num_codes,
            "channels": config.channels,
        },
        licence=LICENCE,
    )


def _image_size(source: Source, found: Weights) -> int:
    """What the .yaml beside says, if it describes this codebook; it is in no tensor."""
    shapes = {tuple(t.shape) for n, t in found.state.items() if "quantize.embed" in n}
    for name, text in source.beside.items():
        if PurePosixPath(name).suffix in (".yaml", ".yml"):
            described = _described(text)
            if described is not None and described[1:] in shapes:
                return described[0]
    return PUBLISHED_SIZE


def _described(text: bytes) -> tuple[int, int, int] | None:
    """(resolution, codes, width of a code) of a taming .yaml."""
    try:
        data: Any = yaml.safe_load(text[:MAX_YAML_BYTES])
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    for name in ("model", "params"):
        data = data.get(name) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("ddconfig"), dict):
        return None
    found = (data["ddconfig"].get("resolution"), data.get("n_embed"), data.get("embed_dim"))
    numbers = [n for n in found if isinstance(n, int) and 0 < n < 1 << 16]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
