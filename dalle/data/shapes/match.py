"""Which shape of which size a blot of ink is: the best of many drawn and blurred candidates."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from dalle.data.shapes.draw import cover
from dalle.data.shapes.scene import SHAPES, Shape

RADII = np.geomspace(0.095, 0.245, 14)
"""Fractions of the side, beyond both sizes on both ends and between them."""
BLURS = (0.0, 0.012, 0.024)
"""Standard deviations as fractions of the side: decoded pictures are softer than drawn ones."""
_STEPS = 4
"""Places per pixel and axis at which candidates are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The best candidate for a blot of ink."""

    shape: Shape
    fit: float
    """Overlap with the best candidate, 2 a·b / (a·a + b·b): 1 is equality."""
    lead: float
    """By how much the fit is above that of the best candidate of another shape."""
    radius: float
    """As a fraction of the side."""
    row: float
    """Of the middle of the shape, as a fraction of the side."""
    col: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidates:
    """Every shape at every radius and blur, its centre of mass at one place in a pixel."""

    pictures: Float[ndarray, "candidates pixels"]
    energies: Float[ndarray, " candidates"]


def match_shape(ink: Float[ndarray, "side side"]) -> Match:
    """Compare a blot with all candidates whose centre of mass is where its own is.

    Args:
        ink: coverage of each pixel of the picture by this one blot, about 0 to 1, some of it
            above 0.
    """
    side = len(ink)
    total = ink.sum()
    pixels = np.arange(side, dtype=np.float32) + np.float32(0.5)
    row = float(ink.sum(axis=1) @ pixels / total)
    col = float(ink.sum(axis=0) @ pixels / total)
    # nearest kept place: an eighth of a pixel away at most
    steps_down, steps_right = round(row * _STEPS), round(col * _STEPS)
    top, sub_row = divmod(steps_down, _STEPS)
    left, sub_col = divmod(steps_right, _STEPS)
    reach = _reach(side)
    window = np.zeros((2 * reach, 2 * reach), np.float32)
    rows = slice(max(0, top - reach), min(side, top + reach))
    cols = slice(max(0, left - reach), min(side, left + reach))
    window[
        rows.start - top + reach : rows.stop - top + reach,
        cols.start - left + reach : cols.stop - left + reach,
    ] = ink[rows, cols]
    candidates = _candidates(side, sub_row, sub_col)
    energy = float((ink * ink).sum())  # of all of it: what lies outside the window is misfit too
    fits = 2 * (candidates.pictures @ window.ravel()) / (candidates.energies + energy)
    return _best(fits.reshape(len(SHAPES), len(RADII), len(BLURS)), row / side, col / side)


def _best(fits: Float[ndarray, "shapes radii blurs"], row: float, col: float) -> Match:
    by_shape = fits.max(axis=(1, 2))
    order = np.argsort(-by_shape)
    shape = SHAPES[order[0]]
    radius = float(RADII[fits[order[0]].max(axis=1).argmax()])
    return Match(
        shape=shape,
        fit=float(by_shape[order[0]]),
        lead=float(by_shape[order[0]] - by_shape[order[1]]),
        radius=radius,
        row=row - _centre_of_mass(shape) * radius,
        col=col,
    )


def _reach(side: int) -> int:
    """Half the side of the window, in pixels: the largest candidate with its blur."""
    return int((1.05 * RADII[-1] + 1.5 * BLURS[-1]) * side) + 2


@cache
def _centre_of_mass(shape: Shape) -> float:
    """How far below the middle of a shape its centre of mass is, in radii; it is never beside."""
    places = np.arange(-110, 111, dtype=np.float32)
    mask = cover(shape, places, places, radius=100.0)
    return float(mask.sum(axis=1) @ places / mask.sum() / 100.0)


@lru_cache(maxsize=256)
def _candidates(side: int, sub_row: int, sub_col: int) -> _Candidates:
    reach = _reach(side)
    pixels = np.arange(-reach, reach, dtype=np.float32) + np.float32(0.5)
    blurs = [_blur_matrix(2 * reach, blur * side) for blur in BLURS]
    pictures = []
    for shape in SHAPES:
        for radius in RADII * side:
            middle = sub_row / _STEPS - _centre_of_mass(shape) * radius
            mask = cover(shape, pixels - middle, pixels - sub_col / _STEPS, radius=radius)
            pictures += [(blur @ mask @ blur.T).ravel() for blur in blurs]
    stacked = np.stack(pictures).astype(np.float32)
    return _Candidates(pictures=stacked, energies=(stacked * stacked).sum(axis=1))


def _blur_matrix(pixels: int, deviation: float) -> Float[ndarray, "{pixels} {pixels}"]:
    """Gaussian blur of one axis; ink near the ends is lost over the border."""
    if deviation == 0:
        return np.eye(pixels, dtype=np.float32)
    distance = np.arange(pixels)[:, None] - np.arange(pixels)
    kernel = np.exp(-0.5 * (distance / deviation) ** 2)
    return (kernel / kernel[pixels // 2].sum()).astype(np.float32)
