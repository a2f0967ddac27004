"""The `vae.pt` of DALLE-pytorch, or the same tensors within a `dalle.pt`: its discrete VAE.

Source: lucidrains/DALLE-pytorch, train_vae.py and dalle_pytorch/dalle_pytorch.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.dalle_pytorch.keys import FAMILY
from dalle.pretrained.dalle_pytorch.vae import DallePytorchVae, DallePytorchVaeConfig
from dalle.pretrained.family import (
    Converted,
    Sighting,
    Source,
    Weights,
    configured,
    fit,
)

VAE = f"a discrete VAE of {FAMILY}"

_STRIDED = re.compile(r"encoder\.\d+\.0\.(?:weight|bias)")
_DECODER = re.compile(r"decoder\.\d+\..+")
_SIZES = {
    "num_tokens": "num_codes",
    "codebook_dim": "codebook_width",
    "hidden_dim": "hidden",
    "num_layers": "layers",
    "num_resnet_blocks": "blocks",
}


def recognise(source: Source) -> Sighting | None:
    """A `vae.pt`: a codebook and strided convolutions."""
    weights = _weights(source)
    if weights is None:
        return None
    return Sighting(
        family=FAMILY,
        version="",
        holds="image tokenizer",
        sizes={"tensors": len(weights.state)},
        licence="not stated (of the code: MIT)",
    )


def convert(source: Source) -> Converted:
    """The image tokenizer in a `vae.pt`.

    Raises:
        CheckpointError: a tensor or a hyperparameter is missing, does not fit or is not known.
    """
    sighting, weights = recognise(source), _weights(source)
    assert sighting is not None and weights is not None
    fields = weights.value if isinstance(weights.value, dict) else {}
    module = convert_state(weights.state, fields.get("hparams"), path=weights.path)
    return Converted(module=module, sighting=sighting)


def convert_state(state: Mapping[str, Tensor], parameters: Any, *, path: Path) -> DallePytorchVae:
    """The image tokenizer whose tensors and hyperparameters these are.

    Args:
        state: the `weights` of a `vae.pt`, or those of a `dalle.pt` below `vae.`.
        parameters: the `hparams` of the one or the `vae_params` of the other, to whose sizes the
            tensors are held.

    Raises:
        CheckpointError: as `convert`.
    """
    values = dict(parameters) if isinstance(parameters, dict) else {}
    values.setdefault("channels", 3)  # not stored before 1.6.0
    for name in ("image_size", "channels", *_SIZES):
        if not isinstance(values.get(name), int):
            raise CheckpointError(
                f"{path}: {name} of its discrete VAE is {values.get(name)!r}; expected a whole "
                "number among its hyperparameters"
            )
    config: DallePytorchVaeConfig = configured(
        lambda: DallePytorchVaeConfig(
            image_height=values["image_size"],
            image_width=values["image_size"],
            channels=values["channels"],
            **{ours: values[theirs] for theirs, ours in _SIZES.items()},
        ),
        path=path,
        family=VAE,
    )
    module = fit(
        DallePytorchVae,
        config,
        state,
        path=path,
        family=VAE,
        theirs=lambda ours: _original(ours, config),
    )
    assert isinstance(module, DallePytorchVae)
    return module


def _weights(source: Source) -> Weights | None:
    for weights in source.weights:
        names = list(weights.state)
        if any(map(_STRIDED.fullmatch, names)) and any(map(_DECODER.fullmatch, names)):
            return weights
    return None


def _original(ours: str, config: DallePytorchVaeConfig) -> str:
    """`decoder_blocks.0.path.2.bias` to `decoder.1.net.4.bias`, by its place in their stack."""
    layers, blocks = config.layers, config.blocks
    kind, _, rest = ours.partition(".")
    number, _, parameter = rest.partition(".")
    first = int(blocks > 0)  # the decoder begins with a convolution where there are blocks
    match kind:
        case "down":
            return f"encoder.{number}.0.{parameter}"
        case "up":
            return f"decoder.{int(number) + first + blocks}.0.{parameter}"
        case "encoder_blocks" | "decoder_blocks":
            place = int(number) + (layers if kind == "encoder_blocks" else first)
            _, inner, parameter = parameter.split(".")
            return f"{kind.removesuffix('_blocks')}.{place}.net.{2 * int(inner)}.{parameter}"
        case "to_logits":
            return f"encoder.{layers + blocks}.{rest}"
        case "to_pixels":
            return f"decoder.{first + blocks + layers}.{rest}"
        case "from_codebook":
            return f"decoder.0.{rest}"
    return ours
