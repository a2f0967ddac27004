"""Features of many pictures, computed once and kept on the disk.

    features/3f2a91c0.../about.json           what made them
    features/3f2a91c0.../000000.safetensors   of the first 512 pictures, and so on

The name is a hash of about.json: whatever changes in it gives another folder.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dalle.checkpoint.manifest import saving, write_json
from dalle.config import to_json
from dalle.data.transforms import to_float
from dalle.evaluation.networks import FeatureNetwork

FOLDER = "features"
PICTURES_PER_FILE = 512
PICTURES_AT_ONCE = 32
KEY = "features"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What features are of."""

    pictures: str
    """Which ones, in words that say everything that they depend on."""
    count: int
    network: str
    blur: float
    """Radius in pixels of Pillow's Gaussian blur."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """All features of some pictures, in their files."""

    files: tuple[Path, ...]

    def parts(self) -> Iterator[Float[Tensor, "n d"]]:
        """One file after another."""
        for path in self.files:
            yield load_file(path)[KEY]

    def whole(self) -> Float[Tensor, "n d"]:
        """All at once: 4 bytes for each entry."""
        return torch.cat(list(self.parts()))


def features_of(
    read: Callable[[int, int], list[Image.Image]],
    *,
    pictures: str,
    count: int,
    network: FeatureNetwork,
    blur: float,
    out: Path,
    progress: Callable[[int], None] = lambda n: None,
) -> Features:
    """The features of pictures 0 ... count - 1; those that are on the disk are not computed again.

    Args:
        read: the pictures from one number up to another, all of the same size.
        pictures, blur: as in `About`.
        out: the folder of the evaluation.
        progress: called with the number of pictures just done.

    Raises:
        SaveError: they cannot be written.
    """
    about = About(pictures=pictures, count=count, network=network.label, blur=blur)
    text = json.dumps(to_json(about), sort_keys=True)
    folder = out / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "about.json", to_json(about))
    files = []
    for number, start in enumerate(range(0, count, PICTURES_PER_FILE)):
        path, stop = folder / f"{number:06d}.safetensors", min(start + PICTURES_PER_FILE, count)
        if not _is_whole(path, stop - start):
            parts = [
                _features(read(first, min(first + PICTURES_AT_ONCE, stop)), network, blur)
                for first in range(start, stop, PICTURES_AT_ONCE)
            ]
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            with saving(path):
                save_file({KEY: torch.cat(parts)}, scratch)
                scratch.replace(path)
        files.append(path)
        progress(stop - start)
    return Features(files=tuple(files))


@torch.inference_mode()
def _features(
    images: list[Image.Image], network: FeatureNetwork, blur: float
) -> Float[Tensor, "n d"]:
    pixels = np.stack([np.asarray(blurred(image, blur)) for image in images])
    return network.features(to_float(torch.from_numpy(pixels))).float().cpu().contiguous()


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """The picture itself where the radius is 0."""
    return image.filter(ImageFilter.GaussianBlur(radius)) if radius else image


def _is_whole(path: Path, count: int) -> bool:
    try:
        return len(load_file(path)[KEY]) == count
    except (OSError, SafetensorError, KeyError):
        return False
