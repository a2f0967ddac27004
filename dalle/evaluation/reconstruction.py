"""How pictures survive as codes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dalle.data.transforms import to_float
from dalle.evaluation.captioned_set import CaptionedSet
from dalle.evaluation.estimates import Estimate, estimate
from dalle.evaluation.ssim import ssim
from dalle.models.dvae import psnr
from dalle.nn.quantize import CodebookUse, code_counts, codebook_use
from dalle.pictures import to_uint8
from dalle.protocols import ImageTokenizer

PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """Of each picture of a set against what its codes give back."""

    psnr: Estimate
    """In dB."""
    flat_psnr: Estimate
    """The control: every picture as one flat colour, its own mean."""
    ssim: Estimate
    flat_ssim: Estimate
    codebook: CodebookUse
    codes: Int[Tensor, "pictures rows cols"]


@torch.inference_mode()
def reconstruction(
    tokenizer: ImageTokenizer,
    chosen: CaptionedSet,
    device: torch.device,
    *,
    progress: Callable[[int], None] = lambda n: None,
) -> Reconstruction:
    """Over all pictures of a set, a few of them in memory at a time.

    Args:
        device: the tokenizer's.
        progress: called with the number of pictures just done.
    """
    height, width = tokenizer.image_size
    at_once = max(1, PIXELS_AT_ONCE // (height * width))
    found: dict[str, list[Tensor]] = {n: [] for n in ("psnr", "flat_psnr", "ssim", "flat_ssim")}
    all_codes = []
    for start in range(0, len(chosen.pictures), at_once):
        stop = min(start + at_once, len(chosen.pictures))
        crops = [chosen.crop(i, (height, width)) for i in range(start, stop)]
        images = to_float(torch.from_numpy(np.stack(crops))).to(device)
        codes = tokenizer.encode(images)
        flat = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
        for prefix, others in (("", tokenizer.decode(codes)), ("flat_", flat)):
            found[f"{prefix}psnr"].append(psnr(images, others).cpu())
            found[f"{prefix}ssim"].append(ssim(images, others).cpu())
        all_codes.append(codes.to("cpu", torch.int32))
        progress(stop - start)
    joined = torch.cat(all_codes)
    estimates = {name: estimate(torch.cat(values)) for name, values in found.items()}
    return Reconstruction(
        **estimates,
        codebook=codebook_use(code_counts(joined.long(), tokenizer.vocab_size)),
        codes=joined,
    )


@torch.inference_mode()
def reconstructed(
    tokenizer: ImageTokenizer, codes: Int[Tensor, "n rows cols"], device: torch.device
) -> list[Image.Image]:
    """Pictures from their codes, in 8 bits."""
    images = tokenizer.decode(codes.to(device, torch.long))
    return [Image.fromarray(pixels) for pixels in to_uint8(images)]
