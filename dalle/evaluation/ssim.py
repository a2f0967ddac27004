"""Structural similarity of pictures."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dalle.errors import InputError

WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(
    images: Float[Tensor, "b 3 height width"], others: Float[Tensor, "b 3 height width"]
) -> Float[Tensor, " b"]:
    """The mean over all places of an 11 x 11 Gaussian window (deviation 1.5) and all channels.

    Args:
        images, others: in [0, 1]; windows lie wholly within the pictures.

    Returns:
        At most 1, which only equal pictures have.

    Raises:
        InputError: a side has fewer than 11 pixels.

    Source: Wang et al., Image Quality Assessment (2004), section III, K1 = 0.01, K2 = 0.03.
    """
    if min(images.shape[2:]) < WINDOW:
        raise InputError(
            f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels; these have "
            f"{images.shape[2]} x {images.shape[3]}"
        )
    x, y = images.double(), others.double()
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    return (above / below).mean(dim=(1, 2, 3))


def _smooth(x: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 3 places_down places_across"]:
    """The weighted mean in each window."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * DEVIATION**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, WINDOW)
    down = F.conv2d(x, weights.mT, groups=3)
    return F.conv2d(down, weights, groups=3)
