"""DALL·E: discrete VAE, decoder and CLIP, from training to ranked pictures.

    model = dalle.load("runs/birds")
    pictures = model.generate("a red cube", num_samples=64, keep=8, seed=0)
    pictures[0].image.save("cube.png")

Importing loads nothing: a name is fetched from its module when it is first used, so that torch is
loaded only where it is needed. It asks the hub's library not to tell who downloads, and with what.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dalle import errors as errors
    from dalle.checkpoint import push as push
    from dalle.errors import DalleError as DalleError
    from dalle.models.clip import Clip as Clip
    from dalle.models.clip import ClipConfig as ClipConfig
    from dalle.models.dalle import Dalle as Dalle
    from dalle.models.dalle import DalleConfig as DalleConfig
    from dalle.models.dvae import Dvae as Dvae
    from dalle.models.dvae import DvaeConfig as DvaeConfig
    from dalle.sampling.load import load as load
    from dalle.sampling.output import save_results as save_results
    from dalle.sampling.picture import Picture as Picture
    from dalle.sampling.picture import read_metadata as read_metadata
    from dalle.sampling.pipeline import Pipeline as Pipeline
    from dalle.sampling.request import Request as Request
    from dalle.sampling.rerank import ClipReranker as ClipReranker
    from dalle.tokenizers.image import DvaeTokenizer as DvaeTokenizer
    from dalle.tokenizers.text import TextTokenizer as TextTokenizer

__version__ = "0.1.0"

_HOMES = {
    "Clip": "dalle.models.clip",
    "ClipConfig": "dalle.models.clip",
    "ClipReranker": "dalle.sampling.rerank",
    "Dalle": "dalle.models.dalle",
    "DalleConfig": "dalle.models.dalle",
    "DalleError": "dalle.errors",
    "Dvae": "dalle.models.dvae",
    "DvaeConfig": "dalle.models.dvae",
    "DvaeTokenizer": "dalle.tokenizers.image",
    "Picture": "dalle.sampling.picture",
    "Pipeline": "dalle.sampling.pipeline",
    "Request": "dalle.sampling.request",
    "TextTokenizer": "dalle.tokenizers.text",
    "load": "dalle.sampling.load",
    "push": "dalle.checkpoint",
    "read_metadata": "dalle.sampling.picture",
    "save_results": "dalle.sampling.output",
}

__all__ = ["__version__", "errors", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("dalle.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'dalle' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
