"""The connected parts of a picture."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Connected sets of pixels, corners counting as contact, heaviest first."""

    labels: Int[ndarray, "rows cols"]
    """The number of the part of each pixel; -1 outside all parts."""
    weights: Float[ndarray, " parts"]
    """Sum of the given weights over each part's pixels."""


def connected_parts(
    mask: Bool[ndarray, "rows cols"], weights: Float[ndarray, "rows cols"]
) -> Parts:
    """Split the pixels of `mask` into connected parts and weigh them.

    Works on runs of pixels along the rows: a picture has a few dozen of them.
    """
    rows, cols = mask.shape
    padded = np.zeros(rows * (cols + 1) + 1, np.int8)  # no run crosses the end of a row
    padded[1:].reshape(rows, cols + 1)[:, :cols] = mask
    edges = np.flatnonzero(np.diff(padded))
    starts, ends = edges[::2], edges[1::2]
    run_of_pixel = np.repeat(np.arange(len(starts)), ends - starts)
    part_of_run = _join(starts, ends, step=cols + 1)
    heaviness = np.bincount(part_of_run[run_of_pixel], weights[mask], minlength=1)
    order = np.argsort(-heaviness, kind="stable")
    labels = np.full((rows, cols), -1)
    labels[mask] = np.argsort(order)[part_of_run[run_of_pixel]]
    return Parts(labels=labels, weights=heaviness[order] if len(starts) else np.zeros(0))


def _join(
    starts: Int[ndarray, " runs"], ends: Int[ndarray, " runs"], *, step: int
) -> Int[ndarray, " runs"]:
    """The number of the part of each run, 0, 1, ... in order of appearance."""
    # run j of the row above, moved down by one row, touches run i from first[i] up to last[i]
    first = np.searchsorted(ends + step, starts, side="left").tolist()
    last = np.searchsorted(starts + step, ends, side="right").tolist()
    parent = list(range(len(starts)))
    for run in range(len(parent)):
        for above in range(first[run], last[run]):
            low, high = sorted((_root(parent, run), _root(parent, above)))
            parent[high] = low
    roots = np.array([_root(parent, run) for run in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1]


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        run = parent[run]
    return run
