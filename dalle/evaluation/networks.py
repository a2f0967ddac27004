"""Networks whose features stand for pictures, and what tells one from another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.checkpoint.hub import download, looks_like_hub_name
from dalle.errors import InputError
from dalle.evaluation.inception_v3 import load_inception
from dalle.models.clip_transformers import TransformersReranker
from dalle.models.fingerprint import fingerprint
from dalle.protocols import Reranker
from dalle.sampling.rerank import ClipReranker, load_reranker

Encoders = ClipReranker | TransformersReranker


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureNetwork:
    """What pictures are compared by. Numbers by different ones cannot be compared."""

    name: str
    """For people: which kind, and where it came from."""
    fingerprint: str
    """Of its weights."""
    features: Callable[[Float[Tensor, "b 3 height width"]], Float[Tensor, "b d"]]
    """Of pictures in [0, 1], of any size."""
    class_logits: Callable[[Float[Tensor, "b d"]], Float[Tensor, "b classes"]] | None = None
    """For an Inception score; None where there are no classes."""

    @property
    def label(self) -> str:
        """Name and fingerprint."""
        return f"{self.name} ({self.fingerprint})"


def fingerprint_of(clip: Reranker | None) -> str | None:
    """Of a CLIP that ranks or conditions; None where there is none, or none that has weights."""
    module: Any = getattr(clip, "clip", None) or getattr(clip, "model", None)
    return fingerprint(module) if isinstance(module, nn.Module) else None


def load_encoders(where: str | Path, device: torch.device) -> Encoders:
    """A CLIP of ours, or a CLIP or SigLIP of `transformers`, as a folder or hub name."""
    loaded = load_reranker(where, device)
    assert isinstance(loaded, Encoders)
    return loaded


def clip_network(encoders: Encoders, name: str) -> FeatureNetwork:
    """The picture half of a CLIP: unit vectors."""
    found = fingerprint_of(encoders)
    assert found is not None
    return FeatureNetwork(name=f"CLIP {name}", fingerprint=found, features=encoders.encode_images)


def inception_network(where: str, device: torch.device) -> FeatureNetwork:
    """The Inception v3 of FIDs.

    Args:
        where: the file of its weights, or owner/name/file on the hub.

    Raises:
        InputError: there is no such file.
        CheckpointError: it holds something else.
    """
    path = Path(where).expanduser()
    if not path.exists():
        if not looks_like_hub_name(where):
            raise InputError(f"there is no file {where}; give the weights of Inception v3 for FIDs")
        path = download(where)
    model = load_inception(path).to(device)
    return FeatureNetwork(
        name="Inception v3 of FIDs",
        fingerprint=fingerprint(model),
        features=lambda images: model(images.to(device, torch.float32)),
        class_logits=lambda features: model.class_logits(features.to(device)).cpu(),
    )
